"""A beating heart in the apical four-chamber view, drawn from scatterers that its tissue carries.

Scatterers are placed once, at end-diastole, with the echogenicity of the tissue they lie in, and then follow the
motion that the left ventricle (ventricle.py) imposes on what surrounds it: walls thicken because they keep their
volume, the valve plane comes towards the apex, the atria fill as the ventricles empty. Lengths are millimetres; x and
z as in ventricle.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echolung.data.phantom.simulator import Complexes, Floats, Scanner, SmoothField, decibels, unit_scatterers
from echolung.data.phantom.ventricle import WIDEST, HeartAnatomy, Ventricle, outline

_SCATTERERS_PER_MM2 = 1.3
_RIGHT_WALL = 4.0


@dataclass(frozen=True)
class HeartVideo:
    """Frames, with the truth about the left ventricle."""

    frames: NDArray[np.uint8]  # (T, H, W)
    ventricle: Ventricle
    scanner: Scanner
    fps: float


def heart_scanner(anatomy: HeartAnatomy, rng: np.random.Generator, size: int) -> Scanner:
    """A phased array whose depth shows this heart, with an operator's choice of gain; sampled to suit `size` pixels."""
    return Scanner(
        radius=0,
        half_angle=np.deg2rad(rng.uniform(37, 41)),
        depth=anatomy.apex_depth + anatomy.length + anatomy.atrium_length + rng.uniform(8, 18),
        frequency=rng.uniform(1.8, 3.0),
        aperture=rng.uniform(15, 19),
        samples=max(160, 2 * size),
        beams=max(112, round(1.2 * size)),
        gain=rng.uniform(-5, 5),
        dynamic_range=rng.uniform(46, 62),
        time_gain=rng.uniform(0.92, 1.0),
        noise=rng.uniform(-66, -52),
    )


def draw_heart(ef: float, frames: int, fps: float, size: int, seed: int) -> HeartVideo:
    """Draw a heart that ejects `ef` percent of its volume, uint8 frames (frames, size, size).

    The tissue's motion repeats exactly from beat to beat; only the receiver's noise is fresh in every frame. The
    person and the scanner's settings follow from `seed`.
    """
    rng = np.random.default_rng(seed)
    anatomy = HeartAnatomy.draw(rng, ef)
    scanner = heart_scanner(anatomy, rng, size)
    ventricle = Ventricle.beating(anatomy, ef, frames, fps, start=int(rng.integers(1000)))
    x, z, amplitude = _tissue(anatomy, scanner, rng)
    leaflets = _Leaflets.draw(anatomy, rng)
    clutter, window = _near_field_clutter(scanner, rng), _acoustic_window(scanner, rng)
    echo = np.empty((frames, scanner.samples, scanner.beams), np.complex64)
    for t in range(frames):
        earlier = t - ventricle.frames_per_beat
        if earlier >= 0:  # the tissue stands where it stood a beat ago
            echo[t] = echo[earlier]
            continue
        moved = _carry(anatomy, x, z, ventricle.lengths[t], ventricle.half_widths[t])
        field = scanner.deposit(*_beam_position(anatomy, *moved), amplitude)
        field += scanner.deposit(*_beam_position(anatomy, *leaflets.at(ventricle, t)), leaflets.amplitude)
        echo[t] = scanner.receive((field + clutter) * window)
    pixels = scanner.scan_convert(scanner.grey(echo, rng), size, size)
    return HeartVideo(pixels, ventricle, scanner, fps)


def _beam_position(anatomy: HeartAnatomy, x: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Depth and angle at which the scanner sees points of the heart's frame."""
    lateral, axial = anatomy.to_image(x, z)
    return np.hypot(lateral, axial), np.arctan2(lateral, axial)


def _outer_half_width(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Distance of the ventricle's outer surface from its axis, at end-diastole; constant below the mitral plane."""
    centre, reach = WIDEST * anatomy.length, WIDEST * anatomy.length + anatomy.wall
    z = np.minimum(z, anatomy.length)
    return (anatomy.diameter / 2 + anatomy.wall) * np.sqrt(np.clip(1 - ((z - centre) / reach) ** 2, 0, None))


def _right_half(anatomy: HeartAnatomy, z: Floats | float) -> Floats:
    """Width of the right ventricle's cavity beside the septum; it begins a third of the way down."""
    widest, apex = 0.88 * anatomy.length, 0.28 * anatomy.length
    return anatomy.right_width * np.sqrt(np.clip(1 - ((z - widest) / (widest - apex)) ** 2, 0, None))


def _tissue(anatomy: HeartAnatomy, scanner: Scanner, rng: np.random.Generator) -> tuple[Floats, Floats, Complexes]:
    """Scatterers of everything in view at end-diastole: x, z and complex amplitude, each (N,)."""
    spread = float(scanner.angles[-1] - scanner.angles[0])
    count = round(_SCATTERERS_PER_MM2 * 0.5 * scanner.depth**2 * spread)
    depth = scanner.depth * np.sqrt(rng.random(count, dtype=np.float32))
    angle = scanner.angles[0] + spread * rng.random(count, dtype=np.float32)
    x, z = anatomy.from_image(depth * np.sin(angle), depth * np.cos(angle))
    cell = (scanner.depth / scanner.samples) * (spread / (scanner.beams - 1)) * np.maximum(depth, 1)
    level = _echogenicity(anatomy, x, z, angle, rng)
    amplitude = unit_scatterers(rng, count) * decibels(level) / np.sqrt(_SCATTERERS_PER_MM2 * cell)
    return x, z, amplitude


def _echogenicity(anatomy: HeartAnatomy, x: Floats, z: Floats, beam: Floats, rng: np.random.Generator) -> Floats:
    """Level in dB, relative to average muscle, of tissue at (x, z) at end-diastole, seen at angle `beam`."""
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
    # Muscle and its surfaces answer best where the beam meets them squarely: side walls fade, as they do in patients.
    slope = np.gradient(half_width * outline(np.linspace(0, 1, 201)), length / 200)
    along = np.interp(z, np.linspace(0, length, 201), np.clip(slope, -3, 3))
    across_x, across_z = np.sign(x), -along
    facing = np.abs(across_x * np.sin(beam - anatomy.tilt) + across_z * np.cos(beam - anatomy.tilt)) / np.hypot(
        1, along
    )
    lining = muscle & (np.abs(x) < inner + 2)
    level += np.where(muscle, 7 * facing**2 - 3, 0) + np.where(lining, 3 + 3 * facing, 0)
    for hinge_x, hinge_z in _hinges(anatomy):
        level = np.where(np.hypot(x - hinge_x, z - hinge_z) < 3.2, 8.0, level)
    return np.where(cavities, -30.0 + 2 * SmoothField.draw(rng, 10, 10)(x, z), level).astype(np.float32)


def _atrial_radius(anatomy: HeartAnatomy, x: Floats, z: Floats) -> Floats:
    """Distance from the centre of the nearer atrium, an ellipse: less than 1 inside it."""
    half = anatomy.atrium_length / 2
    left = np.hypot((x - 1) / (0.8 * anatomy.diameter / 2 + 4), (z - anatomy.length - half) / (half + 2))
    centre = -_outer_half_width(anatomy, anatomy.length) - 0.42 * anatomy.right_width
    right = np.hypot((x - centre) / (0.62 * anatomy.right_width), (z - anatomy.length - half + 3) / half)
    return np.minimum(left, right)


def _hinges(anatomy: HeartAnatomy) -> list[tuple[float, float]]:
    """Where the valves hang: lateral and septal mitral, septal and lateral tricuspid annulus."""
    length = anatomy.length
    mitral = anatomy.diameter / 2 * float(outline(1.0))
    septum = float(_outer_half_width(anatomy, length))
    right = float(_right_half(anatomy, length - 4))
    return [(mitral + 2, length), (-mitral - 2, length), (-septum, length - 4), (-septum - right, length - 4)]


def _carry(anatomy: HeartAnatomy, x: Floats, z: Floats, length: float, half_width: float) -> tuple[Floats, Floats]:
    """Where tissue that lay at (x, z) at end-diastole lies when the left ventricle has this length and half-width."""
    full_length, full_half_width = anatomy.length, anatomy.diameter / 2
    shape = outline(np.clip(z / full_length, 0, 1))
    inner, inner_now = full_half_width * shape, half_width * shape
    distance = np.abs(x)
    # Outside the cavity rings of muscle keep their volume: what they lose in height they gain in thickness.
    ring = np.sqrt(inner_now**2 + np.maximum(distance**2 - inner**2, 0) * (full_length / length))
    fading = np.exp(-np.maximum(distance - _outer_half_width(anatomy, z), 0) / 22)
    outside = distance + (ring - distance) * fading
    scale = half_width / full_half_width
    moved = np.where(distance < inner, distance * scale, outside)
    fading_down = np.exp(-((np.maximum(z - full_length, 0) / 14) ** 2)) * np.exp(-((np.minimum(z, 0) / 8) ** 2))
    new_x = x + np.sign(x) * (moved - distance) * fading_down
    # The right ventricle's free wall comes towards the septum.
    width = np.maximum(_right_half(anatomy, np.minimum(z, 0.9 * full_length)), 1)
    reach = np.maximum(-x - _outer_half_width(anatomy, z), 0) / width
    emptied = 1 - (half_width / full_half_width) ** 2
    new_x += 0.45 * emptied * width * np.minimum(reach, 1) * np.exp(-np.maximum(reach - 1, 0)) * fading_down
    # The valve plane comes towards the apex; the back of the atria stays.
    shift = (full_length - length) * np.clip(1 - (z - full_length) / (anatomy.atrium_length + 8), 0, 1)
    new_z = np.where(z < full_length, np.where(z > 0, z * (length / full_length), z), z - shift)
    return new_x.astype(np.float32), new_z.astype(np.float32)


@dataclass(frozen=True)
class _Leaflets:
    """Scatterers of the mitral and tricuspid leaflets: each belongs to a hinge, at a place along its leaflet."""

    anatomy: HeartAnatomy
    hinge: NDArray[np.int_]  # (N,) index into `_hinges`
    along: Floats  # (N,) 0 at the hinge, 1 at the tip
    thickness: Floats  # (N,)
    amplitude: Complexes  # (N,)

    @classmethod
    def draw(cls, anatomy: HeartAnatomy, rng: np.random.Generator, count: int = 480) -> _Leaflets:
        amplitude = unit_scatterers(rng, count) * decibels(4.0)
        thickness = rng.normal(0, 0.5, count).astype(np.float32)
        return cls(anatomy, np.arange(count) % 4, rng.random(count, dtype=np.float32), thickness, amplitude)

    def at(self, ventricle: Ventricle, frame: int) -> tuple[Floats, Floats]:
        """Positions x, z in a frame: shut, the tips meet a little on the ventricle's side; open, they hang into it."""
        length, half_width = ventricle.lengths[frame], ventricle.half_widths[frame]
        hinges = np.array(_hinges(self.anatomy), np.float32)
        hinge_x, hinge_z = _carry(self.anatomy, hinges[:, 0], hinges[:, 1], length, half_width)
        span = np.abs(hinge_x - hinge_x[[1, 0, 3, 2]])
        inwards = np.array([-1, 1, -1, 1], np.float32)  # towards the partner across the orifice
        swing = np.float32(0.22) + np.float32(1.05) * ventricle.opening[frame]  # radians from the valve's plane
        reach = 0.53 * span
        tip_x, tip_z = inwards * reach * np.cos(swing), -reach * np.sin(swing)
        k, bow = self.hinge, np.sin(np.pi * self.along) * 0.08
        x = hinge_x[k] + self.along * tip_x[k] + self.thickness
        z = hinge_z[k] + self.along * tip_z[k] - bow * span[k] + self.thickness
        return x.astype(np.float32), z.astype(np.float32)


def _near_field_clutter(scanner: Scanner, rng: np.random.Generator) -> Complexes:
    """Reverberation just below the probe, which stands still while the heart moves, (R, A)."""
    level = rng.uniform(2, 7) - scanner.depths * rng.uniform(0.5, 0.9)
    bands = 3 * np.cos(2 * np.pi * scanner.depths / rng.uniform(5, 8))
    white = unit_scatterers(rng, scanner.samples * scanner.beams).reshape(scanner.samples, scanner.beams)
    return white * decibels(level + bands)[:, None]


def _acoustic_window(scanner: Scanner, rng: np.random.Generator) -> Floats:
    """Transmission of each beam, (1, A): ribs and lung shade one side or both."""
    share = scanner.angles / scanner.half_angle
    left, right = rng.uniform(0, 12, 2)
    loss = left * np.clip(-share - 0.45, 0, 1) ** 2 * 4 + right * np.clip(share - 0.45, 0, 1) ** 2 * 4
    return decibels(-loss - 1.5 * SmoothField.draw(rng, 0.25, 1)(share))[None, :]
