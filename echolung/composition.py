"""conf/ composed as `dvc exp run` does it, and the command for it with everything quoted for Hydra and the shell."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from echolung.core.errors import SettingsError
from echolung.core.parameters import nearest

GROUPS = ("study", "scale")  # folders of conf/; one file of each is composed


def names(root: Path, group: str) -> list[str]:
    """The studies or scales in conf/."""
    return sorted(path.stem for path in (root / "conf" / group).glob("*.yaml"))


def at_hand(root: Path) -> dict[str, str]:
    """The study and scale of params.yaml that conf/ has; `dvc exp run` keeps them unless -S names others."""
    written = _written(root)
    return {group: str(written[group]) for group in GROUPS if written.get(group) in names(root, group)}


def _written(root: Path) -> dict[str, Any]:
    """params.yaml; nothing if it holds no parameters, for `dvc exp run` writes it again."""
    try:
        values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def compose(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """What DVC would write to params.yaml for a study and a scale (those at hand for None) with `changes`, each
    KEY=VALUE, and the words of the command for it, `dvc exp run -S ...`.
    Raises SettingsError if conf/ has no such file or cannot be composed; an unknown key is for `Settings` to find."""
    named = {group: name for group, name in zip(GROUPS, (study, scale), strict=True) if name is not None}
    for group, name in named.items():
        known = names(root, group)
        if name not in known:
            hint = nearest(name, known, "Did you mean '{}'? ")
            raise SettingsError(f"conf/{group} has no '{name}'", f"{hint}It has: {', '.join(known)}.")
    chosen = at_hand(root) | named
    overrides = [quoted(change) for change in changes]
    parameters = _compose(root, [*(f"{group}={name}" for group, name in chosen.items()), *overrides])
    if (written := parameters.get("study")) != chosen.get("study", written):
        path, remedy = f"conf/study/{chosen['study']}.yaml", f"Change that line to `study: {chosen['study']}`."
        raise SettingsError(f"{path} says `study: {written}`", remedy)
    words = [*(f"{group}={name}" for group, name in named.items()), *overrides]
    return parameters, ["dvc", "exp", "run", *(part for word in words for part in ("-S", word))]


def _compose(root: Path, overrides: list[str]) -> dict[str, Any]:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str((root / "conf").absolute()), version_base=None):
            composed: Any = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise SettingsError(f"conf/ cannot be composed ({' '.join(str(error).split())[:300]})", "Correct it.") from None
    return dict(composed)


def quoted(change: str) -> str:
    """KEY=VALUE as a person types it, in Hydra's grammar: quoted where Hydra would refuse or alter the value. A leading
    `~` of the value becomes the home folder. Raises SettingsError if it is not KEY=VALUE."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, equals, value = change.partition("=")
    if key.startswith("~"):
        return change  # deletes a key
    if not equals or not key.strip():
        raise SettingsError(f"'{change}' does not set a parameter", "Write KEY=VALUE, e.g. split.seed=1")
    if key in GROUPS:
        raise SettingsError(f"'{key}' is more than a parameter", f"Write --{key} {value}")
    # conf/ leaves some keys to their default, and Hydra wants a `++` for these.
    key, value = f"++{key.lstrip('+')}", os.path.expanduser(value)
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
        read = override.value()
        kept = not isinstance(read, str) or read == value or value[:1] in ("'", '"')
        if kept and not override.is_sweep_override():
            return f"{key}={value}"
    except HydraException:
        pass
    return f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"


def edited(root: Path) -> list[str]:
    """KEY=VALUE of every value of params.yaml that conf/ composes differently; `dvc exp run` overwrites them."""
    written, composed = (_flat(values) for values in (_written(root), compose(root)[0]))
    return [f"{key}={value}" for key, value in written.items() if composed.get(key) != value]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or (place and not value):
        return {place[1:]: value}
    return {key: leaf for name, below in value.items() for key, leaf in _flat(below, f"{place}.{name}").items()}
