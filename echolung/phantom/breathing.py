"""Position of the heart relative to the probe, and how breathing moves it: as a rigid body, by a few millimetres.

Lengths are millimetres, angles radians, times seconds. In the heart's frame x runs across and z away from the probe;
its origin depends on the view. Dimension letters: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echolung.phantom.simulator import Floats


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

    The displacement is cos^4(pi (t / period - phase)), which stays longer near expiration (0): Lujan et al. 1999,
    Medical Physics 26:715.
    """

    def __init__(self, rng: np.random.Generator) -> None:
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
