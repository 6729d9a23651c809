"""The heart phantom's left ventricle in closed form, whatever view it is seen in: how it beats, its size, its volumes.

It is a prolate ellipsoid of revolution cut at the mitral plane. Lengths are millimetres, volumes millilitres, ejection
fractions percent. Letters: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echolung.phantom.simulator import Floats

WIDEST = 0.62  # where along the axis, from apex (0) to mitral plane (1), the ventricle is widest
FULLNESS = 1 - ((1 - WIDEST) ** 3 + WIDEST**3) / (3 * WIDEST**2)  # volume over that of the cylinder around it
_SYSTOLE = 0.36  # of a beat


@dataclass(frozen=True)
class HeartAnatomy:
    """One person's heart at end-diastole, and how fast it beats."""

    length: float  # of the left ventricle, apex to mitral plane
    diameter: float
    wall: float
    right_width: float
    atrium_length: float
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
            heart_rate=rng.uniform(60, 100),
        )


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
