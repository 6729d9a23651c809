"""The project: its parameters and where they come from, the tracking store, and whether a study is running"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from echolung.core.errors import EcholungError, SettingsError
from echolung.core.parameters import known_keys
from echolung.doctor.findings import Finding, wrong
from echolung.settings import Settings, load
from echolung.stage import exit_cleanly, project_root

GROUP = "project"
CHANGED_SHOWN = 6
GROUPS = ("study", "scale")
"""Folders of conf/ from which one file each is composed."""
DEMONSTRATION = ("phantom", "demo")
"""The study and scale of `make demo`."""


def names(root: Path, group: str) -> list[str]:
    """The studies or scales that conf/ has."""
    return sorted(path.stem for path in (root / "conf" / group).glob("*.yaml"))


def compose(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """The parameters that DVC would compose; for None the defaults of conf/config.yaml.

    `changes` are as after `dvc exp run -S`: probe.epochs=40. Raises SettingsError, naming the nearest, if conf/ has no
    such study or scale.
    """
    chosen = {"study": study, "scale": scale}
    for group, name in chosen.items():
        known = names(root, group)
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingsError(f"conf/{group} has no '{name}'", f"{hint}It has: {', '.join(known)}.")
    from hydra import compose as compose_by_hydra
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [*(f"{group}={name}" for group, name in chosen.items() if name is not None), *changes]
    try:
        with initialize_config_dir(str((root / "conf").absolute()), version_base=None):
            composed = OmegaConf.to_container(compose_by_hydra("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        if changes:
            _require_keys(compose(root, study, scale), changes)
        line = " ".join(str(error).split())[:300]
        remedy = "Correct what it names, in conf/ or after -S."
        raise SettingsError(f"conf/ cannot be composed ({line})", remedy) from None
    return dict(composed)


def _require_keys(composed: dict[str, Any], changes: Sequence[str]) -> None:
    """Raise SettingsError for the first key after -S that is not composed, naming the nearest that is.

    Hydra's own advice, a plus before the key, makes a key that nothing reads; it is given where something does.
    """
    for change in changes:
        key = change.partition("=")[0]
        # Hydra judges the rest: an addition, a deletion, another file of a group.
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key) or key in GROUPS:
            continue
        parts, section = key.split("."), composed
        for depth, part in enumerate(parts):
            if isinstance(section, dict) and part in section:
                section = section[part]
                continue
            problem = f"-S {change}: {'.'.join(parts[:depth]) or 'conf/'} has no '{part}'"
            if all(parts[n] in known_keys(Settings, tuple(parts[:n])) for n in range(depth, len(parts))):
                raise SettingsError(problem, f"It is left to its default there; to set it: -S +{change}")
            there = list(section) if isinstance(section, dict) else []
            near = difflib.get_close_matches(part, there, n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingsError(problem, f"{hint}It has: {', '.join(there) or 'nothing below it'}.")


def require_demonstration(root: Path) -> None:
    """Raise SettingsError unless params.yaml is what conf/ composes for the demonstration."""
    written = load(root)
    if yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")) == compose(root, *DEMONSTRATION):
        return
    study, scale = DEMONSTRATION
    of = f"study {written.study}" if written.study != study else f"study {study}, but not scale {scale} as in conf/"
    raise SettingsError(
        f"params.yaml is not the demonstration (it is {of})",
        f"To go back to it: dvc exp run -S study={study} -S scale={scale}. To run params.yaml as it is: dvc repro",
    )


def parameters(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> tuple[Settings | None, list[Finding]]:
    """The parameters to be examined: params.yaml, or, where anything else is named, what `compose` makes of it.

    None where they are not valid.
    """
    if study is not None or scale is not None or changes:
        named = [f"{key}={value}" for key, value in (("study", study), ("scale", scale)) if value] + list(changes)
        try:
            settings = Settings.parse(compose(root, study, scale, changes), "conf/, or what follows -S")
        except SettingsError as error:
            return None, [wrong(GROUP, "parameters", error, blocks=True)]
        said = f"valid, as conf/ composes {' '.join(named)}; params.yaml stays as it is"
        remedy = f"To run it: dvc exp run {' '.join(f'-S {shlex.quote(one)}' for one in named)}"
        return settings, [Finding(GROUP, "parameters", "ok", said, remedy)]
    try:
        settings = load(root)
    except SettingsError as error:
        return None, [wrong(GROUP, "parameters", error, blocks=True)]
    return settings, [_origin(root, settings.study)]


def _origin(root: Path, study: str) -> Finding:
    """Which composition of conf/ params.yaml is, or the nearest and what differs."""
    written = _flat(yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")))
    nearest: tuple[str, list[str]] | None = None
    for scale in names(root, "scale"):
        try:
            composed = _flat(compose(root, study=study, scale=scale))
        except SettingsError as error:
            return Finding(GROUP, "parameters", "warning", f"valid, but {error.problem}", error.remedy)
        changed = [
            f"{key} = {written.get(key, 'left out')} (conf/: {composed.get(key, 'not there')})"
            for key in sorted(written.keys() | composed.keys())
            if written.get(key) != composed.get(key)
        ]
        if nearest is None or len(changed) < len(nearest[1]):
            nearest = (f"study={study} scale={scale}", changed)
    if nearest is None:
        return Finding(GROUP, "parameters", "warning", "valid, but conf/scale is empty", "git checkout conf")
    name, changed = nearest
    if not changed:
        return Finding(GROUP, "parameters", "ok", f"valid, and as conf/ composes them: {name}")
    more = f" and {len(changed) - CHANGED_SHOWN} more" if len(changed) > CHANGED_SHOWN else ""
    said = f"valid; {name}, but for {', '.join(changed[:CHANGED_SHOWN])}{more}"
    return Finding(
        GROUP, "parameters", "ok", said, "What should last belongs in conf/: `dvc exp run -S` composes anew."
    )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        inner = [_flat(below, f"{place}.{key}" if place else str(key)) for key, below in value.items()]
        return {key: leaf for one in inner for key, leaf in one.items()}
    return {place: value}


def tracking(root: Path, settings: Settings) -> Finding:
    """The tracking store: which it is, whether it opens, and whether another program holds it."""
    from echolung.tracking.store import store, where

    uri = where(root, settings.tracking)
    origin = " (MLFLOW_TRACKING_URI)" if os.environ.get("MLFLOW_TRACKING_URI") else ""
    path = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if path is not None and not path.exists():
        return Finding(GROUP, "tracking", "ok", f"{path}: the first run makes it{origin}")
    if path is not None and _held(path):
        return Finding(
            GROUP,
            "tracking",
            "warning",
            f"{path} is locked: another program is writing to it",
            "If no study is running, end what holds it (a paused `mlflow ui`, a database browser).",
        )
    try:
        store(root, settings.tracking)
    except EcholungError as error:
        return wrong(GROUP, "tracking", error, blocks=True)
    return Finding(GROUP, "tracking", "ok", f"{path or uri} opens{origin}")


def _held(path: Path) -> bool:
    """Whether another connection is writing to a database right now."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except sqlite3.DatabaseError:
        return False  # no database at all: `store` says so
    return False


def running(root: Path) -> list[Finding]:
    """Stages and DVC commands that are at work in this project."""
    found = [
        Finding(
            GROUP,
            "running",
            "warning",
            f"stage {path.stem} is at work ({holder})",
            "A second run waits for it or stops at its lock: wait for it, or stop it first.",
        )
        for path, holder in _locks(root)
    ]
    return found or [Finding(GROUP, "running", "ok", "no stage is at work")]


def at_work(root: Path, settings: Settings) -> str:
    """What is at work on this study: its stages, or between two of them the DVC that runs them; "" if nothing is."""
    names = {f"{settings.study}-{name}": name for name in settings.stages()}
    stages = [f"{names[path.stem]}, {holder}" for path, holder in _locks(root) if path.stem in names]
    return "; ".join(stages) or _dvc(root, settings.study)


def _dvc(root: Path, study: str) -> str:
    """A DVC that holds outputs of the study for writing, as it notes from before a stage starts until it has ended."""
    import psutil

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # no run's, or a damaged one
        writers = json.loads((root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))["write"]
        for path, writer in writers.items():
            if not Path(path).is_relative_to(root.absolute() / "reports" / study):
                continue
            with contextlib.suppress(psutil.Error):  # it was killed
                if "dvc" in (Path(word).name for word in psutil.Process(writer["pid"]).cmdline()[:3]):
                    return f"dvc, process {writer['pid']}"
    return ""


def _locks(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / "data" / "locks").glob("*.lock")):
        try:
            with open(path) as stream:
                holder = stream.read().strip()
                if not holder:  # a free lock is left alone: a stage that starts this moment would find it taken
                    continue
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield path, holder
        except OSError:
            continue


if __name__ == "__main__":  # make demo
    with exit_cleanly():
        require_demonstration(project_root())
