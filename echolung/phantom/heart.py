"""A beating, breathing heart in one of three views, drawn from scatterers that move with the tissue.

Scatterers are placed once, at end-diastole, with the echogenicity of their tissue. The view moves them with the beat
(four_chamber.py, short_axis.py), the breath the whole heart (motion.py). Reverberation and rib shadows do not move.
Lengths are millimetres. Dimension letters: T frames, H W pixels, R depth samples, A beams, N scatterers.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from echolung.data.masks import filled
from echolung.phantom.four_chamber import FourChamber, TwoChamber
from echolung.phantom.motion import Breathing, HeartAnatomy, Pose, Ventricle
from echolung.phantom.short_axis import ShortAxis
from echolung.phantom.simulator import Complexes, Floats, Rng, Scanner, SmoothField, decibels, single, unit_scatterers

View = Literal["a4c", "a2c", "psax"]
VIEWS: tuple[View, ...] = get_args(View)

Heart = FourChamber | ShortAxis
_DRAWN: dict[View, type[Heart]] = {"a4c": FourChamber, "a2c": TwoChamber, "psax": ShortAxis}
_SCATTERERS_PER_MM2 = 1.3
_MARGIN = 9.0  # scatterers this far outside the sector: breathing moves them into view


@dataclass(frozen=True)
class HeartVideo:
    """Frames with the ground truth of the left ventricle."""

    frames: NDArray[np.uint8]  # (T, H, W), square
    heart: Heart
    scanner: Scanner

    def masks(self) -> NDArray[np.bool_]:
        """Mask of the left ventricle's cavity, (T, H, W): the pixels whose centre is inside."""
        lateral, axial, _ = self.scanner.pixel_grid(*self.frames.shape[1:])
        poses = Pose(*(np.asarray(part)[:, None, None] for part in vars(self.heart.poses).values()))
        return self.heart.inside(*poses.from_image(lateral[None, None, :], axial[None, :, None]))

    def labels(self) -> NDArray[np.uint8]:
        """Label maps (T, H, W) of an apical view as CAMUS draws them: 1 cavity, 2 myocardium, 3 left atrium."""
        assert isinstance(self.heart, FourChamber)
        maps = np.zeros(self.frames.shape, np.uint8)
        moved = {label: self.heart.tissue(*single(x, z)) for label, (x, z) in self.heart.surroundings(200).items()}
        for frame, drawn in enumerate(maps):
            for label in (3, 2):
                drawn[filled(self.pixels(frame, *moved[label](frame)), len(drawn))] = label
        maps[self.masks()] = 1
        return maps

    def pixels(self, frame: int, x: Floats, z: Floats) -> Floats:
        """Points (...) of the heart's frame in pixels, (..., 2): column and row."""
        lateral, axial = self.heart.poses.at(frame).to_image(x, z)
        columns, rows, pitch = self.scanner.pixel_grid(*self.frames.shape[1:])
        return np.stack([(lateral - columns[0]) / pitch, (axial - rows[0]) / pitch], -1)

    def contour(self, frame: int, count: int = 64) -> Floats:
        """Border of the cavity as a closed polygon, (count, 2) pixels: column and row."""
        return self.pixels(frame, *self.heart.border(frame, count))


def beating_heart(view: View, ef: float, frames: int, fps: float, rng: Rng, still_wall: int = 0) -> Heart:
    """A random heart, in every view the same if `rng` is in the same state; the short axis shows no `still_wall`."""
    ventricle = Ventricle(HeartAnatomy(rng, ef), ef, frames, fps, int(rng.integers(1000)), still_wall)
    return _DRAWN[view](ventricle, Breathing(rng), np.arange(frames) / fps, rng)


def heart_scanner(deepest: float, rng: Rng, size: int, noise: float = 0.0) -> Scanner:
    """A phased array that reaches below `deepest` with random gain settings, for `size` pixels; `noise`: dB more."""
    return Scanner(
        radius=0,
        half_angle=np.deg2rad(rng.uniform(37, 41)),
        depth=deepest + rng.uniform(8, 18),
        frequency=rng.uniform(1.8, 3.0),
        aperture=rng.uniform(15, 19),
        samples=max(160, 2 * size),
        beams=max(112, round(1.2 * size)),
        gain=rng.uniform(-5, 5),
        dynamic_range=rng.uniform(46, 62),
        time_gain=rng.uniform(0.92, 1.0),
        noise=rng.uniform(-66, -52) + noise,
    )


def draw_heart(
    ef: float, frames: int, fps: float, size: int, seed: int, view: View = "a4c", still_wall: int = 0, noise: float = 0
) -> HeartVideo:
    """Frames uint8 (frames, size, size); `seed` and `ef` determine the heart, in every view and at every `noise`."""
    rng = np.random.default_rng(seed)
    heart = beating_heart(view, ef, frames, fps, rng, still_wall)
    scanner = heart_scanner(heart.deepest, rng, size, noise)
    x, z, amplitude = _scatterers(heart, scanner, rng)
    clutter, window = _near_field_clutter(scanner, rng), _acoustic_window(scanner, rng)
    # Without the breath, tissue is where it was one beat ago.
    beat, tissue = min(frames, heart.ventricle.frames_per_beat), heart.tissue(x, z)
    abnormal = range(frames)[heart.ventricle.abnormal]
    positions = [tissue(t) for t in range(beat)]
    echo = np.empty((frames, scanner.samples, scanner.beams), np.complex64)
    for t in range(frames):
        pose, position = heart.poses.at(t), tissue(t) if t in abnormal else positions[t % beat]
        field = scanner.deposit(*_beam_position(pose, *position), amplitude)
        moving_x, moving_z, strength = heart.moving(t)
        depth, angle = _beam_position(pose, moving_x, moving_z)
        field += scanner.deposit(depth, angle, strength / np.sqrt(_cell(scanner, depth)))
        echo[t] = scanner.receive((field + clutter) * window)
    pixels = scanner.scan_convert(scanner.grey(echo, rng), size, size)
    return HeartVideo(pixels, heart, scanner)


def _beam_position(pose: Pose, x: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Depth and angle, in the scanner's polar grid, of points in the heart's frame."""
    lateral, axial = pose.to_image(x, z)
    return np.hypot(lateral, axial), np.arctan2(lateral, axial)


def _scatterers(heart: Heart, scanner: Scanner, rng: Rng) -> tuple[Floats, Floats, Complexes]:
    """Scatterers of all tissue in view, at end-diastole: x, z and complex amplitude, each (N,)."""
    spread = float(scanner.angles[-1] - scanner.angles[0])
    reach = scanner.depth + 2 * _MARGIN
    count = round(_SCATTERERS_PER_MM2 * 0.5 * reach**2 * spread)
    away = reach * np.sqrt(rng.random(count, dtype=np.float32))
    angle = scanner.angles[0] + spread * rng.random(count, dtype=np.float32)
    lateral, axial = away * np.sin(angle), away * np.cos(angle) - np.float32(_MARGIN)
    beam = np.arctan2(lateral, axial)
    x, z = heart.rest.from_image(lateral, axial)
    cell = _cell(scanner, np.hypot(lateral, axial))
    level = heart.echogenicity(x, z, beam, rng)
    amplitude = unit_scatterers(rng, count) * decibels(level) / np.sqrt(_SCATTERERS_PER_MM2 * cell)
    return x, z, amplitude


def _cell(scanner: Scanner, depth: Floats) -> Floats:
    """Area of a cell of the polar grid at `depth`, mm2."""
    spacing = float(scanner.angles[1] - scanner.angles[0])
    return (scanner.depth / scanner.samples) * spacing * np.maximum(depth, 1)


def _near_field_clutter(scanner: Scanner, rng: Rng) -> Complexes:
    """Static reverberation just below the probe, (R, A)."""
    level = rng.uniform(2, 7) - scanner.depths * rng.uniform(0.5, 0.9)
    bands = 3 * np.cos(2 * np.pi * scanner.depths / rng.uniform(5, 8))
    white = unit_scatterers(rng, scanner.samples * scanner.beams).reshape(scanner.samples, scanner.beams)
    return white * decibels(level + bands)[:, None]


def _acoustic_window(scanner: Scanner, rng: Rng) -> Floats:
    """Transmission of each beam, (1, A): ribs and lung shadow one or both sides."""
    share = scanner.angles / scanner.half_angle
    left, right = rng.uniform(0, 12, 2)
    loss = left * np.clip(-share - 0.45, 0, 1) ** 2 * 4 + right * np.clip(share - 0.45, 0, 1) ** 2 * 4
    return decibels(-loss - 1.5 * SmoothField(rng, 0.25, 1)(share))[None, :]
