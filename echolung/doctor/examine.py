"""Checks everything that a study needs before it runs"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from echolung import composition
from echolung.core.errors import SettingsError
from echolung.doctor import machine, sources
from echolung.doctor.findings import Finding
from echolung.settings import Settings, load


def examine(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> tuple[str, list[Finding]]:
    """Name and findings of the study of params.yaml, or of what conf/ composes; "" if the parameters are not valid."""
    settings, found = parameters(root, study, scale, changes)
    gpu = settings is not None and settings.pretrain.compute.gpu
    findings = [machine.python(root), machine.ffmpeg(), machine.gpu(gpu), machine.ray()]
    findings += [machine.folders(root), *machine.git(root), found]
    if settings is None:
        return "", findings
    manifests, of_sources = sources.sources(root, settings)
    findings += [*of_sources, *sources.weights(root, settings), *sources.tasks(settings, manifests)]
    return settings.study, findings


def parameters(
    root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()
) -> tuple[Settings | None, Finding]:
    """The parameters to examine: params.yaml, or what conf/ composes where anything is named. None if not valid."""
    try:
        if study is None and scale is None and not changes:
            name = " ".join(f"{group}={value}" for group, value in composition.at_hand(root).items()) or "not of conf/"
            return load(root), Finding("parameters", "ok", f"params.yaml: {name}")
        composed, _ = composition.compose(root, study, scale, changes)
        settings = Settings.parse(composed, "what was set")
        named = [("--study", study), ("--scale", scale), *(("--set", change) for change in changes)]
        words = [word for option, value in named if value for word in (option, value)]
        remedy = f"To run it: {shlex.join(['echolung', 'run', *words])}"
        said = f"study {settings.study} at scale {settings.scale}: valid"
        return settings, Finding("parameters", "ok", said, remedy)
    except SettingsError as error:
        return None, Finding("parameters", "error", error.problem, error.remedy)
