"""The apical views, cut along the axis of the left ventricle: four chambers, or the left two, a right angle away.

The left ventricle moves the tissue around it: walls keep their volume and so thicken, the valve plane moves towards the
apex, the atria fill as the ventricles empty. Lengths are millimetres. In the heart's frame z runs along the axis of the
left ventricle from the apex to the mitral plane, and x across it, negative towards the septum.
Dimension letters: T frames, H W pixels, N scatterers.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.motion import WIDEST, Breathing, HeartAnatomy, Motion, Pose, Ventricle, outline
from echolung.phantom.simulator import Complexes, Floats, Rng, SmoothField, decibels, single, unit_scatterers

_RIGHT_WALL = 4.0
_LEAFLETS = 480  # scatterers
_CUT = 1 / WIDEST - 1  # where the mitral plane cuts the ellipse: distance from its centre, in half-lengths
_FULLNESS = WIDEST / 2 * (np.pi / 2 + _CUT * np.sqrt(1 - _CUT**2) + np.arcsin(_CUT))  # area / bounding rectangle


class FourChamber:
    """A beating heart in the apical four-chamber view, and its position relative to the probe."""

    def __init__(self, ventricle: Ventricle, breathing: Breathing, times: Floats, rng: Rng) -> None:
        self.ventricle = ventricle
        self.anatomy, self.walls = self.section()
        anatomy = self.anatomy
        # At the end of expiration; the origin is the apex.
        self.rest = Pose(x=rng.uniform(-1, 6), depth=rng.uniform(21, 29), tilt=rng.uniform(0.02, 0.17))
        self.poses = breathing.poses(self.rest, times)
        self.deepest = float(self.rest.depth) + anatomy.length + anatomy.atrium_length + breathing.axial
        self.areas = self.walls.sum(0) * ventricle.lengths * np.float32(_FULLNESS / 100)  # cm2, (T,)
        # Scatterers on the leaflets of the valves.
        self._leaflets = unit_scatterers(rng, _LEAFLETS) * decibels(4.0)
        self._thickness = rng.normal(0, 0.5, _LEAFLETS).astype(np.float32)
        self._along = rng.random(_LEAFLETS, dtype=np.float32)  # 0 at the hinge, 1 at the tip
        self._hinges = self.tissue(*np.array(_hinges(anatomy), np.float32).T)

    def section(self) -> tuple[HeartAnatomy, Floats]:
        """What this view cuts: the anatomy, and the largest half-widths left and right of the axis, (2, T)."""
        return self.ventricle.anatomy, self.ventricle.walls

    def inside(self, x: Floats, z: Floats) -> NDArray[np.bool_]:
        """Whether points (T, H, W) are in the cavity."""
        s = z / self.ventricle.lengths[:, None, None]
        left, right = self.walls[:, :, None, None]
        return (s <= 1) & (np.abs(x) < np.where(x < 0, left, right) * outline(s))

    def border(self, frame: int, count: int) -> tuple[Floats, Floats]:
        """Border of the cavity as a closed polygon: x and z, each (count,); the mitral plane is its last side."""
        angle = np.linspace(-1, 1, count) * (np.pi - np.arccos(_CUT))
        s = WIDEST * (1 - np.cos(angle))
        left, right = self.walls[:, frame]
        return np.where(angle < 0, left, right) * np.sin(angle), s * self.ventricle.lengths[frame]

    def surroundings(self, count: int) -> dict[int, tuple[Floats, Floats]]:
        """Borders at end-diastole of what lies around the cavity: label -> x and z, each (count,) of a closed polygon.

        2: the outer surface of the muscle down to the mitral plane; 3: the left atrium.
        """
        length, wall, angle = self.anatomy.length, self.anatomy.wall, np.linspace(0, 2 * np.pi, count, endpoint=False)
        z = np.concatenate([np.linspace(length, -wall, count // 2), np.linspace(-wall, length, count - count // 2)])
        sides = np.where(np.arange(count) < count // 2, -1, 1)
        (x, across), (middle, down) = _left_atrium(self.anatomy)
        outer = sides * _outer_half_width(self.anatomy, z)
        return {2: (outer, z), 3: (x + across * np.cos(angle), middle + down * np.sin(angle))}

    def chords(self, frame: int, discs: int = 20) -> tuple[Floats, Floats]:
        """The long axis, then the diameters of discs of equal height from the apex down: x and z, (1 + discs, 2)."""
        s, length = (np.arange(discs) + 0.5) / discs, self.ventricle.lengths[frame]
        half, z = self.walls[:, frame, None] * outline(s), s * length
        return np.vstack([np.zeros(2), np.stack([-half[0], half[1]], 1)]), np.vstack([[0, length], np.stack([z, z], 1)])

    def tissue(self, x: Floats, z: Floats) -> Motion:
        """How the tissue that is at (x, z), each (N,), at end-diastole moves."""
        ventricle, anatomy = self.ventricle, self.anatomy
        full_length, full_half_width = anatomy.length, anatomy.diameter / 2
        distance, outer = np.abs(x), _outer_half_width(anatomy, z)
        shape = outline(np.clip(z / full_length, 0, 1))
        muscle = np.maximum(distance**2 - (full_half_width * shape) ** 2, 0)  # 0 inside the cavity
        fading = np.exp(-np.maximum(distance - outer, 0) / 22)  # share of the muscle's motion that a point follows
        # The same for motion across the axis, above the apex and below the valves.
        fading_down = np.exp(-((np.maximum(z - full_length, 0) / 14) ** 2)) * np.exp(-((np.minimum(z, 0) / 8) ** 2))
        # The free wall of the right ventricle moves towards the septum.
        width = np.maximum(_right_half(anatomy, np.minimum(z, 0.9 * full_length)), 1)
        reach = np.maximum(-x - outer, 0) / width
        right = 0.45 * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)) * fading_down
        # The valve plane moves towards the apex; the back of the atria does not.
        plane = np.clip(1 - (z - full_length) / (anatomy.atrium_length + 8), 0, 1)
        shape, muscle, fading, fading_down, right, plane = single(shape, muscle, fading, fading_down, right, plane)

        def at(frame: int) -> tuple[Floats, Floats]:
            length, (left, right_side) = float(ventricle.lengths[frame]), self.walls[:, frame]
            half_width = np.where(x < 0, left, right_side)
            ratio, scale = np.float32(length / full_length), (half_width / full_half_width).astype(np.float32)
            # Rings of muscle keep their volume: as they get shorter they get thicker.
            ring = np.sqrt((half_width.astype(np.float32) * shape) ** 2 + muscle / ratio)
            moved = np.where(muscle > 0, distance + (ring - distance) * fading, distance * scale)
            new_x = x + np.sign(x) * (moved - distance) * fading_down + (1 - scale**2) * right
            new_z = np.where(z > 0, z * ratio, z)
            return new_x, np.where(z < full_length, new_z, z - np.float32(full_length - length) * plane)

        return at

    def echogenicity(self, x: Floats, z: Floats, beam: Floats, rng: Rng) -> Floats:
        """Echo level in dB relative to average muscle, of tissue at (x, z) at end-diastole in the beam at `beam`."""
        anatomy = self.anatomy
        length, half_width = anatomy.length, anatomy.diameter / 2
        inner = half_width * outline(np.clip(z / length, 0, 1))
        outer = _outer_half_width(anatomy, z)
        right = _right_half(anatomy, z)
        beyond_septum = -x - outer
        atrium = _atrial_radius(anatomy, x, z)
        atrial_wall = (atrium < 1.2) & (z > length - 4)
        muscle = (z < length) & (np.abs(x) < outer)
        right_wall = (z < length - 4) & (beyond_septum >= right) & (beyond_septum < right + _RIGHT_WALL) & (right > 0)
        beside = np.where(anatomy.right_width > 0, x, np.abs(x))  # no right heart: pericardium on both sides
        pericardium = (z < length) & (beside > 0) & (beside >= outer) & (beside < outer + 2.5)
        cavities = (
            ((z >= 0) & (z < length) & (np.abs(x) < inner))
            | ((z < length - 3) & (beyond_septum > 0) & (beyond_septum < right))
            | (atrium < 1)
        )
        level = np.where(z < 0, 0.0, np.where(z < length, -13.0, -10.0))  # chest wall; lungs; behind the heart
        level = np.where(atrial_wall, 2.0, level)
        level = np.where(pericardium, 5.0, np.where(right_wall, 2.0, np.where(muscle, 0.0, level)))
        level += 2.5 * SmoothField(rng, 6, 9)(x, z) * np.where(muscle, 0.6, 1.0)
        # Muscle reflects best where the beam is perpendicular to it: side walls are darker, as in patients.
        slope = np.gradient(half_width * outline(np.linspace(0, 1, 201)), length / 200)
        along = np.interp(z, np.linspace(0, length, 201), np.clip(slope, -3, 3))
        seen = beam - self.rest.tilt
        facing = np.abs(np.sign(x) * np.sin(seen) - along * np.cos(seen)) / np.hypot(1, along)
        lining = muscle & (np.abs(x) < inner + 2)
        level += np.where(muscle, 7 * facing**2 - 3, 0) + np.where(lining, 3 + 3 * facing, 0)
        for hinge_x, hinge_z in _hinges(anatomy):
            level = np.where(np.hypot(x - hinge_x, z - hinge_z) < 3.2, 8.0, level)
        return np.where(cavities, -30.0 + 2 * SmoothField(rng, 10, 10)(x, z), level).astype(np.float32)

    def moving(self, frame: int) -> tuple[Floats, Floats, Complexes]:
        """Scatterers that do not move with the tissue, the mitral and tricuspid leaflets: x, z and amplitude, (N,).

        Tips of closed leaflets meet, open leaflets point into the ventricle.
        """
        hinge_x, hinge_z = self._hinges(frame)
        valves = len(hinge_x)
        span = np.abs(hinge_x - hinge_x[[1, 0, 3, 2][:valves]])
        inwards = np.array([-1, 1, -1, 1][:valves], np.float32)  # towards the opposite hinge
        swing = np.float32(0.22) + np.float32(1.05) * self.ventricle.opening[frame]  # angle with the valve plane
        reach = 0.53 * span
        tip_x, tip_z = inwards * reach * np.cos(swing), -reach * np.sin(swing)
        along, k, bow = self._along, np.arange(_LEAFLETS) % valves, np.sin(np.pi * self._along) * 0.08
        x = hinge_x[k] + along * tip_x[k] + self._thickness
        z = hinge_z[k] + along * tip_z[k] - bow * span[k] + self._thickness
        return x.astype(np.float32), z.astype(np.float32), self._leaflets


class TwoChamber(FourChamber):
    """The same heart turned by a right angle about its axis: left ventricle and atrium, anterior and inferior wall."""

    def section(self) -> tuple[HeartAnatomy, Floats]:
        """Another diameter and no right heart; the walls of the four-chamber view are not cut, so both move alike."""
        turned = copy.copy(self.ventricle.anatomy)
        turned.diameter *= turned.flatness
        turned.right_width = 0.0
        return turned, np.stack([self.ventricle.half_widths * np.float32(turned.flatness)] * 2)


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
    (middle_x, across), (middle, down) = _left_atrium(anatomy)
    left = np.hypot((x - middle_x) / across, (z - middle) / down)
    if not anatomy.right_width:
        return left
    half = anatomy.atrium_length / 2
    centre = -_outer_half_width(anatomy, anatomy.length) - 0.42 * anatomy.right_width
    right = np.hypot((x - centre) / (0.62 * anatomy.right_width), (z - anatomy.length - half + 3) / half)
    nearer = np.minimum(left, right)
    return np.where(np.abs(left - right) < 0.16, np.maximum(nearer, 1.1), nearer)


def _left_atrium(anatomy: HeartAnatomy) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and radius of its ellipse, across and along the axis."""
    half = anatomy.atrium_length / 2
    return (1.0, 0.8 * anatomy.diameter / 2 + 4), (anatomy.length + half, half + 2)


def _hinges(anatomy: HeartAnatomy) -> list[tuple[float, float]]:
    """The valve annulus: lateral and septal mitral, then, if the right heart is seen, septal and lateral tricuspid."""
    length = anatomy.length
    mitral = anatomy.diameter / 2 * float(outline(1.0))
    septum = float(_outer_half_width(anatomy, length))
    right = float(_right_half(anatomy, length - 4))
    hinges = [(mitral + 2, length), (-mitral - 2, length), (-septum, length - 4), (-septum - right, length - 4)]
    return hinges if anatomy.right_width else hinges[:2]
