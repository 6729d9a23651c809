"""Findings in lung videos: regular lungs, bacterial pneumonia, COVID-19.

The patterns follow clinical scores (Volpicelli et al. 2012, doi 10.1007/s00134-012-2513-4; Soldati et al. 2020, doi
10.1002/jum.15285): A-lines below a smooth pleura; B-lines, broken pleura and small subpleural consolidations in viral
disease; a large hepatised consolidation with air bronchograms, sometimes an effusion, in bacterial pneumonia. They
overlap on purpose: some videos of sick patients look healthy, some of healthy ones show one or two B-lines. Lengths are
millimetres; positions are along the pleura from the middle of the view.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from echolung.phantom.simulator import Rng

Pattern = Literal["regular", "pneumonia", "covid"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
_HALF_VIEW = 24.0  # half of the visible pleura, approximately


@dataclass(frozen=True)
class BLine:
    """A vertical artefact from the pleura to the bottom of the image; `level` in dB above chest wall speckle."""

    position: float
    width: float  # at the pleura
    level: float


@dataclass(frozen=True)
class Consolidation:
    """Airless lung below the pleura with a number of bright air `bronchograms`."""

    position: float
    half_width: float
    depth: float
    bronchograms: int


@dataclass(frozen=True)
class LungFindings:
    """The findings in one video."""

    severity: int  # score 0..3 of Soldati et al.
    b_lines: tuple[BLine, ...] = ()
    consolidations: tuple[Consolidation, ...] = ()
    irregularity: float = 0.0  # of the pleural line: 0 smooth and thin, 1 thick and broken
    white_lung: float = 0.0  # level of coalescent B-lines, 0..1
    effusion: float = 0.0  # thickness of the fluid
    a_lines: float = 1.0  # strength of the reverberation


def draw_severity(pattern: Pattern, rng: Rng) -> int:
    """A severity score 0..3 for one video; videos of sick patients can score 0."""
    chances = {
        "regular": (0.93, 0.07, 0.0, 0.0),
        "pneumonia": (0.08, 0.08, 0.24, 0.6),
        "covid": (0.09, 0.25, 0.38, 0.28),
    }
    return int(rng.choice(4, p=chances[pattern]))


def draw_findings(pattern: Pattern, severity: int, rng: Rng) -> LungFindings:
    """Random findings for one video."""
    if severity == 0:
        count = int(rng.choice(3, p=(0.72, 0.2, 0.08)))
        return LungFindings(0, _b_lines(count, rng), irregularity=rng.uniform(0, 0.22), a_lines=rng.uniform(0.55, 1.2))
    if pattern == "pneumonia" and severity >= 2:
        return _bacterial(severity, rng)
    return _interstitial(severity, rng)


def _bacterial(severity: int, rng: Rng) -> LungFindings:
    half_width = rng.uniform(8, 13) if severity == 2 else rng.uniform(13, 27)
    position, depth = rng.uniform(-12, 12), half_width * rng.uniform(1.0, 1.8)
    main = Consolidation(position, half_width, depth, bronchograms=int(rng.integers(2, 6) * (1 + severity // 3)))
    lines, irregularity = _b_lines(int(rng.integers(0, 3)), rng), rng.uniform(0.1, 0.55)
    fluid = rng.uniform(3, 9) if rng.random() < 0.3 else 0.0
    return LungFindings(severity, lines, (main,), irregularity, effusion=fluid, a_lines=rng.uniform(0.2, 0.7))


def _interstitial(severity: int, rng: Rng) -> LungFindings:
    small = int(rng.choice(4, p=(0.25, 0.4, 0.25, 0.1))) if severity >= 2 else 0
    consolidations = tuple(
        Consolidation(rng.uniform(-_HALF_VIEW, _HALF_VIEW), half, half * rng.uniform(0.7, 1.3), int(rng.integers(0, 2)))
        for half in rng.uniform(2.5, 6.5 if severity == 2 else 9, small)
    )
    lowest, highest = {1: (1, 4), 2: (2, 6), 3: (3, 8)}[severity]
    lines = _b_lines(int(rng.integers(lowest, highest)), rng)
    irregularity = float(np.clip(rng.normal((0.0, 0.3, 0.55, 0.75)[severity], 0.15), 0, 1))
    white = rng.uniform(0.35, 1.0) if severity == 3 and rng.random() < 0.7 else 0.0
    return LungFindings(severity, lines, consolidations, irregularity, white, a_lines=rng.uniform(0.2, 1.0) / severity)


def _b_lines(count: int, rng: Rng) -> tuple[BLine, ...]:
    return tuple(
        BLine(rng.uniform(-_HALF_VIEW, _HALF_VIEW), rng.uniform(0.6, 2.4), rng.uniform(-4, 5)) for _ in range(count)
    )
