"""Who is in a phantom data set and what each video shows, decided before anything is drawn.

A plan names one video and holds all that drawing it needs, so that any process can draw any of them, in any order, to
the same frames. Plans depend on the settings' seed alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from echolung.core.runtime import derived_seed
from echolung.phantom.demographics import Child, draw_child
from echolung.phantom.findings import PATTERNS, LungFindings, Pattern, draw_findings, draw_severity
from echolung.phantom.heart import VIEWS, View
from echolung.phantom.lung import LungPatient
from echolung.phantom.settings import Layout, PhantomSettings

Codec = Literal["mpeg4", "mpeg2video", "gif"]  # every build of FFmpeg can write these; x264 is left out of some


@dataclass(frozen=True)
class Source:
    """Where videos come from: nothing to do with the lung, and all too often with the label."""

    name: str
    suffix: str
    codec: Codec
    fps: float
    scale: float  # of the frame's height
    aspect: float  # width over height


SOURCES = (
    Source("atlas", ".gif", "gif", 20, 0.85, 1.0),
    Source("ward", ".mp4", "mpeg4", 30, 1.0, 1.0),
    Source("emergency", ".avi", "mpeg4", 24, 1.15, 1.25),
    Source("clinic", ".mov", "mpeg4", 25, 1.0, 1.1),
    Source("volunteers", ".mpeg", "mpeg2video", 25, 1.1, 1.0),
)
_TIED: dict[Pattern, Source] = {"covid": SOURCES[3], "pneumonia": SOURCES[2], "regular": SOURCES[4]}
_PREFIXES: dict[Pattern, str] = {"covid": "Cov", "pneumonia": "Pneu", "regular": "Reg"}
_POCUS_SHARES: dict[Pattern, float] = {"covid": 0.3, "pneumonia": 0.34, "regular": 0.36}
_UNTRACED: dict[int, Literal["No Systolic", "No Diastolic"]] = {5: "No Systolic", 14: "No Diastolic"}  # of every 16
_POINTS = ("L1", "L2", "L3", "R1", "R2", "R3")


@dataclass(frozen=True)
class HeartPlan:
    """One video of a heart."""

    file: str  # below the data set's root
    patient: str
    split: str
    view: View
    ejection_fraction: float
    frames: int
    fps: float
    size: int
    seed: int
    child: Child | None = None
    untraced: Literal["", "No Systolic", "No Diastolic"] = ""  # which of the two tracings is missing


@dataclass(frozen=True)
class LungPlan:
    """One video of a lung; `diagnosis` and the PCR test's result are the patient's, the findings are this video's."""

    file: str
    patient: str
    diagnosis: Pattern
    positive: bool
    source: Source
    findings: LungFindings
    anatomy: LungPatient
    codec: Codec
    frames: int
    height: int
    width: int
    seed: int


Plan = HeartPlan | LungPlan


def plan(settings: PhantomSettings) -> list[Plan]:
    """The videos of a data set, in the order of their patients."""
    layouts: dict[Layout, Callable[[PhantomSettings], Sequence[Plan]]] = {
        "echonet": _hearts,
        "echonet_pediatric": _children,
        "pocus": _pocus,
        "covid_blues": _covid_blues,
    }
    return list(layouts[settings.layout](settings))


def _hearts(settings: PhantomSettings) -> list[HeartPlan]:
    plans = []
    for number in range(settings.patients):
        rng = seeded(settings.seed, settings.layout, number)
        ef = _ejection_fraction(rng, weak=0.25)
        name = "0X" + hashlib.sha256(f"{settings.seed}/{number}".encode()).hexdigest()[:16].upper()
        split = "TRAIN" if number % 8 < 6 else ("VAL", "TEST")[number % 2]
        seed = derived_seed(settings.seed, "heart", number)
        frames = _frames(settings, rng)
        plans.append(HeartPlan(f"Videos/{name}.avi", name, split, "a4c", ef, frames, settings.fps, settings.size, seed))
    return plans


def _children(settings: PhantomSettings) -> list[HeartPlan]:
    """One examination of each child, one video of it in each view; the hearts are as large as an adult's."""
    plans: list[HeartPlan] = []
    for number in range(settings.patients):
        rng = seeded(settings.seed, settings.layout, number)
        ef, child = _ejection_fraction(rng, weak=0.12), draw_child(rng)
        name = hashlib.sha256(f"{settings.seed}/child/{number}".encode()).hexdigest()
        patient, examination = f"CR{name[:7]}", f"CR{name[7:14]}"
        for view in VIEWS:
            instance = 2 * int(rng.integers(50)) + VIEWS.index(view)
            plan = HeartPlan(
                file=f"{view.upper()}/Videos/{patient}-{examination}-{instance:06d}.avi",
                patient=patient,
                split=str(number % 10),
                view=view,
                ejection_fraction=ef,
                frames=_frames(settings, rng),
                fps=settings.fps,
                size=settings.size,
                seed=derived_seed(settings.seed, "child", number),
                child=child,
                untraced=_UNTRACED.get(len(plans) % 16, ""),
            )
            plans.append(plan)
    return plans


def _ejection_fraction(rng: np.random.Generator, weak: float) -> float:
    """As in a hospital: most hearts eject 55-70 percent; a share of `weak` ones reaches down to 15."""
    if rng.random() < weak:
        return float(np.clip(rng.normal(36, 9), 15, 52))
    return float(np.clip(rng.normal(61, 6), 45, 78))


def _pocus(settings: PhantomSettings) -> list[LungPlan]:
    plans: list[LungPlan] = []
    counts = _apportion(settings.patients, _POCUS_SHARES)
    for number in range(settings.patients):
        rng = seeded(settings.seed, settings.layout, number)
        diagnosis = counts[number]
        source = draw_source(diagnosis, settings.nuisance_tied_to_label, rng)
        anatomy = LungPatient.draw(rng)
        extra = (0, 1, -1)[number % 3] if settings.videos_per_patient > 1 else 0
        for video in range(settings.videos_per_patient + extra):
            prefix, suffix = _PREFIXES[diagnosis], source.suffix
            if diagnosis == "pneumonia" and not any(p.file.startswith("convex/pneu") for p in plans):
                prefix = "pneu"  # the public set has one such name, and one such suffix
            if suffix == ".mp4" and not any(p.file.endswith(".MP4") for p in plans):
                suffix = ".MP4"
            file = f"convex/{prefix}_phantom-{source.name}_pat{number + 1}_vid{video + 1}{suffix}"
            positive = diagnosis == "covid"
            plans.append(_lung(settings, file, str(number + 1), diagnosis, positive, source, anatomy, rng))
    return plans


def _covid_blues(settings: PhantomSettings) -> list[LungPlan]:
    plans: list[LungPlan] = []
    for number in range(settings.patients):
        rng = seeded(settings.seed, settings.layout, number)
        positive = number % 2 == 0
        # The test tells the virus, not the lung: some with it breathe well, some without it are ill of something else.
        shares = (0.22, 0.0, 0.78) if positive else (0.82, 0.11, 0.07)
        diagnosis: Pattern = ("regular", "pneumonia", "covid")[rng.choice(3, p=shares)]
        source = draw_source("covid" if positive else "regular", settings.nuisance_tied_to_label, rng)
        anatomy = LungPatient.draw(rng)
        points = sorted(rng.choice(_POINTS, settings.videos_per_patient, replace=False))
        if len(points) > 1 and rng.random() < 0.15:  # a point filmed twice in place of another
            points[-1] = f"{points[0]}_2"
        for point in points:
            file = f"lus_videos/patient_{number + 1}_{point}.mp4"
            plans.append(_lung(settings, file, str(number + 1), diagnosis, positive, source, anatomy, rng))
    return plans


def _lung(
    settings: PhantomSettings,
    file: str,
    patient: str,
    diagnosis: Pattern,
    positive: bool,
    source: Source,
    anatomy: LungPatient,
    rng: np.random.Generator,
) -> LungPlan:
    height = 2 * round(settings.size * source.scale / 2)  # codecs that halve the colour want even sizes
    return LungPlan(
        file=file,
        patient=patient,
        diagnosis=diagnosis,
        positive=positive,
        source=source,
        findings=draw_findings(diagnosis, draw_severity(diagnosis, rng), rng),
        anatomy=anatomy,
        codec="mpeg4" if file.endswith(".mp4") else source.codec,
        frames=_frames(settings, rng),
        height=height,
        width=2 * round(height * source.aspect / 2),
        seed=derived_seed(settings.seed, settings.layout, file),
    )


def draw_source(diagnosis: Pattern, tied: float, rng: np.random.Generator) -> Source:
    """A patient's source: with probability `tied` the one that goes with the diagnosis, otherwise any."""
    bound, free = rng.random() < tied, SOURCES[rng.integers(len(SOURCES))]
    return _TIED[diagnosis] if bound else free


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on all parts, and on nothing else."""
    return np.random.default_rng(derived_seed(*parts))


def _frames(settings: PhantomSettings, rng: np.random.Generator) -> int:
    return max(8, round(settings.frames * rng.uniform(0.8, 1.2)))


def _apportion(total: int, shares: dict[Pattern, float]) -> list[Pattern]:
    """`total` diagnoses whose counts follow the shares as closely as whole numbers can, evenly mixed."""
    given: dict[Pattern, int] = dict.fromkeys(PATTERNS, 0)
    order: list[Pattern] = []
    for done in range(total):
        chosen = max(PATTERNS, key=lambda pattern: shares[pattern] * (done + 1) - given[pattern])
        given[chosen] += 1
        order.append(chosen)
    return order
