"""conf/ composed as `dvc exp run` does it, and the command for it with everything quoted for Hydra and the shell."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from echolung.core.errors import SettingsError
from echolung.stage import exit_cleanly, project_root

GROUPS = ("study", "scale")
"""Folders of conf/; one file of each is composed."""


@dataclass(frozen=True)
class Composition:
    """What DVC would write to params.yaml."""

    parameters: dict[str, Any]
    command: tuple[str, ...]
    """`dvc exp run -S ...`, word by word."""


def names(root: Path, group: str) -> list[str]:
    """The studies or scales in conf/."""
    return sorted(path.stem for path in (root / "conf" / group).glob("*.yaml"))


def at_hand(root: Path) -> dict[str, str]:
    """The study and scale of params.yaml that conf/ has; `dvc exp run` keeps them unless -S names others."""
    try:
        written = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    chosen = {group: written.get(group) for group in GROUPS} if isinstance(written, dict) else {}
    return {group: str(name) for group, name in chosen.items() if name in names(root, group)}


def compose(root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()) -> Composition:
    """Compose a study and a scale (those at hand for None) with `changes`, each KEY=VALUE.

    Raises SettingsError if conf/ has no such file or cannot be composed; an unknown key is for `Settings` to find.
    """
    named = {group: name for group, name in zip(GROUPS, (study, scale), strict=True) if name is not None}
    for group, name in named.items():
        known = names(root, group)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingsError(f"conf/{group} has no '{name}'", f"{hint}It has: {', '.join(known)}.")
    chosen = at_hand(root) | named
    files = [f"{group}={name}" for group, name in chosen.items()]
    parameters = _compose(root, files)
    if chosen.get("study", parameters.get("study")) != parameters.get("study"):
        path = f"conf/study/{chosen['study']}.yaml"
        remedy = f"Change that line to `study: {chosen['study']}`."
        raise SettingsError(f"{path} says `study: {parameters.get('study')}`", remedy)
    overrides = [_addition(parameters, quoted(change)) for change in changes]
    words = [f"{group}={name}" for group, name in named.items()] + overrides
    command = ("dvc", "exp", "run", *(word for override in words for word in ("-S", override)))
    return Composition(_compose(root, [*files, *overrides]) if overrides else parameters, command)


def _compose(root: Path, overrides: list[str]) -> dict[str, Any]:
    from hydra import compose as compose_by_hydra
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str((root / "conf").absolute()), version_base=None):
            composed: Any = OmegaConf.to_container(compose_by_hydra("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise SettingsError(f"conf/ cannot be composed ({' '.join(str(error).split())[:300]})", "Correct it.") from None
    return dict(composed)


def quoted(change: str) -> str:
    """KEY=VALUE as a person types it, in Hydra's grammar: quoted where Hydra would refuse or alter the value.

    A leading `~` of the value becomes the home folder. Raises SettingsError if it is not KEY=VALUE.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, equals, value = change.partition("=")
    if key.startswith("~"):
        return change  # deletes a key
    if not equals or not key.strip():
        raise SettingsError(f"'{change}' does not set a parameter", "Write KEY=VALUE, e.g. split.seed=1")
    value = os.path.expanduser(value)
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        pass
    else:
        read = override.value()
        kept = not isinstance(read, str) or read == value or value[:1] in ("'", '"')
        if kept and not override.is_sweep_override():
            return f"{key}={value}"
    return f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"


def _addition(parameters: dict[str, Any], override: str) -> str:
    """The override, with the `++` that Hydra wants for a key that conf/ leaves to its default."""
    section: Any = parameters
    key = override.partition("=")[0]
    if key.startswith(("~", "+")) or key in GROUPS:
        return override
    for part in key.split("."):
        if not isinstance(section, dict) or part not in section:
            return f"++{override}"
        section = section[part]
    return override


def edited(root: Path) -> list[str]:
    """KEY=VALUE of every value of params.yaml that conf/ composes differently; `dvc exp run` overwrites them."""
    written = _flat(yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")))
    composed = _flat(compose(root).parameters)
    return [f"{key}={value}" for key, value in written.items() if composed.get(key) != value]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        inner = [_flat(below, f"{place}.{key}" if place else str(key)) for key, below in value.items()]
        return {key: leaf for one in inner for key, leaf in one.items()}
    return {place: value}


def require_demonstration(root: Path) -> None:
    """Raise SettingsError unless params.yaml is the study `phantom` at the scale `demo`, as conf/ has it."""
    chosen = at_hand(root)
    if chosen == {"study": "phantom", "scale": "demo"} and not edited(root):
        return
    name = " ".join(f"{group}={value}" for group, value in chosen.items())
    raise SettingsError(
        f"params.yaml is not the demonstration (it is {name or 'not of conf/'}, perhaps edited)",
        "For the demonstration: echolung run --study phantom --scale demo. For params.yaml as it is: dvc repro",
    )


if __name__ == "__main__":  # make demo
    with exit_cleanly():
        require_demonstration(project_root())
