"""The apical four-chamber view: both ventricles cut along the axis of the left one, and the atria below them.

The left ventricle moves the tissue around it: walls keep their volume and so thicken, the valve plane moves towards the
apex, the atria fill as the ventricles empty. Lengths are millimetres. In the heart's frame z runs along the axis of the
left ventricle from the apex to the mitral plane, and x across it, negative towards the septum.
Dimension letters: T frames, H W pixels, N scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.breathing import Breathing, Pose
from echolung.phantom.simulator import Complexes, Floats, Scanner, SmoothField, decibels, unit_scatterers
from echolung.phantom.ventricle import WIDEST, HeartAnatomy, Ventricle, outline

_RIGHT_WALL = 4.0
_CUT = 1 / WIDEST - 1  # where the mitral plane cuts the ellipse: distance from its centre, in half-lengths
_FULLNESS = WIDEST / 2 * (np.pi / 2 + _CUT * np.sqrt(1 - _CUT**2) + np.arcsin(_CUT))  # area / bounding rectangle


@dataclass(frozen=True)
class FourChamber:
    """A beating heart in the apical four-chamber view, and its position relative to the probe."""

    ventricle: Ventricle
    rest: Pose  # at the end of expiration; the origin is the apex
    poses: Pose  # (T,)
    deepest: float  # depth that the scan must reach to show the whole heart
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
        """Area of the cavity, cm2, (T,)."""
        return 2 * self.ventricle.half_widths * self.ventricle.lengths * np.float32(_FULLNESS / 100)

    def masks(self, scanner: Scanner, size: int) -> NDArray[np.bool_]:
        """Mask of the cavity, (T, H, W): the pixels whose centre is inside."""
        x, z = self.poses.pixel_centres(scanner, size)
        s = z / self.ventricle.lengths[:, None, None]
        return (s <= 1) & (np.abs(x) < self.ventricle.half_widths[:, None, None] * outline(s))

    def contour(self, frame: int, scanner: Scanner, size: int, count: int = 64) -> Floats:
        """Border of the cavity as a closed polygon, (count, 2) pixels; the mitral plane is its last side."""
        angle = np.linspace(-1, 1, count) * (np.pi - np.arccos(_CUT))
        s = WIDEST * (1 - np.cos(angle))
        x = self.ventricle.half_widths[frame] * np.sin(angle)
        return self.poses.at(frame).pixels(x, s * self.ventricle.lengths[frame], scanner, size)

    def long_axis(self, frame: int, scanner: Scanner, size: int) -> Floats:
        """Apex and centre of the mitral plane, (2, 2) pixels: x and y."""
        ends = np.array([0, self.ventricle.lengths[frame]])
        return self.poses.at(frame).pixels(np.zeros(2), ends, scanner, size)

    def discs(self, frame: int, scanner: Scanner, size: int, count: int = 20) -> Floats:
        """Diameters of `count` discs of equal height, from the apex down, (count, 2, 2) pixels."""
        s = (np.arange(count) + 0.5) / count
        half, z = self.ventricle.half_widths[frame] * outline(s), s * self.ventricle.lengths[frame]
        pose = self.poses.at(frame)
        return np.stack([pose.pixels(side * half, z, scanner, size) for side in (-1, 1)], 1)

    def tissue(self, x: Floats, z: Floats) -> Tissue:
        """The tissue that is at (x, z), each (N,), at end-diastole."""
        return Tissue.of(self.ventricle, x, z)

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: np.random.Generator) -> Floats:
        """Echo level in dB relative to average muscle, of tissue at (x, z) at end-diastole in the beam at `beam`."""
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
        level = np.where(z < 0, 0.0, np.where(z < length, -13.0, -10.0))  # chest wall; lungs; behind the heart
        level = np.where(atrial_wall, 2.0, level)
        level = np.where(pericardium, 5.0, np.where(right_wall, 2.0, np.where(muscle, 0.0, level)))
        level += 2.5 * SmoothField.draw(rng, 6, 9)(x, z) * np.where(muscle, 0.6, 1.0)
        # Muscle reflects best where the beam is perpendicular to it: side walls are darker, as in patients.
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
        """Scatterers that do not move with the tissue, the valve leaflets: x, z and amplitude, each (N,)."""
        return *self.leaflets.at(frame), self.leaflets.amplitude


def _outer_half_width(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Distance from the axis to the outer surface of the left ventricle; constant below the mitral plane."""
    centre, reach = WIDEST * anatomy.length, WIDEST * anatomy.length + anatomy.wall
    z = np.minimum(z, anatomy.length)
    return (anatomy.diameter / 2 + anatomy.wall) * np.sqrt(np.clip(1 - ((z - centre) / reach) ** 2, 0, None))


def _right_half(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Width of the right ventricle's cavity; it begins a third of the way down."""
    widest, apex = 0.88 * anatomy.length, 0.28 * anatomy.length
    return anatomy.right_width * np.sqrt(np.clip(1 - ((z - widest) / (widest - apex)) ** 2, 0, None))


def _atrial_radius(anatomy: HeartAnatomy, x: Floats, z: Floats) -> Floats:
    """Distance from the centre of the nearer atrium in its radii: < 1 inside the ellipse, > 1 on the septum."""
    half = anatomy.atrium_length / 2
    left = np.hypot((x - 1) / (0.8 * anatomy.diameter / 2 + 4), (z - anatomy.length - half) / (half + 2))
    centre = -_outer_half_width(anatomy, anatomy.length) - 0.42 * anatomy.right_width
    right = np.hypot((x - centre) / (0.62 * anatomy.right_width), (z - anatomy.length - half + 3) / half)
    nearer = np.minimum(left, right)
    return np.where(np.abs(left - right) < 0.16, np.maximum(nearer, 1.1), nearer)


def _hinges(anatomy: HeartAnatomy) -> list[tuple[float, float]]:
    """The valve annulus: lateral and septal mitral, septal and lateral tricuspid."""
    length = anatomy.length
    mitral = anatomy.diameter / 2 * float(outline(1.0))
    septum = float(_outer_half_width(anatomy, length))
    right = float(_right_half(anatomy, length - 4))
    return [(mitral + 2, length), (-mitral - 2, length), (-septum, length - 4), (-septum - right, length - 4)]


@dataclass(frozen=True)
class Tissue:
    """Points of tissue, with everything their motion depends on; every field but `ventricle` is (N,)."""

    ventricle: Ventricle
    x: Floats  # at end-diastole
    z: Floats
    distance: Floats  # from the axis
    shape: Floats  # half-width of the cavity at this z, relative to the largest
    muscle: Floats  # distance^2 - (half-width of the cavity)^2; 0 inside the cavity
    fading: Floats  # share of the muscle's motion that this point follows
    fading_down: Floats  # the same for motion across the axis, above the apex and below the valves
    right: Floats  # displacement when the right ventricle empties
    plane: Floats  # share of the valve plane's motion that this point follows

    @classmethod
    def of(cls, ventricle: Ventricle, x: Floats, z: Floats) -> Tissue:
        anatomy = ventricle.anatomy
        length = anatomy.length
        distance, outer = np.abs(x), _outer_half_width(anatomy, z)
        shape = outline(np.clip(z / length, 0, 1))
        fading_down = np.exp(-((np.maximum(z - length, 0) / 14) ** 2)) * np.exp(-((np.minimum(z, 0) / 8) ** 2))
        # The free wall of the right ventricle moves towards the septum.
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
            # The valve plane moves towards the apex; the back of the atria does not.
            np.clip(1 - (z - length) / (anatomy.atrium_length + 8), 0, 1),
        )
        return cls(ventricle, *(np.asarray(part, np.float32) for part in parts))

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Positions x and z in a frame, each (N,)."""
        length, half_width = float(self.ventricle.lengths[frame]), float(self.ventricle.half_widths[frame])
        full_length, full_half_width = self.ventricle.anatomy.length, self.ventricle.anatomy.diameter / 2
        ratio, scale = np.float32(length / full_length), np.float32(half_width / full_half_width)
        # Rings of muscle keep their volume: as they get shorter they get thicker.
        ring = np.sqrt((np.float32(half_width) * self.shape) ** 2 + self.muscle / ratio)
        outside = self.distance + (ring - self.distance) * self.fading
        moved = np.where(self.muscle > 0, outside, self.distance * scale)
        new_x = self.x + np.sign(self.x) * (moved - self.distance) * self.fading_down + (1 - scale**2) * self.right
        shortened = np.where(self.z > 0, self.z * ratio, self.z)
        new_z = np.where(self.z < full_length, shortened, self.z - np.float32(full_length - length) * self.plane)
        return new_x, new_z


@dataclass(frozen=True)
class _Leaflets:
    """Scatterers on the mitral and tricuspid leaflets."""

    hinges: Tissue
    hinge: NDArray[np.int_]  # (N,) index into `hinges`
    along: Floats  # (N,) 0 at the hinge, 1 at the tip
    thickness: Floats  # (N,)
    amplitude: Complexes  # (N,)

    @classmethod
    def draw(cls, ventricle: Ventricle, rng: np.random.Generator, count: int = 480) -> _Leaflets:
        places = np.array(_hinges(ventricle.anatomy), np.float32)
        amplitude = unit_scatterers(rng, count) * decibels(4.0)
        thickness = rng.normal(0, 0.5, count).astype(np.float32)
        along = rng.random(count, dtype=np.float32)
        return cls(Tissue.of(ventricle, places[:, 0], places[:, 1]), np.arange(count) % 4, along, thickness, amplitude)

    def at(self, frame: int) -> tuple[Floats, Floats]:
        """Positions x and z in a frame: tips of closed leaflets meet, open leaflets point into the ventricle."""
        hinge_x, hinge_z = self.hinges.at(frame)
        span = np.abs(hinge_x - hinge_x[[1, 0, 3, 2]])
        inwards = np.array([-1, 1, -1, 1], np.float32)  # towards the opposite hinge
        opening = self.hinges.ventricle.opening[frame]
        swing = np.float32(0.22) + np.float32(1.05) * opening  # angle with the valve plane
        reach = 0.53 * span
        tip_x, tip_z = inwards * reach * np.cos(swing), -reach * np.sin(swing)
        k, bow = self.hinge, np.sin(np.pi * self.along) * 0.08
        x = hinge_x[k] + self.along * tip_x[k] + self.thickness
        z = hinge_z[k] + self.along * tip_z[k] - bow * span[k] + self.thickness
        return x.astype(np.float32), z.astype(np.float32)
