"""The parasternal short-axis view at the papillary muscles: a ring of muscle and the right ventricle around it.

The imaging plane moves with the tissue: it always cuts the long axis at the same fraction of its length. So with V the
volume, L the length of the long axis and A the area of the cavity in this plane, A is proportional to V / L. The
ventricle shortens by 0.27 EF in systole, therefore

    A_ES / A_ED = (1 - EF) / (1 - 0.27 EF)

An ejection fraction of 60% is an area change of 52%. Papillary muscles are part of the cavity, as in clinical tracings.
Lengths are millimetres. The origin of the heart's frame is the axis of the ventricle, x runs across the picture and z
down; clock angles are radians clockwise from 12 o'clock. Dimension letters: T frames, H W pixels, N scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.breathing import Breathing, Pose
from echolung.phantom.simulator import Complexes, Floats, Scanner, SmoothField, decibels, unit_scatterers
from echolung.phantom.ventricle import Ventricle, outline

_RIGHT_WALL = 3.5
_CHEST = 19.0  # from the probe to the pericardium


@dataclass(frozen=True)
class ShortAxis:
    """A beating heart in the parasternal short-axis view, and its position relative to the probe."""

    ventricle: Ventricle
    rest: Pose  # at the end of expiration
    poses: Pose  # (T,)
    section: Section
    right: Crescent
    papillary: _PapillaryMuscles

    @classmethod
    def draw(cls, ventricle: Ventricle, breathing: Breathing, times: Floats, rng: np.random.Generator) -> ShortAxis:
        section = Section.draw(ventricle, rng)
        right = Crescent.draw(ventricle.anatomy.right_width, rng)
        top = section.outer(0.0) + right.width(0.0) + _RIGHT_WALL
        rest = Pose(x=rng.uniform(7, 14), depth=_CHEST + float(top) + rng.uniform(0, 6), tilt=rng.uniform(-0.12, 0.12))
        return cls(
            ventricle=ventricle,
            rest=rest,
            poses=breathing.poses(rest, times),
            section=section,
            right=right,
            papillary=_PapillaryMuscles.draw(rng),
        )

    @property
    def deepest(self) -> float:
        """Depth that the scan must reach to show the whole ring."""
        return float(np.max(self.poses.depth)) + float(self.section.outer(np.pi))

    @property
    def areas(self) -> Floats:
        """Area of the cavity, cm2, (T,)."""
        return np.pi * self.section.radii**2 / 100

    def masks(self, scanner: Scanner, size: int) -> NDArray[np.bool_]:
        """Mask of the cavity, (T, H, W): the pixels whose centre is inside."""
        x, z = self.poses.pixel_centres(scanner, size)
        return np.hypot(x, z) < self.section.radii[:, None, None] * self.section.shape(_clock(x, z))

    def contour(self, frame: int, scanner: Scanner, size: int, count: int = 64) -> Floats:
        """Border of the cavity as a closed polygon, (count, 2) pixels."""
        clock = np.arange(count) * (2 * np.pi / count)
        radius = self.section.radii[frame] * self.section.shape(clock)
        return self.poses.at(frame).pixels(radius * np.sin(clock), -radius * np.cos(clock), scanner, size)

    def tissue(self, x: Floats, z: Floats) -> Tissue:
        """The tissue that is at (x, z), each (N,), at end-diastole."""
        clock, distance = _clock(x, z), np.maximum(np.hypot(x, z), 1e-3)
        beyond = np.maximum(distance - self.section.outer(clock), 0)
        width = np.maximum(self.right.width(clock), 1)
        reach = beyond / width
        parts = (
            x / distance,
            z / distance,
            distance,
            self.section.shape(clock),
            np.maximum(distance**2 - self.section.inner(clock) ** 2, 0),
            np.exp(-beyond / 22),
            # The free wall of the right ventricle moves towards the septum.
            0.45 * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)),
        )
        lengths = self.ventricle.lengths / np.float32(self.ventricle.anatomy.length)
        return Tissue(self.section, lengths, *(np.asarray(part, np.float32) for part in parts))

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: np.random.Generator) -> Floats:
        """Echo level in dB relative to average muscle, of tissue at (x, z) at end-diastole in the beam at `beam`."""
        distance, clock = np.hypot(x, z), _clock(x, z)
        inner, outer, right = self.section.inner(clock), self.section.outer(clock), self.right.width(clock)
        beyond = distance - outer
        muscle = beyond < 0
        edge = np.where(right > 0, right + _RIGHT_WALL, 0)
        right_wall = (right > 0) & (beyond >= right) & (beyond < edge)
        pericardium = (beyond >= edge) & (beyond < edge + 2.2)
        cavities = (distance < inner) | ((beyond > 0) & (beyond < right))
        behind = z > self.section.outer(np.pi)
        level = np.where(z < _CHEST - self.rest.depth + 3, 0.0, np.where(behind, -6.0, -12.0))  # else lungs
        level = np.where(pericardium, 4.0, np.where(right_wall, 2.0, np.where(muscle, 0.0, level)))
        level += 2.5 * SmoothField.draw(rng, 7, 7)(x, z) * np.where(muscle, 0.5, 1.0)
        # The ring reflects best in front and behind, where the beam is perpendicular to it.
        facing = np.abs(np.cos(clock + beam - self.rest.tilt))
        lining = muscle & ((distance < inner + 1.8) | ((beyond > -1.8) & (right > 0)))
        squarely = np.where(muscle, 11 * facing**2 - 6, 0) + np.where(lining, 2 + 4 * facing, 0)
        level += squarely + np.where(pericardium | right_wall, 6 * facing - 3, 0)
        return np.where(cavities, -30.0 + 2 * SmoothField.draw(rng, 10, 10)(x, z), level).astype(np.float32)

    def moving(self, frame: int) -> tuple[Floats, Floats, Complexes]:
        """Scatterers that do not move with the tissue, the papillary muscles: x, z and amplitude, each (N,)."""
        length = self.ventricle.lengths[frame] / self.ventricle.anatomy.length
        return *self.papillary.at(self.section, frame, float(length)), self.papillary.amplitude


def _clock(x: Floats, z: Floats) -> Floats:
    return np.arctan2(x, -z)


@dataclass(frozen=True)
class Section:
    """The cross-section of the left ventricle: nearly a circle, with a constant shape throughout the beat."""

    radii: Floats  # (T,) of the circle with the cavity's area
    full: float  # that radius at end-diastole
    wall: float  # thickness at end-diastole
    ovals: tuple[tuple[float, float], tuple[float, float]]  # amplitude and direction: oval, triangular

    @classmethod
    def draw(cls, ventricle: Ventricle, rng: np.random.Generator) -> Section:
        anatomy, level = ventricle.anatomy, float(outline(rng.uniform(0.5, 0.62)))
        ovals = tuple((rng.uniform(0, most), rng.uniform(0, 2 * np.pi)) for most in (0.05, 0.025))
        return cls(ventricle.half_widths * level, anatomy.diameter / 2 * level, anatomy.wall, (ovals[0], ovals[1]))

    def shape(self, clock: Floats | float) -> Floats:
        """Distance from the axis to the border, relative to the radius of the circle with the same area."""
        (oval, way), (triangle, other) = self.ovals
        bent = 1 + oval * np.cos(2 * (clock - way)) + triangle * np.cos(3 * (clock - other))
        return bent / np.sqrt(1 + (oval**2 + triangle**2) / 2)

    def inner(self, clock: Floats | float) -> Floats:
        """Distance from the axis to the inner border of the wall at end-diastole."""
        return self.full * self.shape(clock)

    def outer(self, clock: Floats | float) -> Floats:
        """Distance from the axis to the outer border of the wall at end-diastole."""
        return self.inner(clock) + self.wall


@dataclass(frozen=True)
class Crescent:
    """The cavity of the right ventricle, beside the septum."""

    widest: float
    middle: float  # clock angle
    reach: float  # from its middle to either tip, radians

    @classmethod
    def draw(cls, right_width: float, rng: np.random.Generator) -> Crescent:
        return cls(right_width * rng.uniform(0.6, 0.75), -rng.uniform(0.8, 1.05), rng.uniform(1.1, 1.25))

    def width(self, clock: Floats | float) -> Floats:
        """Width at end-diastole, 0 beyond the tips."""
        away = (clock - self.middle + np.pi) % (2 * np.pi) - np.pi
        return self.widest * np.sqrt(np.clip(1 - (away / self.reach) ** 2, 0, None))


@dataclass(frozen=True)
class Tissue:
    """Points of tissue, with everything their motion depends on; x to `right` are (N,)."""

    section: Section
    lengths: Floats  # (T,) of the long axis, relative to end-diastole
    x: Floats  # unit vector from the axis at end-diastole
    z: Floats
    distance: Floats  # from the axis
    shape: Floats  # of the section in this direction
    muscle: Floats  # distance^2 - (radius of the cavity)^2; 0 inside the cavity
    fading: Floats  # share of the muscle's motion that this point follows
    right: Floats  # displacement when the right ventricle empties

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Positions x and z in a frame, each (N,)."""
        radius, length = np.float32(self.section.radii[frame]), np.float32(self.lengths[frame])
        scale = radius / np.float32(self.section.full)
        # The ring keeps its volume: as the long axis gets shorter, its area grows.
        ring = np.sqrt((radius * self.shape) ** 2 + self.muscle / length)
        outside = self.distance + (ring - self.distance) * self.fading - (1 - scale**2) * self.right
        moved = np.where(self.muscle > 0, outside, self.distance * scale)
        return self.x * moved, self.z * moved


@dataclass(frozen=True)
class _PapillaryMuscles:
    """Scatterers of the anterolateral and posteromedial papillary muscles: two discs at the wall."""

    clocks: tuple[float, float]
    radii: tuple[float, float]  # at end-diastole
    muscle: NDArray[np.int_]  # (N,) 0 or 1
    outwards: Floats  # (N,) position in the unit disc, along the radius and across it
    across: Floats  # (N,)
    amplitude: Complexes  # (N,)

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int = 480) -> _PapillaryMuscles:
        clocks = (rng.uniform(1.95, 2.3), rng.uniform(3.75, 4.05))  # about 4 and half past 7
        radii = (rng.uniform(4, 5.5), rng.uniform(4, 5.5))
        distance, angle = np.sqrt(rng.random(count)), 2 * np.pi * rng.random(count)
        return cls(
            clocks,
            radii,
            np.arange(count) % 2,
            (distance * np.cos(angle)).astype(np.float32),
            (distance * np.sin(angle)).astype(np.float32),
            unit_scatterers(rng, count) * decibels(3.0) * np.sqrt(np.pi * np.square(radii).sum() / count),
        )

    def at(self, section: Section, frame: int, length: float) -> tuple[Floats, Floats]:
        """Positions x and z in a frame; `length` of the long axis relative to end-diastole."""
        clock = np.array(self.clocks)
        radius = np.array(self.radii) / np.sqrt(length)  # they thicken as they shorten
        middle = section.radii[frame] * section.shape(clock) - 0.75 * radius
        k = self.muscle
        out = (middle[k] + radius[k] * self.outwards).astype(np.float32)
        side = (radius[k] * self.across).astype(np.float32)
        cos, sin = np.cos(clock[k]).astype(np.float32), np.sin(clock[k]).astype(np.float32)
        return out * sin + side * cos, side * sin - out * cos
