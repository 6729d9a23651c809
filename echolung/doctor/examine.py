"""Checks everything that a study needs before it runs"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from echolung.doctor import machine, project, sources
from echolung.doctor.findings import Examination


def examine(root: Path, study: str | None = None, scale: str | None = None, changes: Sequence[str] = ()) -> Examination:
    """Examine the study of params.yaml, or what conf/ composes for `study`, `scale` and `changes`; changes nothing."""
    settings, parameters = project.parameters(root, study, scale, changes)
    compute = settings.pretrain.compute if settings else None
    found = [machine.python(root), machine.ffmpeg(), machine.gpu(bool(compute and compute.gpu))]
    found += [machine.ray(), machine.folders(root), *machine.git(root), parameters]
    if settings is None:
        return Examination("", found)
    found.append(project.tracking(root, settings))
    manifests, of_sources = sources.sources(root, settings)
    return Examination(
        settings.study, [*found, *of_sources, *sources.weights(root, settings), *sources.tasks(settings, manifests)]
    )
