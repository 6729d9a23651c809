"""The parasternal short-axis view at the papillary muscles: a ring of muscle, and the right ventricle wrapped about it.

The plane goes with the tissue: it stays at the same share of the long axis, so that what it shows of the cavity is the
section of the same ventricle as in the four-chamber view. With V the volume, L the length of the long axis and A the
area of this section, A is proportional to V / L. The ventricle loses 0.27 EF of its length in systole, whence

    A_ES / A_ED = (1 - EF) / (1 - 0.27 EF)

An ejection fraction of 60% is an area change of 52%. The papillary muscles count as cavity, as they do where short-axis
tracings are drawn. Lengths are millimetres; in the heart's own frame x runs across the picture and z down it, from the
ventricle's axis; clock angles are radians from 12 o'clock, clockwise. Letters: T frames, H W pixels, N scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.breathing import Breathing, Pose
from echolung.phantom.simulator import Complexes, Floats, Scanner, SmoothField, decibels, unit_scatterers
from echolung.phantom.ventricle import Ventricle, outline

_RIGHT_WALL = 3.5
_CHEST = 19.0  # from the probe to the pericardium in front


@dataclass(frozen=True)
class ShortAxis:
    """One person's beating heart in the parasternal short-axis view, and how it lies before the probe."""

    ventricle: Ventricle
    rest: Pose  # with empty lungs; the frame's origin is the ventricle's axis
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
        """How far below the probe the scan must reach to show all of it."""
        return float(np.max(self.poses.depth)) + float(self.section.outer(np.pi))

    @property
    def areas(self) -> Floats:
        """The cavity's area in every frame, cm2, (T,)."""
        return np.pi * self.section.radii**2 / 100

    def masks(self, scanner: Scanner, size: int) -> NDArray[np.bool_]:
        """The cavity in every frame, (T, H, W): a pixel belongs to it if its centre does."""
        x, z = self.poses.pixel_centres(scanner, size)
        return np.hypot(x, z) < self.section.radii[:, None, None] * self.section.shape(_clock(x, z))

    def contour(self, frame: int, scanner: Scanner, size: int, count: int = 64) -> Floats:
        """The cavity's border as a closed polygon, (count, 2) pixels."""
        clock = np.arange(count) * (2 * np.pi / count)
        radius = self.section.radii[frame] * self.section.shape(clock)
        return self.poses.at(frame).pixels(radius * np.sin(clock), -radius * np.cos(clock), scanner, size)

    def tissue(self, x: Floats, z: Floats) -> Carried:
        """Tissue that lies at (x, z) at end-diastole, ready to be carried along."""
        return Carried.of(self, x, z)

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: np.random.Generator) -> Floats:
        """Level in dB, relative to average muscle, of tissue at (x, z) at end-diastole, seen at angle `beam`."""
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
        # The ring answers best in front and behind, where the beam meets it squarely; its sides fade.
        facing = np.abs(np.cos(clock + beam - self.rest.tilt))
        lining = muscle & ((distance < inner + 1.8) | ((beyond > -1.8) & (right > 0)))
        squarely = np.where(muscle, 11 * facing**2 - 6, 0) + np.where(lining, 2 + 4 * facing, 0)
        level += squarely + np.where(pericardium | right_wall, 6 * facing - 3, 0)
        return np.where(cavities, -30.0 + 2 * SmoothField.draw(rng, 10, 10)(x, z), level).astype(np.float32)

    def moving(self, frame: int) -> tuple[Floats, Floats, Complexes]:
        """What does not simply follow the tissue around it, the papillary muscles: x, z and amplitude, each (N,)."""
        length = self.ventricle.lengths[frame] / self.ventricle.anatomy.length
        return *self.papillary.at(self.section, frame, float(length)), self.papillary.amplitude


def _clock(x: Floats, z: Floats) -> Floats:
    return np.arctan2(x, -z)


@dataclass(frozen=True)
class Section:
    """The left ventricle cut across its axis: nearly a circle, of the same form throughout the beat."""

    radii: Floats  # (T,) of the circle with the cavity's area
    full: float  # that radius at end-diastole
    wall: float  # thickness at end-diastole
    ovals: tuple[tuple[float, float], tuple[float, float]]  # how oval and how triangular, and which way that points

    @classmethod
    def draw(cls, ventricle: Ventricle, rng: np.random.Generator) -> Section:
        anatomy, level = ventricle.anatomy, float(outline(rng.uniform(0.5, 0.62)))
        ovals = tuple((rng.uniform(0, most), rng.uniform(0, 2 * np.pi)) for most in (0.05, 0.025))
        return cls(ventricle.half_widths * level, anatomy.diameter / 2 * level, anatomy.wall, (ovals[0], ovals[1]))

    def shape(self, clock: Floats | float) -> Floats:
        """The border's distance from the axis over the radius of the circle with the same area."""
        (oval, way), (triangle, other) = self.ovals
        bent = 1 + oval * np.cos(2 * (clock - way)) + triangle * np.cos(3 * (clock - other))
        return bent / np.sqrt(1 + (oval**2 + triangle**2) / 2)

    def inner(self, clock: Floats | float) -> Floats:
        """Distance of the wall's inner border from the axis at end-diastole."""
        return self.full * self.shape(clock)

    def outer(self, clock: Floats | float) -> Floats:
        """Distance of the wall's outer border from the axis at end-diastole."""
        return self.inner(clock) + self.wall


@dataclass(frozen=True)
class Crescent:
    """The right ventricle's cavity, wrapped about the septum."""

    widest: float
    middle: float  # clock angle
    reach: float  # from its middle to either tip, radians

    @classmethod
    def draw(cls, right_width: float, rng: np.random.Generator) -> Crescent:
        return cls(right_width * rng.uniform(0.6, 0.75), -rng.uniform(0.8, 1.05), rng.uniform(1.1, 1.25))

    def width(self, clock: Floats | float) -> Floats:
        """Its width beside the septum at end-diastole, 0 beyond its tips."""
        away = (clock - self.middle + np.pi) % (2 * np.pi) - np.pi
        return self.widest * np.sqrt(np.clip(1 - (away / self.reach) ** 2, 0, None))


@dataclass(frozen=True)
class Carried:
    """Tissue with what its way through the beat depends on, worked out once; x to `right` are (N,)."""

    section: Section
    lengths: Floats  # (T,) of the long axis, over its length at end-diastole
    x: Floats  # direction from the axis, of unit length
    z: Floats
    distance: Floats  # from the axis
    shape: Floats  # of the cavity's border in that direction
    muscle: Floats  # square of the distance, less that of the cavity's border; 0 inside
    fading: Floats  # share of the muscle's motion that it takes part in
    right: Floats  # how far the emptying of the right ventricle would move it

    @classmethod
    def of(cls, heart: ShortAxis, x: Floats, z: Floats) -> Carried:
        clock, distance = _clock(x, z), np.maximum(np.hypot(x, z), 1e-3)
        beyond = np.maximum(distance - heart.section.outer(clock), 0)
        width = np.maximum(heart.right.width(clock), 1)
        reach = beyond / width
        parts = (
            x / distance,
            z / distance,
            distance,
            heart.section.shape(clock),
            np.maximum(distance**2 - heart.section.inner(clock) ** 2, 0),
            np.exp(-beyond / 22),
            # The right ventricle's free wall comes towards the septum.
            0.45 * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)),
        )
        lengths = heart.ventricle.lengths / np.float32(heart.ventricle.anatomy.length)
        return cls(heart.section, lengths, *(np.asarray(part, np.float32) for part in parts))

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Where the tissue lies in a frame: x and z, each (N,)."""
        radius, length = np.float32(self.section.radii[frame]), np.float32(self.lengths[frame])
        scale = radius / np.float32(self.section.full)
        # The ring keeps its volume: what it loses in height, along the long axis, it gains in area.
        ring = np.sqrt((radius * self.shape) ** 2 + self.muscle / length)
        outside = self.distance + (ring - self.distance) * self.fading - (1 - scale**2) * self.right
        moved = np.where(self.muscle > 0, outside, self.distance * scale)
        return self.x * moved, self.z * moved


@dataclass(frozen=True)
class _PapillaryMuscles:
    """Scatterers of the anterolateral and the posteromedial papillary muscle: two discs that lean on the wall."""

    clocks: tuple[float, float]
    radii: tuple[float, float]  # at end-diastole
    muscle: NDArray[np.int_]  # (N,) 0 or 1
    outwards: Floats  # (N,) place in the disc, along the radius and across it, of unit radius
    across: Floats  # (N,)
    amplitude: Complexes  # (N,)

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int = 480) -> _PapillaryMuscles:
        clocks = (rng.uniform(1.95, 2.3), rng.uniform(3.75, 4.05))  # about four and half past seven
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
        """Positions x, z in a frame, in which the long axis has `length` of what it has at end-diastole."""
        clock = np.array(self.clocks)
        radius = np.array(self.radii) / np.sqrt(length)  # shortened, they thicken
        middle = section.radii[frame] * section.shape(clock) - 0.75 * radius
        k = self.muscle
        out = (middle[k] + radius[k] * self.outwards).astype(np.float32)
        side = (radius[k] * self.across).astype(np.float32)
        cos, sin = np.cos(clock[k]).astype(np.float32), np.sin(clock[k]).astype(np.float32)
        return out * sin + side * cos, side * sin - out * cos
