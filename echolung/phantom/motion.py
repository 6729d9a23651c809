"""How a heart moves, independent of the view: the beat of its left ventricle in closed form, and the breath.

The ventricle is an ellipsoid cut at the mitral plane: each section across its axis is an ellipse, with one diameter in
the four-chamber view and the other in the two-chamber view. Breathing moves the heart as a rigid body. In the heart's
frame x runs across and z away from the probe; its origin depends on the view.
Lengths are millimetres, volumes millilitres, ejection fractions percent, angles radians, times seconds.
Dimension letters: T frames, N points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from echolung.phantom.simulator import Floats, Rng

Motion = Callable[[int], tuple[Floats, Floats]]  # positions x and z, each (N,), of points in a frame

WIDEST = 0.62  # where along the axis, from apex (0) to mitral plane (1), the ventricle is widest
FULLNESS = 1 - ((1 - WIDEST) ** 3 + WIDEST**3) / (3 * WIDEST**2)  # volume / volume of the enclosing cylinder
_SYSTOLE = 0.36  # of a beat


class HeartAnatomy:
    """Random dimensions of a heart at end-diastole, and its rate; a low ejection fraction `ef` makes it wide."""

    def __init__(self, rng: Rng, ef: float) -> None:
        self.length = rng.uniform(74, 90)  # of the left ventricle, apex to mitral plane
        self.diameter = self.length * (rng.uniform(0.46, 0.58) + 0.1 * np.clip((50 - ef) / 30, 0, 1))
        self.wall = rng.uniform(8, 11.5)
        self.right_width = rng.uniform(22, 31)
        self.atrium_length = rng.uniform(34, 44)
        self.heart_rate = rng.uniform(60, 100)  # beats per minute
        # Two-chamber / four-chamber diameter; a stream of its own leaves all other draws as they were.
        self.flatness = np.random.default_rng(round(1e9 * self.length)).uniform(0.8, 1.0)


def outline(s: Floats | float) -> Floats:
    """Half-width of the ventricle relative to its largest, at s from apex (0) to mitral plane (1); 0 above the apex."""
    return np.sqrt(np.clip(1 - ((s - WIDEST) / WIDEST) ** 2, 0, None))


def contraction(phase: Floats, systole: float) -> Floats:
    """Ejected fraction of the stroke volume at phase in [0, 1) of a beat: 0 at end-diastole, 1 at `systole`."""
    ejected = 0.5 * (1 - np.cos(np.pi * phase / systole))
    filling = (phase - systole) / (1 - systole)  # an early wave, a pause and an atrial kick
    early, kick = np.clip(filling / 0.45, 0, 1), np.clip((filling - 0.7) / 0.3, 0, 1)
    filled = 0.72 * 0.5 * (1 - np.cos(np.pi * early)) + 0.28 * 0.5 * (1 - np.cos(np.pi * kick))
    return np.where(phase < systole, ejected, 1 - filled).astype(np.float32)


def mitral_opening(phase: Floats, systole: float) -> Floats:
    """Opening of the mitral valve, 0..1: wide in early filling and at the atrial kick, half closed in between."""
    filling = (phase - systole) / (1 - systole)
    early, kick = np.exp(-(((filling - 0.25) / 0.17) ** 2)), np.exp(-(((filling - 0.84) / 0.09) ** 2))
    return (np.clip(1.1 * early + 0.8 * kick, 0, 1) * (filling > 0)).astype(np.float32)


class Ventricle:
    """A ventricle that ejects `ef` percent, in every frame of a video that begins `start` frames into a beat.

    With a `still_wall` (-1 septal, 1 lateral) that wall does not move inwards in the second beat of the video: the
    frames `abnormal`. The section is then two half ellipses, so discs in both views still measure its exact volume.
    `ef` is that of the first beat.

    End-diastole and end-systole are exactly on frames: the beat is rounded to a whole number of frames, so beats repeat
    exactly. Every video has a complete systole: if necessary `start` is moved, or the heart beats faster.
    """

    def __init__(
        self, anatomy: HeartAnatomy, ef: float, frames: int, fps: float, start: int, still_wall: int = 0
    ) -> None:
        self.anatomy = anatomy
        beat = min(max(6, round(fps * 60 / anatomy.heart_rate)), int((frames - 1) / _SYSTOLE))
        systole = max(1, round(_SYSTOLE * beat))
        self.frames_per_beat = beat
        self.end_diastole = min(-start % beat, frames - 1 - systole)
        self.end_systole = self.end_diastole + systole
        phase = ((np.arange(frames) - self.end_diastole) % beat / beat).astype(np.float32)
        emptied = ef / 100 * contraction(phase, systole / beat)
        full = np.pi / 4 * anatomy.diameter**2 * anatomy.length * FULLNESS / 1000  # if it were round
        self.volumes = full * (1 - emptied)  # (T,)
        # A healthy ventricle shortens by about a sixth; the change in width accounts for the rest of the volume.
        self.lengths = anatomy.length * (1 - 0.27 * emptied)  # (T,)
        self.half_widths = np.sqrt(self.volumes * 1000 / (np.pi * self.lengths * FULLNESS))  # (T,) the largest
        second = self.end_diastole + beat
        self.abnormal = slice(second, min(second + beat, frames)) if still_wall and second < frames else slice(0, 0)
        self.walls = np.stack([self.half_widths, self.half_widths])  # (2, T) septal and lateral in four chambers
        self.walls[max(still_wall, 0), self.abnormal] = anatomy.diameter / 2
        self.volumes = self.volumes * anatomy.flatness * self.walls.mean(0) / self.half_widths
        self.opening = mitral_opening(phase, systole / beat)  # (T,) of the mitral valve


@dataclass(frozen=True)
class Pose:
    """Position of the heart's frame in the scanner's; numbers, or arrays (T,) with one pose per frame."""

    x: Floats | float  # distance of the origin from the axis of the probe
    depth: Floats | float  # of the origin
    tilt: Floats | float  # angle between the z axis and the axis of the probe

    def at(self, frame: int) -> Pose:
        """The pose in one frame."""
        return Pose(*(float(np.asarray(part)[frame]) for part in (self.x, self.depth, self.tilt)))

    def to_image(self, x: Floats, z: Floats) -> tuple[Floats, Floats]:
        """From the heart's frame to the scanner's: lateral and axial position."""
        cos, sin = np.cos(self.tilt, dtype=np.float32), np.sin(self.tilt, dtype=np.float32)
        return self.x + z * sin + x * cos, self.depth + z * cos - x * sin

    def from_image(self, lateral: Floats, axial: Floats) -> tuple[Floats, Floats]:
        """From the scanner's frame to the heart's."""
        cos, sin = np.cos(self.tilt, dtype=np.float32), np.sin(self.tilt, dtype=np.float32)
        lateral, axial = lateral - self.x, axial - self.depth
        return lateral * cos - axial * sin, lateral * sin + axial * cos


class Breathing:
    """Quiet breathing, 12 to 20 breaths a minute; inspiration moves the heart away from the probe and to one side.

    The displacement is cos^4(pi (t / period - phase)), longer near expiration (0): Lujan 1999, Medical Physics 26:715.
    """

    def __init__(self, rng: Rng) -> None:
        self.period = 60 / rng.uniform(12, 20)
        self.phase = rng.random()  # at time 0; 0 is full inspiration
        self.lateral = rng.uniform(1, 4) * rng.choice((-1, 1))  # displacement of the heart at full inspiration
        self.axial = rng.uniform(2, 6)
        self.turn = np.deg2rad(rng.uniform(-3, 3))

    def poses(self, rest: Pose, times: Floats) -> Pose:
        """The pose at each time, (T,), of a heart that is at `rest` at the end of expiration."""
        share = np.cos(np.pi * (times / self.period - self.phase)) ** 4
        moved = (rest.x + self.lateral * share, rest.depth + self.axial * share, rest.tilt + self.turn * share)
        return Pose(*(part.astype(np.float32) for part in moved))
