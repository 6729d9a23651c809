"""Looks at everything a study needs before it runs: the machine, the project, the videos, the room, the time"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echolung.core.errors import EcholungError
from echolung.doctor import machine, project, sources, workload
from echolung.doctor.findings import Examination, Finding, wrong
from echolung.settings import Settings


def examine(
    root: Path,
    study: str | None = None,
    scale: str | None = None,
    changes: Sequence[str] = (),
    *,
    deep: bool = False,
    quick: bool = False,
) -> Examination:
    """Examine the study of params.yaml, or of `study`, `scale` and `changes`, in the project at `root`.

    `deep` starts Ray as well; `quick` leaves out the expected time. The other studies of conf/ are looked at where
    none is named. Nothing is changed, and nothing raised that a study could meet: it becomes a finding.
    """
    settings, found = project.parameters(root, study, scale, changes)
    gpu = settings is not None and settings.pretrain.compute.gpu
    findings = [machine.python(), machine.packages(root), machine.ffmpeg(), *machine.processors(gpu)]
    findings += [machine.ray(deep, settings.workers if settings else 1), *machine.programs(root)]
    if settings is None:
        return Examination("", [*findings, *found])
    found += [project.tracking(root, settings), *project.running(root)]
    manifests, of_study = sources.sources(root, settings, blocks=True)
    of_study += sources.tasks(settings, manifests, blocks=True)
    of_study += sources.weights(root, settings)
    work = workload.count(root, settings, manifests)
    findings += workload.disk(root, settings, work)
    duration = None
    if not quick:
        timed, duration = _time(settings, work, any(one.stops for one in findings), machine.is_busy())
        of_study.append(timed)
    others = _others(root, settings.study) if study is None else []
    at_work = project.at_work(root, settings)
    return Examination(settings.study, [*findings, *found, *of_study, *others], duration, at_work)


def _time(
    settings: Settings, work: workload.Workload, hopeless: bool, busy: bool
) -> tuple[Finding, dict[str, Any] | None]:
    """How long the study takes; not asked on a machine that could not even draw a video."""
    group, subject = f"study {settings.study}", "time"
    if hopeless:
        return Finding(group, subject, "warning", "not measured: the machine cannot run it yet"), None
    from echolung.doctor.duration import estimate, in_words

    try:
        duration = estimate(settings, work)
    except EcholungError as error:
        return wrong(group, subject, error), None
    largest = sorted(duration["parts"].items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in largest if seconds >= 5)
    unread = [source for source in settings.ingest.sources if source not in work.videos]
    lacks = f"; without {', '.join(unread)}, which cannot be read" if unread else ""
    beside = "; measured beside other programs, which made it long" if busy else ""
    said = f"about {in_words(duration['seconds'])} from nothing ({parts}){lacks}{beside}"
    return Finding(group, subject, "warning" if unread or busy else "ok", said, f"This is {duration['of']}."), duration


def _others(root: Path, present: str) -> list[Finding]:
    """The other studies of conf/: what of their videos is there, and how to get the rest."""
    found: list[Finding] = []
    for name in project.names(root, "study"):
        if name == present:
            continue
        try:
            settings = Settings.parse(project.compose(root, study=name), f"conf/study/{name}.yaml")
        except EcholungError as error:
            found.append(wrong(f"study {name}", "parameters", error))
            continue
        manifests, of_study = sources.sources(root, settings, blocks=False)
        found += [*of_study, *sources.tasks(settings, manifests, blocks=False)]
    return found
