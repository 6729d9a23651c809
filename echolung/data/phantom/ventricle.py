"""The left ventricle of the heart phantom, in closed form: how it contracts, its volumes, its masks, its discs.

It is a prolate ellipsoid of revolution cut at the mitral plane. Lengths are millimetres, volumes millilitres, ejection
fractions percent. In the heart's own frame z runs from the apex along the ventricle's axis to the mitral plane and x
across it, negative towards the septum. Letters: T frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.data.phantom.simulator import Floats, Scanner

WIDEST = 0.62  # where along the axis, from apex (0) to mitral plane (1), the ventricle is widest
FULLNESS = 1 - ((1 - WIDEST) ** 3 + WIDEST**3) / (3 * WIDEST**2)  # volume over that of the cylinder around it
_SYSTOLE = 0.36  # of a beat


@dataclass(frozen=True)
class HeartAnatomy:
    """One person's heart at end-diastole, how it beats and how it lies in the sector."""

    length: float  # of the left ventricle, apex to mitral plane
    diameter: float
    wall: float
    right_width: float
    atrium_length: float
    apex_x: float
    apex_depth: float
    tilt: float  # of the long axis, radians
    heart_rate: float  # beats per minute

    @classmethod
    def draw(cls, rng: np.random.Generator, ef: float) -> HeartAnatomy:
        """A person whose heart ejects `ef` percent: weak ventricles are wide ones, as they are in patients."""
        widened = 0.1 * np.clip((50 - ef) / 30, 0, 1)
        length = rng.uniform(74, 90)
        return cls(
            length=length,
            diameter=length * (rng.uniform(0.46, 0.58) + widened),
            wall=rng.uniform(8, 11.5),
            right_width=rng.uniform(22, 31),
            atrium_length=rng.uniform(34, 44),
            apex_x=rng.uniform(-1, 6),
            apex_depth=rng.uniform(21, 29),
            tilt=rng.uniform(0.02, 0.17),
            heart_rate=rng.uniform(60, 100),
        )

    def to_image(self, x: Floats, z: Floats) -> tuple[Floats, Floats]:
        """From the heart's frame to the scanner's: lateral and axial distance from the probe."""
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        return self.apex_x + z * sin + x * cos, self.apex_depth + z * cos - x * sin

    def from_image(self, lateral: Floats, axial: Floats) -> tuple[Floats, Floats]:
        """From the scanner's frame to the heart's."""
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        lateral, axial = lateral - self.apex_x, axial - self.apex_depth
        return lateral * cos - axial * sin, lateral * sin + axial * cos


def outline(s: Floats | float) -> Floats:
    """Half-width of the ventricle over its largest, at s from apex (0) to mitral plane (1); 0 beyond the apex."""
    return np.sqrt(np.clip(1 - ((s - WIDEST) / WIDEST) ** 2, 0, None))


def contraction(phase: Floats, systole: float) -> Floats:
    """Fraction of the stroke volume that has left, at phase in [0, 1) of a beat: 0 at end-diastole, 1 at `systole`.

    Filling goes as it does in life: a rapid early wave, a pause, the atrial kick.
    """
    ejected = 0.5 * (1 - np.cos(np.pi * phase / systole))
    filling = (phase - systole) / (1 - systole)
    early, kick = np.clip(filling / 0.45, 0, 1), np.clip((filling - 0.7) / 0.3, 0, 1)
    filled = 0.72 * 0.5 * (1 - np.cos(np.pi * early)) + 0.28 * 0.5 * (1 - np.cos(np.pi * kick))
    return np.where(phase < systole, ejected, 1 - filled).astype(np.float32)


def mitral_opening(phase: Floats, systole: float) -> Floats:
    """How far the mitral leaflets stand open, 0..1: wide in early filling, half shut in between, again at the kick."""
    filling = (phase - systole) / (1 - systole)
    early, kick = np.exp(-(((filling - 0.25) / 0.17) ** 2)), np.exp(-(((filling - 0.84) / 0.09) ** 2))
    return (np.clip(1.1 * early + 0.8 * kick, 0, 1) * (filling > 0)).astype(np.float32)


@dataclass(frozen=True)
class Ventricle:
    """The ventricle over the frames of a video; end-diastole and end-systole fall exactly on frames."""

    anatomy: HeartAnatomy
    ejection_fraction: float
    frames_per_beat: int
    volumes: Floats  # (T,)
    lengths: Floats  # (T,)
    half_widths: Floats  # (T,) the largest
    opening: Floats  # (T,) of the mitral valve
    end_diastole: int
    end_systole: int

    @classmethod
    def beating(cls, anatomy: HeartAnatomy, ef: float, frames: int, fps: float, start: int) -> Ventricle:
        """A ventricle that ejects `ef` percent, first seen `start` frames into a beat.

        The heart rate is rounded to a whole number of frames per beat, so that beats repeat exactly. A whole systole is
        always seen: `start` gives way, and in a video shorter than a systole the heart beats faster.
        """
        beat = min(max(6, round(fps * 60 / anatomy.heart_rate)), int((frames - 1) / _SYSTOLE))
        systole = max(1, round(_SYSTOLE * beat))
        end_diastole = min(-start % beat, frames - 1 - systole)
        phase = ((np.arange(frames) - end_diastole) % beat / beat).astype(np.float32)
        emptied = ef / 100 * contraction(phase, systole / beat)
        full = np.pi / 4 * anatomy.diameter**2 * anatomy.length * FULLNESS / 1000
        volumes = full * (1 - emptied)
        # A healthy ventricle shortens by about a sixth of its length; its width makes up the rest of the volume.
        lengths = anatomy.length * (1 - 0.27 * emptied)
        return cls(
            anatomy=anatomy,
            ejection_fraction=ef,
            frames_per_beat=beat,
            volumes=volumes,
            lengths=lengths,
            half_widths=np.sqrt(volumes * 1000 / (np.pi * lengths * FULLNESS)),
            opening=mitral_opening(phase, systole / beat),
            end_diastole=end_diastole,
            end_systole=end_diastole + systole,
        )

    def masks(self, scanner: Scanner, size: int) -> NDArray[np.bool_]:
        """The cavity in every frame, (T, H, W): a pixel belongs to it if its centre does."""
        lateral, axial, _ = scanner.pixel_grid(size, size)
        x, z = self.anatomy.from_image(lateral[None, :], axial[:, None])
        s = z / self.lengths[:, None, None]
        return (s <= 1) & (np.abs(x) < self.half_widths[:, None, None] * outline(s))

    def long_axis(self, frame: int, scanner: Scanner, size: int) -> Floats:
        """Ends of the long axis in pixels, (2, 2): (x, y) of the apex and of the middle of the mitral plane."""
        return self._pixels(np.zeros(2), np.array([0, self.lengths[frame]]), scanner, size)

    def discs(self, frame: int, scanner: Scanner, size: int, count: int = 20) -> Floats:
        """Chords across the middle of `count` slabs of equal height, from the apex down, (count, 2, 2) pixels."""
        s = (np.arange(count) + 0.5) / count
        half = self.half_widths[frame] * outline(s)
        ends = [self._pixels(side * half, s * self.lengths[frame], scanner, size) for side in (-1, 1)]
        return np.stack(ends, 1)

    def _pixels(self, x: Floats, z: Floats, scanner: Scanner, size: int) -> Floats:
        lateral, axial = self.anatomy.to_image(x, z)
        columns, rows, pitch = scanner.pixel_grid(size, size)
        return np.stack([(lateral - columns[0]) / pitch, (axial - rows[0]) / pitch], 1)
