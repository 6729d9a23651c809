"""Position of the heart relative to the probe, and how breathing moves it: as a rigid body, by a few millimetres.

Lengths are millimetres, angles radians, times seconds. In the heart's frame x runs across and z away from the probe;
its origin depends on the view. Dimension letters: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echolung.phantom.simulator import Floats, Scanner


@dataclass(frozen=True)
class Pose:
    """Position of the heart's frame in the scanner's; numbers, or arrays (T,) with one pose per frame."""

    x: Floats | float  # distance of the origin from the axis of the probe
    depth: Floats | float  # of the origin
    tilt: Floats | float  # angle between the z axis and the axis of the probe

    def at(self, frame: int) -> Pose:
        """The pose in one frame."""
        x, depth, tilt = (float(np.asarray(part)[frame]) for part in (self.x, self.depth, self.tilt))
        return Pose(x, depth, tilt)

    def to_image(self, x: Floats, z: Floats) -> tuple[Floats, Floats]:
        """From the heart's frame to the scanner's: lateral and axial position."""
        cos, sin = _turn(self.tilt)
        return self.x + z * sin + x * cos, self.depth + z * cos - x * sin

    def from_image(self, lateral: Floats, axial: Floats) -> tuple[Floats, Floats]:
        """From the scanner's frame to the heart's."""
        cos, sin = _turn(self.tilt)
        lateral, axial = lateral - self.x, axial - self.depth
        return lateral * cos - axial * sin, lateral * sin + axial * cos

    def pixels(self, x: Floats, z: Floats, scanner: Scanner, size: int) -> Floats:
        """Points (N,) of the heart's frame in pixels of a square frame, (N, 2): column and row."""
        lateral, axial = self.to_image(x, z)
        columns, rows, pitch = scanner.pixel_grid(size, size)
        return np.stack([(lateral - columns[0]) / pitch, (axial - rows[0]) / pitch], 1)

    def pixel_centres(self, scanner: Scanner, size: int) -> tuple[Floats, Floats]:
        """The centres of all pixels in the heart's frame, for each of T poses: x and z, each (T, H, W)."""
        lateral, axial, _ = scanner.pixel_grid(size, size)
        x, depth, tilt = (np.asarray(part, np.float32)[:, None, None] for part in (self.x, self.depth, self.tilt))
        return Pose(x, depth, tilt).from_image(lateral[None, None, :], axial[None, :, None])


def _turn(tilt: Floats | float) -> tuple[Floats, Floats]:
    return np.cos(tilt, dtype=np.float32), np.sin(tilt, dtype=np.float32)


@dataclass(frozen=True)
class Breathing:
    """Quiet breathing: displacement cos^4(pi (t / period - phase)), which stays longer near expiration (0).

    Lujan et al. 1999, Medical Physics 26:715.
    """

    period: float
    phase: float  # at time 0; 0 is full inspiration
    lateral: float  # displacement of the heart at full inspiration
    axial: float
    turn: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Breathing:
        """12 to 20 breaths a minute; inspiration moves the heart away from the probe and to one side."""
        return cls(
            period=60 / rng.uniform(12, 20),
            phase=rng.random(),
            lateral=rng.uniform(1, 4) * rng.choice((-1, 1)),
            axial=rng.uniform(2, 6),
            turn=np.deg2rad(rng.uniform(-3, 3)),
        )

    def poses(self, rest: Pose, times: Floats) -> Pose:
        """The pose at each time, (T,), of a heart that is at `rest` at the end of expiration."""
        share = np.cos(np.pi * (times / self.period - self.phase)) ** 4
        moved = (rest.x + self.lateral * share, rest.depth + self.axial * share, rest.tilt + self.turn * share)
        return Pose(*(part.astype(np.float32) for part in moved))


HELD = Breathing(period=1.0, phase=0.5, lateral=0.0, axial=0.0, turn=0.0)
"""Breath held: the heart stays at rest."""
