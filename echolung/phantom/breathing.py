"""Where the heart lies before the probe, and how breathing moves it: slowly, by some millimetres, as one rigid body.

Lengths are millimetres, angles radians, times seconds. In the heart's own frame x runs across and z away from the
probe; views say where its origin is. Letters: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echolung.phantom.simulator import Floats, Scanner


@dataclass(frozen=True)
class Pose:
    """The heart's frame as the scanner sees it; numbers, or arrays (T,) of one pose per frame."""

    x: Floats | float  # of the frame's origin, from the probe's axis
    depth: Floats | float  # of the frame's origin
    tilt: Floats | float  # of the frame's z axis against the probe's

    def at(self, frame: int) -> Pose:
        """One frame's pose, of poses that are arrays."""
        x, depth, tilt = (float(np.asarray(part)[frame]) for part in (self.x, self.depth, self.tilt))
        return Pose(x, depth, tilt)

    def to_image(self, x: Floats, z: Floats) -> tuple[Floats, Floats]:
        """From the heart's frame to the scanner's: lateral and axial distance from the probe."""
        cos, sin = _turn(self.tilt)
        return self.x + z * sin + x * cos, self.depth + z * cos - x * sin

    def from_image(self, lateral: Floats, axial: Floats) -> tuple[Floats, Floats]:
        """From the scanner's frame to the heart's."""
        cos, sin = _turn(self.tilt)
        lateral, axial = lateral - self.x, axial - self.depth
        return lateral * cos - axial * sin, lateral * sin + axial * cos

    def pixels(self, x: Floats, z: Floats, scanner: Scanner, size: int) -> Floats:
        """Points (N,) of the heart's frame in pixels of a square picture, (N, 2): column and row."""
        lateral, axial = self.to_image(x, z)
        columns, rows, pitch = scanner.pixel_grid(size, size)
        return np.stack([(lateral - columns[0]) / pitch, (axial - rows[0]) / pitch], 1)

    def pixel_centres(self, scanner: Scanner, size: int) -> tuple[Floats, Floats]:
        """Every pixel's centre in the heart's frame, in each of T poses: x and z, each (T, H, W)."""
        lateral, axial, _ = scanner.pixel_grid(size, size)
        x, depth, tilt = (np.asarray(part, np.float32)[:, None, None] for part in (self.x, self.depth, self.tilt))
        return Pose(x, depth, tilt).from_image(lateral[None, None, :], axial[None, :, None])


def _turn(tilt: Floats | float) -> tuple[Floats, Floats]:
    return np.cos(tilt, dtype=np.float32), np.sin(tilt, dtype=np.float32)


@dataclass(frozen=True)
class Breathing:
    """Quiet breathing: the heart rests where it is at the end of expiration, and is carried off by every breath in.

    The breath drawn in at time t is cos^4(pi (t / period - phase)) of the whole (Lujan et al. 1999, Medical Physics
    26:715): longer near expiration than near inspiration.
    """

    period: float
    phase: float  # of a breath at time 0; 0 is full inspiration
    lateral: float  # how far a whole breath carries the heart
    axial: float
    turn: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Breathing:
        """12 to 20 breaths a minute; the diaphragm takes the heart away from the probe, and to either side."""
        return cls(
            period=60 / rng.uniform(12, 20),
            phase=rng.random(),
            lateral=rng.uniform(1, 4) * rng.choice((-1, 1)),
            axial=rng.uniform(2, 6),
            turn=np.deg2rad(rng.uniform(-3, 3)),
        )

    def poses(self, rest: Pose, times: Floats) -> Pose:
        """The pose at each time, (T,), of a heart that lies at `rest` when the lungs are empty."""
        drawn_in = np.cos(np.pi * (times / self.period - self.phase)) ** 4
        moved = (rest.x + self.lateral * drawn_in, rest.depth + self.axial * drawn_in, rest.tilt + self.turn * drawn_in)
        return Pose(*(part.astype(np.float32) for part in moved))


HELD = Breathing(period=1.0, phase=0.5, lateral=0.0, axial=0.0, turn=0.0)
"""No breath: the heart stays where it is."""
