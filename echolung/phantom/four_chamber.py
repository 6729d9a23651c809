"""The apical four-chamber view: the left ventricle cut along its axis, beside it the right one, below them the atria.

Tissue follows the motion that the left ventricle imposes on what surrounds it: walls thicken because they keep their
volume, the valve plane comes towards the apex, the atria fill as the ventricles empty. Lengths are millimetres. In the
heart's own frame z runs from the apex along the ventricle's axis to the mitral plane and x across it, negative towards
the septum. Letters: T frames, H W pixels, N scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.breathing import Breathing, Pose
from echolung.phantom.simulator import Complexes, Floats, Scanner, SmoothField, decibels, unit_scatterers
from echolung.phantom.ventricle import WIDEST, HeartAnatomy, Ventricle, outline

_RIGHT_WALL = 4.0
_CUT = 1 / WIDEST - 1  # how far beyond its middle the ellipse is cut by the mitral plane, in its half-lengths
_FULLNESS = WIDEST / 2 * (np.pi / 2 + _CUT * np.sqrt(1 - _CUT**2) + np.arcsin(_CUT))
"""Area of the cut ellipse over that of the rectangle around it."""


@dataclass(frozen=True)
class FourChamber:
    """One person's beating heart in the apical four-chamber view, and how it lies before the probe."""

    ventricle: Ventricle
    rest: Pose  # with empty lungs; the frame's origin is the apex
    poses: Pose  # (T,)
    deepest: float  # how far below the probe the scan must reach to show all of it
    leaflets: _Leaflets

    @classmethod
    def draw(cls, ventricle: Ventricle, breathing: Breathing, times: Floats, rng: np.random.Generator) -> FourChamber:
        anatomy = ventricle.anatomy
        rest = Pose(x=rng.uniform(-1, 6), depth=rng.uniform(21, 29), tilt=rng.uniform(0.02, 0.17))
        return cls(
            ventricle=ventricle,
            rest=rest,
            poses=breathing.poses(rest, times),
            deepest=float(rest.depth) + anatomy.length + anatomy.atrium_length + max(0.0, breathing.axial),
            leaflets=_Leaflets.draw(ventricle, rng),
        )

    @property
    def areas(self) -> Floats:
        """The cavity's area in every frame, cm2, (T,)."""
        return 2 * self.ventricle.half_widths * self.ventricle.lengths * np.float32(_FULLNESS / 100)

    def masks(self, scanner: Scanner, size: int) -> NDArray[np.bool_]:
        """The cavity in every frame, (T, H, W): a pixel belongs to it if its centre does."""
        x, z = self.poses.pixel_centres(scanner, size)
        s = z / self.ventricle.lengths[:, None, None]
        return (s <= 1) & (np.abs(x) < self.ventricle.half_widths[:, None, None] * outline(s))

    def contour(self, frame: int, scanner: Scanner, size: int, count: int = 64) -> Floats:
        """The cavity's border as a closed polygon, (count, 2) pixels: around the apex, shut by the mitral plane."""
        angle = np.linspace(-1, 1, count) * (np.pi - np.arccos(_CUT))
        s = WIDEST * (1 - np.cos(angle))
        x = self.ventricle.half_widths[frame] * np.sin(angle)
        return self.poses.at(frame).pixels(x, s * self.ventricle.lengths[frame], scanner, size)

    def long_axis(self, frame: int, scanner: Scanner, size: int) -> Floats:
        """Ends of the long axis in pixels, (2, 2): (x, y) of the apex and of the middle of the mitral plane."""
        ends = np.array([0, self.ventricle.lengths[frame]])
        return self.poses.at(frame).pixels(np.zeros(2), ends, scanner, size)

    def discs(self, frame: int, scanner: Scanner, size: int, count: int = 20) -> Floats:
        """Chords across the middle of `count` slabs of equal height, from the apex down, (count, 2, 2) pixels."""
        s = (np.arange(count) + 0.5) / count
        half, z = self.ventricle.half_widths[frame] * outline(s), s * self.ventricle.lengths[frame]
        pose = self.poses.at(frame)
        return np.stack([pose.pixels(side * half, z, scanner, size) for side in (-1, 1)], 1)

    def tissue(self, x: Floats, z: Floats) -> Carried:
        """Tissue that lies at (x, z) at end-diastole, ready to be carried along."""
        return Carried.of(self.ventricle, x, z)

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: np.random.Generator) -> Floats:
        """Level in dB, relative to average muscle, of tissue at (x, z) at end-diastole, seen at angle `beam`."""
        anatomy = self.ventricle.anatomy
        length, half_width = anatomy.length, anatomy.diameter / 2
        inner = half_width * outline(np.clip(z / length, 0, 1))
        outer = _outer_half_width(anatomy, z)
        right = _right_half(anatomy, z)
        beyond_septum = -x - outer
        atrium = _atrial_radius(anatomy, x, z)
        atrial_wall = (atrium < 1.2) & (z > length - 4)
        muscle = (z < length) & (np.abs(x) < outer)
        right_wall = (z < length - 4) & (beyond_septum >= right) & (beyond_septum < right + _RIGHT_WALL) & (right > 0)
        pericardium = (z < length) & (x > 0) & (x >= outer) & (x < outer + 2.5)
        cavities = (
            ((z >= 0) & (z < length) & (np.abs(x) < inner))
            | ((z < length - 3) & (beyond_septum > 0) & (beyond_septum < right))
            | (atrium < 1)
        )
        level = np.where(z < 0, 0.0, np.where(z < length, -13.0, -10.0))  # chest wall; lungs; what lies behind
        level = np.where(atrial_wall, 2.0, level)
        level = np.where(pericardium, 5.0, np.where(right_wall, 2.0, np.where(muscle, 0.0, level)))
        level += 2.5 * SmoothField.draw(rng, 6, 9)(x, z) * np.where(muscle, 0.6, 1.0)
        # Muscle and its surfaces answer best where the beam meets them squarely: side walls fade, as in patients.
        slope = np.gradient(half_width * outline(np.linspace(0, 1, 201)), length / 200)
        along = np.interp(z, np.linspace(0, length, 201), np.clip(slope, -3, 3))
        seen = beam - self.rest.tilt
        facing = np.abs(np.sign(x) * np.sin(seen) - along * np.cos(seen)) / np.hypot(1, along)
        lining = muscle & (np.abs(x) < inner + 2)
        level += np.where(muscle, 7 * facing**2 - 3, 0) + np.where(lining, 3 + 3 * facing, 0)
        for hinge_x, hinge_z in _hinges(anatomy):
            level = np.where(np.hypot(x - hinge_x, z - hinge_z) < 3.2, 8.0, level)
        return np.where(cavities, -30.0 + 2 * SmoothField.draw(rng, 10, 10)(x, z), level).astype(np.float32)

    def moving(self, frame: int) -> tuple[Floats, Floats, Complexes]:
        """What does not simply follow the tissue around it, the valves' leaflets: x, z and amplitude, each (N,)."""
        return *self.leaflets.at(frame), self.leaflets.amplitude


def _outer_half_width(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Distance of the ventricle's outer surface from its axis, at end-diastole; constant below the mitral plane."""
    centre, reach = WIDEST * anatomy.length, WIDEST * anatomy.length + anatomy.wall
    z = np.minimum(z, anatomy.length)
    return (anatomy.diameter / 2 + anatomy.wall) * np.sqrt(np.clip(1 - ((z - centre) / reach) ** 2, 0, None))


def _right_half(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Width of the right ventricle's cavity beside the septum; it begins a third of the way down."""
    widest, apex = 0.88 * anatomy.length, 0.28 * anatomy.length
    return anatomy.right_width * np.sqrt(np.clip(1 - ((z - widest) / (widest - apex)) ** 2, 0, None))


def _atrial_radius(anatomy: HeartAnatomy, x: Floats, z: Floats) -> Floats:
    """Distance from the centre of the nearer atrium, an ellipse: less than 1 inside it, and not on the septum."""
    half = anatomy.atrium_length / 2
    left = np.hypot((x - 1) / (0.8 * anatomy.diameter / 2 + 4), (z - anatomy.length - half) / (half + 2))
    centre = -_outer_half_width(anatomy, anatomy.length) - 0.42 * anatomy.right_width
    right = np.hypot((x - centre) / (0.62 * anatomy.right_width), (z - anatomy.length - half + 3) / half)
    nearer = np.minimum(left, right)
    return np.where(np.abs(left - right) < 0.16, np.maximum(nearer, 1.1), nearer)


def _hinges(anatomy: HeartAnatomy) -> list[tuple[float, float]]:
    """Where the valves hang: lateral and septal mitral, septal and lateral tricuspid annulus."""
    length = anatomy.length
    mitral = anatomy.diameter / 2 * float(outline(1.0))
    septum = float(_outer_half_width(anatomy, length))
    right = float(_right_half(anatomy, length - 4))
    return [(mitral + 2, length), (-mitral - 2, length), (-septum, length - 4), (-septum - right, length - 4)]


@dataclass(frozen=True)
class Carried:
    """Tissue with what its way through the beat depends on, worked out once; every field but the first is (N,)."""

    ventricle: Ventricle
    x: Floats
    z: Floats
    distance: Floats  # from the ventricle's axis
    shape: Floats  # of the cavity's border beside it
    muscle: Floats  # square of the distance, less that of the cavity's border; 0 inside
    fading: Floats  # share of the muscle's motion that it takes part in
    fading_down: Floats  # and of all motion across the axis, above the apex and below the valves
    right: Floats  # how far the emptying of the right ventricle would move it
    plane: Floats  # share of the valve plane's motion that it takes part in

    @classmethod
    def of(cls, ventricle: Ventricle, x: Floats, z: Floats) -> Carried:
        anatomy = ventricle.anatomy
        length = anatomy.length
        distance, outer = np.abs(x), _outer_half_width(anatomy, z)
        shape = outline(np.clip(z / length, 0, 1))
        fading_down = np.exp(-((np.maximum(z - length, 0) / 14) ** 2)) * np.exp(-((np.minimum(z, 0) / 8) ** 2))
        # The right ventricle's free wall comes towards the septum.
        width = np.maximum(_right_half(anatomy, np.minimum(z, 0.9 * length)), 1)
        reach = np.maximum(-x - outer, 0) / width
        right = 0.45 * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)) * fading_down
        parts = (
            x,
            z,
            distance,
            shape,
            np.maximum(distance**2 - (anatomy.diameter / 2 * shape) ** 2, 0),
            np.exp(-np.maximum(distance - outer, 0) / 22),
            fading_down,
            right,
            # The valve plane comes towards the apex; the back of the atria stays.
            np.clip(1 - (z - length) / (anatomy.atrium_length + 8), 0, 1),
        )
        return cls(ventricle, *(np.asarray(part, np.float32) for part in parts))

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Where the tissue lies in a frame: x and z, each (N,)."""
        return self.when(float(self.ventricle.lengths[frame]), float(self.ventricle.half_widths[frame]))

    def when(self, length: float, half_width: float) -> tuple[Floats, Floats]:
        """Where the tissue lies when the left ventricle has this length and this half-width."""
        full_length, full_half_width = self.ventricle.anatomy.length, self.ventricle.anatomy.diameter / 2
        ratio, scale = np.float32(length / full_length), np.float32(half_width / full_half_width)
        # Outside the cavity rings of muscle keep their volume: what they lose in height they gain in thickness.
        ring = np.sqrt((np.float32(half_width) * self.shape) ** 2 + self.muscle / ratio)
        outside = self.distance + (ring - self.distance) * self.fading
        moved = np.where(self.muscle > 0, outside, self.distance * scale)
        new_x = self.x + np.sign(self.x) * (moved - self.distance) * self.fading_down + (1 - scale**2) * self.right
        shortened = np.where(self.z > 0, self.z * ratio, self.z)
        new_z = np.where(self.z < full_length, shortened, self.z - np.float32(full_length - length) * self.plane)
        return new_x, new_z


@dataclass(frozen=True)
class _Leaflets:
    """Scatterers of the mitral and tricuspid leaflets: each belongs to a hinge, at a place along its leaflet."""

    hinges: Carried
    hinge: NDArray[np.int_]  # (N,) index into `_hinges`
    along: Floats  # (N,) 0 at the hinge, 1 at the tip
    thickness: Floats  # (N,)
    amplitude: Complexes  # (N,)

    @classmethod
    def draw(cls, ventricle: Ventricle, rng: np.random.Generator, count: int = 480) -> _Leaflets:
        places = np.array(_hinges(ventricle.anatomy), np.float32)
        amplitude = unit_scatterers(rng, count) * decibels(4.0)
        thickness = rng.normal(0, 0.5, count).astype(np.float32)
        along = rng.random(count, dtype=np.float32)
        return cls(Carried.of(ventricle, places[:, 0], places[:, 1]), np.arange(count) % 4, along, thickness, amplitude)

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Positions x, z in a frame: shut, the tips meet a little on the ventricle's side; open, they hang into it."""
        hinge_x, hinge_z = self.hinges.at(frame)
        span = np.abs(hinge_x - hinge_x[[1, 0, 3, 2]])
        inwards = np.array([-1, 1, -1, 1], np.float32)  # towards the partner across the orifice
        swing = (
            np.float32(0.22) + np.float32(1.05) * self.hinges.ventricle.opening[frame]
        )  # radians from the valve's plane
        reach = 0.53 * span
        tip_x, tip_z = inwards * reach * np.cos(swing), -reach * np.sin(swing)
        k, bow = self.hinge, np.sin(np.pi * self.along) * 0.08
        x = hinge_x[k] + self.along * tip_x[k] + self.thickness
        z = hinge_z[k] + self.along * tip_z[k] - bow * span[k] + self.thickness
        return x.astype(np.float32), z.astype(np.float32)
