"""The patients and videos of a phantom data set, planned before anything is drawn.

A plan holds all that is needed to draw one video, so any process draws the same frames. Settings determine the plans.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echolung.core.runtime import derived_seed
from echolung.phantom.findings import PATTERNS, LungFindings, Pattern, draw_findings, draw_severity
from echolung.phantom.heart import View
from echolung.phantom.lung import LungPatient
from echolung.phantom.settings import Layout, PhantomSettings
from echolung.phantom.simulator import Rng


@dataclass(frozen=True)
class Source:
    """Where a video comes from: unrelated to the lung, but in real data often correlated with the label."""

    name: str
    suffix: str
    fps: float
    scale: float  # frame height relative to the data set's `size`
    aspect: float  # width over height


SOURCES = (
    Source("atlas", ".gif", 20, 0.85, 1.0),
    Source("ward", ".mp4", 30, 1.0, 1.0),
    Source("emergency", ".avi", 24, 1.15, 1.25),
    Source("clinic", ".mov", 25, 1.0, 1.1),
    Source("volunteers", ".mpeg", 25, 1.1, 1.0),
)
_TIED: dict[Pattern, Source] = {"covid": SOURCES[3], "pneumonia": SOURCES[2], "regular": SOURCES[4]}
_PREFIXES: dict[Pattern, str] = {"covid": "Cov", "pneumonia": "Pneu", "regular": "Reg"}
_POCUS_SHARES: dict[Pattern, float] = {"covid": 0.3, "pneumonia": 0.34, "regular": 0.36}
_UNTRACED = {5: "No Systolic", 14: "No Diastolic"}  # of every 16
CHILD_VIEWS: tuple[View, ...] = ("a4c", "psax")
APICAL_VIEWS: tuple[View, ...] = ("a2c", "a4c")
_POINTS = ("L1", "L2", "L3", "R1", "R2", "R3")


@dataclass(frozen=True)
class HeartPlan:
    """One video of a heart."""

    frames: int
    fps: float
    size: int
    noise: float  # see `PhantomSettings`
    file: str  # relative to the root of the data set
    patient: str
    split: str
    view: View
    ejection_fraction: float
    seed: int
    child: dict[str, Any] | None = None  # see `_draw_child`
    untraced: str = ""  # the tracing that is missing: No Systolic or No Diastolic
    still_wall: int = 0  # see `Ventricle`


@dataclass(frozen=True)
class LungPlan:
    """One video of a lung; diagnosis and PCR result (`positive`) belong to the patient, findings to the video."""

    file: str
    patient: str
    diagnosis: Pattern
    positive: bool
    source: Source
    anatomy: LungPatient
    findings: LungFindings
    frames: int
    size: tuple[int, int]  # height, width
    seed: int


Plan = HeartPlan | LungPlan


def plan(settings: PhantomSettings) -> list[Plan]:
    """The videos of a data set, sorted by patient."""
    plans: list[Plan] = []
    layouts: dict[Layout, Callable[[PhantomSettings, Rng, int], Sequence[Plan]]] = {
        "echonet": _adult,
        "echonet_pediatric": _child,
        "camus": _two_views,
        "pocus": functools.partial(_pocus, earlier=plans),
        "covid_blues": _covid_blues,
    }
    for number in range(settings.patients):
        rng = np.random.default_rng(derived_seed(settings.seed, settings.layout, number))
        plans += layouts[settings.layout](settings, rng, number)
    return plans


def _adult(settings: PhantomSettings, rng: Rng, number: int) -> list[HeartPlan]:
    ef = _ejection_fraction(rng, weak=0.25)
    name = "0X" + hashlib.sha256(f"{settings.seed}/{number}".encode()).hexdigest()[:16].upper()
    seed = derived_seed(settings.seed, "heart", number)
    return [_heart(settings, rng, f"Videos/{name}.avi", name, _split(number), "a4c", ef, seed)]


def _child(settings: PhantomSettings, rng: Rng, number: int) -> list[HeartPlan]:
    """One examination with one video per view. Hearts have adult sizes."""
    ef, facts, plans = _ejection_fraction(rng, weak=0.12), _draw_child(rng), []
    name = hashlib.sha256(f"{settings.seed}/child/{number}".encode()).hexdigest()
    patient, examination = f"CR{name[:7]}", f"CR{name[7:14]}"
    seed = derived_seed(settings.seed, "child", number)
    for index, view in enumerate(CHILD_VIEWS):
        instance = 2 * int(rng.integers(50)) + index
        file = f"{view.upper()}/Videos/{patient}-{examination}-{instance:06d}.avi"
        untraced = _UNTRACED.get((2 * number + index) % 16, "")
        plans.append(_heart(settings, rng, file, patient, str(number % 10), view, ef, seed, facts, untraced))
    return plans


def _two_views(settings: PhantomSettings, rng: Rng, number: int) -> list[HeartPlan]:
    """One heart in both apical views."""
    ef, name = _ejection_fraction(rng, weak=0.25), f"patient{number + 1:04d}"
    still = int(rng.choice((-1, 1))) if rng.random() < settings.still_walls else 0
    seed, split = derived_seed(settings.seed, "camus", number), _split(number)
    files = {view: f"database_nifti/{name}/{name}_{view[1]}CH_half_sequence.nii.gz" for view in APICAL_VIEWS}
    return [_heart(settings, rng, file, name, split, view, ef, seed, None, "", still) for view, file in files.items()]


def _split(number: int) -> str:
    return "TRAIN" if number % 8 < 6 else ("VAL", "TEST")[number % 2]


def _heart(settings: PhantomSettings, rng: Rng, *fields: Any) -> HeartPlan:
    return HeartPlan(_frames(settings, rng), settings.fps, settings.size, settings.noise, *fields)


def _draw_child(rng: Rng) -> dict[str, Any]:
    """A child of 0 to 18 years: sex, completed years, kg (as paediatric life support estimates it), cm; gaps occur."""
    years = rng.uniform(0, 18.99)
    weight = (4 + 6 * years if years < 1 else 2 * years + 8 if years < 6 else 3 * years + 7) * rng.uniform(0.8, 1.25)
    height = (50 + 25 * years if years < 1 else min(75 + 6.2 * (years - 1), 172)) * rng.uniform(0.94, 1.06)
    return {
        "Sex": "FM"[rng.integers(2)],
        "Age": int(years),
        "Weight": None if rng.random() < 0.05 else round(weight, 1),
        "Height": None if rng.random() < 0.05 else round(height, 1),
    }


def _ejection_fraction(rng: Rng, weak: float) -> float:
    """Percent, distributed as in a hospital: mostly 55-70; a share `weak` of the hearts goes down to 15."""
    if rng.random() < weak:
        return float(np.clip(rng.normal(36, 9), 15, 52))
    return float(np.clip(rng.normal(61, 6), 45, 78))


def _pocus(settings: PhantomSettings, rng: Rng, number: int, earlier: list[Plan]) -> list[LungPlan]:
    diagnosis = _diagnoses(settings.patients)[number]
    source = _source(settings, diagnosis, rng)
    patient: dict[str, Any] = {"patient": str(number + 1), "diagnosis": diagnosis, "positive": diagnosis == "covid"}
    patient |= {"source": source, "anatomy": LungPatient.draw(rng, settings.noise)}
    plans = []
    extra = (0, 1, -1)[number % 3] if settings.videos_per_patient > 1 else 0
    for video in range(settings.videos_per_patient + extra):
        prefix, suffix = _PREFIXES[diagnosis], source.suffix
        if video == 0 and diagnosis == "pneumonia" and not any(p.file.startswith("convex/pneu") for p in earlier):
            prefix = "pneu"  # the public set has one such name and one such suffix
        if video == 0 and suffix == ".mp4" and not any(p.file.endswith(".MP4") for p in earlier):
            suffix = ".MP4"
        file = f"convex/{prefix}_phantom-{source.name}_pat{number + 1}_vid{video + 1}{suffix}"
        plans.append(_lung(settings, rng, file, **patient))
    return plans


def _covid_blues(settings: PhantomSettings, rng: Rng, number: int) -> list[LungPlan]:
    positive = number % 2 == 0
    # The PCR test detects the virus, not lung disease: some positive lungs are healthy, some negative ones are not.
    shares = (0.22, 0.0, 0.78) if positive else (0.82, 0.11, 0.07)
    diagnosis: Pattern = ("regular", "pneumonia", "covid")[rng.choice(3, p=shares)]
    source = _source(settings, "covid" if positive else "regular", rng)
    patient: dict[str, Any] = {"patient": str(number + 1), "diagnosis": diagnosis, "positive": positive}
    patient |= {"source": source, "anatomy": LungPatient.draw(rng, settings.noise)}
    points = sorted(rng.choice(_POINTS, settings.videos_per_patient, replace=False))
    if len(points) > 1 and rng.random() < 0.15:  # one point recorded twice instead of another
        points[-1] = f"{points[0]}_2"
    return [_lung(settings, rng, f"lus_videos/patient_{number + 1}_{point}.mp4", **patient) for point in points]


def _lung(settings: PhantomSettings, rng: Rng, file: str, **patient: Any) -> LungPlan:
    source, diagnosis = patient["source"], patient["diagnosis"]
    height = 2 * round(settings.size * source.scale / 2)  # chroma subsampling needs even sizes
    size, seed = (height, 2 * round(height * source.aspect / 2)), derived_seed(settings.seed, settings.layout, file)
    findings, frames = draw_findings(diagnosis, draw_severity(diagnosis, rng), rng), _frames(settings, rng)
    return LungPlan(file=file, findings=findings, frames=frames, size=size, seed=seed, **patient)


def _source(settings: PhantomSettings, diagnosis: Pattern, rng: Rng) -> Source:
    """A patient's source: the one tied to the diagnosis, or a random one."""
    bound, free = rng.random() < settings.nuisance_tied_to_label, SOURCES[rng.integers(len(SOURCES))]
    return _TIED[diagnosis] if bound else free


def _frames(settings: PhantomSettings, rng: Rng) -> int:
    return max(8, round(settings.frames * rng.uniform(0.8, 1.2)))


@functools.cache
def _diagnoses(total: int) -> list[Pattern]:
    """`total` diagnoses in the shares of the public set, evenly mixed."""
    order: list[Pattern] = []
    given = dict.fromkeys(PATTERNS, 0)
    for done in range(1, total + 1):
        order.append(max(PATTERNS, key=lambda pattern: _POCUS_SHARES[pattern] * done - given[pattern]))
        given[order[-1]] += 1
    return order
