"""The project: its parameters and the tracking store"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from echolung import composition
from echolung.core.errors import EcholungError, SettingsError
from echolung.doctor.findings import Finding, failed
from echolung.settings import Settings, load

GROUP = "project"


def parameters(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> tuple[Settings | None, Finding]:
    """The parameters to examine: params.yaml, or what conf/ composes where anything is named. None if not valid."""
    try:
        if study is None and scale is None and not changes:
            return load(root), _origin(root)
        composed = composition.compose(root, study, scale, changes)
        settings = Settings.parse(composed.parameters, "what was set")
        named = [("--study", study), ("--scale", scale), *(("--set", change) for change in changes)]
        words = [word for option, value in named if value for word in (option, value)]
        remedy = f"To run it: {shlex.join(['echolung', 'run', *words])}"
        said = f"study {settings.study} at scale {settings.scale}: valid"
        return settings, Finding(GROUP, "parameters", "ok", said, remedy)
    except SettingsError as error:
        return None, failed(GROUP, "parameters", error)


def _origin(root: Path) -> Finding:
    """Which study and scale params.yaml is, and what was edited by hand."""
    name = " ".join(f"{group}={value}" for group, value in composition.at_hand(root).items()) or "not of conf/"
    try:
        edited = composition.edited(root)
    except SettingsError as error:
        return Finding(GROUP, "parameters", "warning", f"params.yaml is valid, but {error.problem}", error.remedy)
    if not edited:
        return Finding(GROUP, "parameters", "ok", f"params.yaml: {name}")
    said = f"params.yaml: {name}, edited: {', '.join(edited)}"
    remedy = "`dvc repro` uses the edits. `dvc exp run` drops them: write them into conf/, or repeat them with -S."
    return Finding(GROUP, "parameters", "ok", said, remedy)


def tracking(root: Path, settings: Settings) -> Finding:
    """The tracking store: that it opens, and belongs to this folder."""
    from echolung.tracking.store import store, where

    uri = where(root, settings.tracking)
    origin = " (MLFLOW_TRACKING_URI)" if os.environ.get("MLFLOW_TRACKING_URI") else ""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return Finding(GROUP, "tracking", "ok", f"{uri}: created by the first run{origin}")
    try:
        store(root, settings.tracking)
    except EcholungError as error:
        return failed(GROUP, "tracking", error)
    return Finding(GROUP, "tracking", "ok", f"{uri}{origin}")
