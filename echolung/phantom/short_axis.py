"""The parasternal short-axis view at the papillary muscles: a ring of muscle and the right ventricle around it.

The imaging plane moves with the tissue: it always cuts the long axis at the same fraction of its length. So with V the
volume, L the length of the long axis and A the area of the cavity in this plane, A is proportional to V / L. The
ventricle shortens by 0.27 EF in systole, therefore

    A_ES / A_ED = (1 - EF) / (1 - 0.27 EF)

An ejection fraction of 60% is an area change of 52%. Papillary muscles are part of the cavity, as in clinical tracings.
The section is drawn with the four-chamber diameter all round.
Lengths are millimetres. The origin of the heart's frame is the axis of the ventricle, x runs across the picture and z
down; clock angles are radians clockwise from 12 o'clock. Dimension letters: T frames, H W pixels, N scatterers.
"""

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.motion import Breathing, Motion, Pose, Ventricle, outline
from echolung.phantom.simulator import Complexes, Floats, Rng, SmoothField, decibels, single, unit_scatterers

_RIGHT_WALL = 3.5
_PAPILLARY = 480  # scatterers
_CHEST = 19.0  # from the probe to the pericardium


class ShortAxis:
    """A beating heart in the parasternal short-axis view, and its position relative to the probe.

    The section of the left ventricle is nearly a circle, with a constant shape throughout the beat.
    """

    def __init__(self, ventricle: Ventricle, breathing: Breathing, times: Floats, rng: Rng) -> None:
        self.ventricle, anatomy = ventricle, ventricle.anatomy
        level = float(outline(rng.uniform(0.5, 0.62)))
        # Amplitude and direction: oval, triangular.
        self._ovals = [(rng.uniform(0, most), rng.uniform(0, 2 * np.pi)) for most in (0.05, 0.025)]
        self._lengths = ventricle.lengths / np.float32(anatomy.length)  # (T,) relative to end-diastole
        self.radii = ventricle.half_widths * level  # (T,) of the circle with the cavity's area
        self._full = anatomy.diameter / 2 * level  # that radius at end-diastole
        self.areas = np.pi * self.radii**2 / 100  # cm2, (T,)
        # The right ventricle: a crescent beside the septum.
        self._widest = anatomy.right_width * rng.uniform(0.6, 0.75)
        self._middle = -rng.uniform(0.8, 1.05)  # clock angle
        self._reach = rng.uniform(1.1, 1.25)  # from its middle to either tip, radians
        top = float(self._outer(0.0) + self._right(0.0) + _RIGHT_WALL)
        # At the end of expiration.
        self.rest = Pose(x=rng.uniform(7, 14), depth=_CHEST + top + rng.uniform(0, 6), tilt=rng.uniform(-0.12, 0.12))
        self.poses = breathing.poses(self.rest, times)
        self.deepest = float(np.max(self.poses.depth)) + float(self._outer(np.pi))
        # Scatterers of the anterolateral and posteromedial papillary muscles: two discs at the wall.
        self._clocks = np.array([rng.uniform(1.95, 2.3), rng.uniform(3.75, 4.05)])  # about 4 and half past 7
        self._discs = np.array([rng.uniform(4, 5.5), rng.uniform(4, 5.5)])  # their radii at end-diastole
        distance, angle = np.sqrt(rng.random(_PAPILLARY)), 2 * np.pi * rng.random(_PAPILLARY)
        self._outwards = (distance * np.cos(angle)).astype(np.float32)  # in the unit disc, along the radius
        self._across = (distance * np.sin(angle)).astype(np.float32)
        density = np.pi * np.square(self._discs).sum() / _PAPILLARY
        self._papillary = unit_scatterers(rng, _PAPILLARY) * decibels(3.0) * np.sqrt(density)

    def _shape(self, clock: Floats | float) -> Floats:
        """Distance from the axis to the border, relative to the radius of the circle with the same area."""
        (oval, way), (triangle, other) = self._ovals
        bent = 1 + oval * np.cos(2 * (clock - way)) + triangle * np.cos(3 * (clock - other))
        return bent / np.sqrt(1 + (oval**2 + triangle**2) / 2)

    def _outer(self, clock: Floats | float) -> Floats:
        """Distance from the axis to the outer border of the wall at end-diastole."""
        return self._full * self._shape(clock) + self.ventricle.anatomy.wall

    def _right(self, clock: Floats | float) -> Floats:
        """Width of the right ventricle's cavity at end-diastole, 0 beyond its tips."""
        away = (clock - self._middle + np.pi) % (2 * np.pi) - np.pi
        return self._widest * np.sqrt(np.clip(1 - (away / self._reach) ** 2, 0, None))

    def inside(self, x: Floats, z: Floats) -> NDArray[np.bool_]:
        """Whether points (T, H, W) are in the cavity."""
        return np.hypot(x, z) < self.radii[:, None, None] * self._shape(_clock(x, z))

    def border(self, frame: int, count: int) -> tuple[Floats, Floats]:
        """Border of the cavity as a closed polygon: x and z, each (count,)."""
        clock = np.arange(count) * (2 * np.pi / count)
        radius = self.radii[frame] * self._shape(clock)
        return radius * np.sin(clock), -radius * np.cos(clock)

    def tissue(self, x: Floats, z: Floats) -> Motion:
        """How the tissue that is at (x, z), each (N,), at end-diastole moves."""
        clock, distance = _clock(x, z), np.maximum(np.hypot(x, z), 1e-3)
        beyond = np.maximum(distance - self._outer(clock), 0)
        width = np.maximum(self._right(clock), 1)
        reach = beyond / width
        across, down, shape = single(x / distance, z / distance, self._shape(clock))
        muscle, fading, right = single(
            np.maximum(distance**2 - (self._full * self._shape(clock)) ** 2, 0),  # 0 inside the cavity
            np.exp(-beyond / 22),  # share of the muscle's motion that a point follows
            # The free wall of the right ventricle moves towards the septum.
            0.45 * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)),
        )

        def at(frame: int) -> tuple[Floats, Floats]:
            radius = np.float32(self.radii[frame])
            scale = radius / np.float32(self._full)
            # The ring keeps its volume: as the long axis gets shorter, its area grows.
            ring = np.sqrt((radius * shape) ** 2 + muscle / np.float32(self._lengths[frame]))
            outside = distance + (ring - distance) * fading - (1 - scale**2) * right
            moved = np.where(muscle > 0, outside, distance * scale)
            return across * moved, down * moved

        return at

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: Rng) -> Floats:
        """Echo level in dB relative to average muscle, of tissue at (x, z) at end-diastole in the beam at `beam`."""
        distance, clock = np.hypot(x, z), _clock(x, z)
        inner, outer, right = self._full * self._shape(clock), self._outer(clock), self._right(clock)
        beyond = distance - outer
        muscle = beyond < 0
        edge = np.where(right > 0, right + _RIGHT_WALL, 0)
        right_wall = (right > 0) & (beyond >= right) & (beyond < edge)
        pericardium = (beyond >= edge) & (beyond < edge + 2.2)
        cavities = (distance < inner) | ((beyond > 0) & (beyond < right))
        behind = z > self._outer(np.pi)
        level = np.where(z < _CHEST - self.rest.depth + 3, 0.0, np.where(behind, -6.0, -12.0))  # else lungs
        level = np.where(pericardium, 4.0, np.where(right_wall, 2.0, np.where(muscle, 0.0, level)))
        level += 2.5 * SmoothField(rng, 7, 7)(x, z) * np.where(muscle, 0.5, 1.0)
        # The ring reflects best in front and behind, where the beam is perpendicular to it.
        facing = np.abs(np.cos(clock + beam - self.rest.tilt))
        lining = muscle & ((distance < inner + 1.8) | ((beyond > -1.8) & (right > 0)))
        squarely = np.where(muscle, 11 * facing**2 - 6, 0) + np.where(lining, 2 + 4 * facing, 0)
        level += squarely + np.where(pericardium | right_wall, 6 * facing - 3, 0)
        return np.where(cavities, -30.0 + 2 * SmoothField(rng, 10, 10)(x, z), level).astype(np.float32)

    def moving(self, frame: int) -> tuple[Floats, Floats, Complexes]:
        """Scatterers that do not move with the tissue, the papillary muscles: x, z and amplitude, each (N,)."""
        radius = self._discs / np.sqrt(float(self._lengths[frame]))  # they thicken as they shorten
        middle = self.radii[frame] * self._shape(self._clocks) - 0.75 * radius
        k = np.arange(_PAPILLARY) % 2
        out = (middle[k] + radius[k] * self._outwards).astype(np.float32)
        side = (radius[k] * self._across).astype(np.float32)
        cos, sin = np.cos(self._clocks[k]).astype(np.float32), np.sin(self._clocks[k]).astype(np.float32)
        return out * sin + side * cos, side * sin - out * cos, self._papillary


def _clock(x: Floats, z: Floats) -> Floats:
    return np.arctan2(x, -z)
