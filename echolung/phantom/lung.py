"""A breathing lung between the ribs: a static chest wall, and a lung that slides below it.

Air reflects nearly all sound, so everything below the pleural line is an artefact or a disease:
* A-lines: reverberation between probe and pleura; copies of the pleural line at multiples of its depth, where the beam
  is perpendicular to the pleura.
* B-lines: a spot on the surface of the lung rings; a beam of speckle from there to the bottom that moves with the lung
  and hides the A-lines.
* Rib shadows: no echo from behind bone.
* Consolidation: lung without air, with speckle of its own, pockets of air and a ragged far border.

Depths are millimetres from the face of the probe; `along` is the distance along the pleura from the middle of the view,
in the coordinates of the lung. Dimension letters: T frames, R depth samples, A beams, N scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from echolung.phantom.findings import LungFindings
from echolung.phantom.simulator import Complexes, Floats, Rng, Scanner, SmoothField, decibels, unit_scatterers


@dataclass(frozen=True)
class LungPatient:
    """The chest of a patient, and the settings of the scanner."""

    pleura: float  # depth of the pleural line in the middle of the view
    tilt: float  # slope of the pleura across the view
    flatness: float  # 0: the pleura is parallel to the probe, 1: it is flat
    ribs: tuple[float, ...]  # angles of ribs, as a fraction of the half-angle
    fat: float  # fraction of the chest wall that is fat
    breath_rate: float  # breaths per minute
    slide: float  # amplitude of lung sliding along the pleura
    scanner: Scanner  # a convex probe

    @classmethod
    def draw(cls, rng: Rng, noise: float = 0.0) -> LungPatient:
        """A random patient; `noise`: dB by which the receiver is noisier than usual."""
        left, right = -rng.uniform(0.55, 1.0), rng.uniform(0.55, 1.0)
        ribs = ((), (left,), (right,), (left, right))[rng.choice(4, p=(0.3, 0.2, 0.2, 0.3))]
        pleura = rng.uniform(14, 28)
        return cls(
            pleura=pleura,
            tilt=rng.uniform(-0.1, 0.1),
            flatness=rng.uniform(0.2, 0.9),
            ribs=ribs,
            fat=rng.uniform(0.25, 0.55),
            breath_rate=rng.uniform(12, 24),
            slide=rng.uniform(2.5, 7),
            scanner=Scanner(
                radius=rng.uniform(42, 62),
                half_angle=np.deg2rad(rng.uniform(26, 33)),
                depth=pleura * rng.uniform(3.4, 4.8) + 20,
                frequency=rng.uniform(2.5, 5.0),
                gain=rng.uniform(-5, 5),
                dynamic_range=rng.uniform(48, 64),
                time_gain=rng.uniform(0.93, 1.0),
                aperture=16.0,
                attenuation=0.35,
                noise=-58.0 + noise,
            ),
        )

    @property
    def per_radian(self) -> float:
        """Distance along the pleura per radian."""
        return self.scanner.radius + self.pleura

    def pleura_depth(self, angle: Floats) -> Floats:
        """Depth of the pleural line at each angle, at rest."""
        flat = self.per_radian / (np.cos(angle) - self.tilt * np.sin(angle)) - self.scanner.radius
        round_ = self.pleura + self.tilt * self.per_radian * angle
        return (self.flatness * flat + (1 - self.flatness) * round_).astype(np.float32)


@dataclass(frozen=True)
class LungVideo:
    """Frames with the ground truth of positions in them."""

    frames: NDArray[np.uint8]  # (T, H, W)
    scanner: Scanner
    pleura: Floats  # (T, A) depth of the pleural line in each beam
    slide: Floats  # (T,) displacement of the lung along the pleura
    b_line_angles: Floats  # (T, number of B-lines)


def draw_lung(
    findings: LungFindings, patient: LungPatient, frames: int, fps: float, size: tuple[int, int], seed: int
) -> LungVideo:
    """Draw a lung with these findings, uint8 frames (frames, *size)."""
    rng = np.random.default_rng(seed)
    scanner = replace(patient.scanner, samples=max(160, round(1.4 * max(size))), beams=max(112, max(size)))
    breath = 2 * np.pi * (patient.breath_rate / 60 * np.arange(frames) / fps + rng.random())
    slide = (patient.slide * np.sin(breath)).astype(np.float32)
    rest = patient.pleura_depth(scanner.angles)
    heave = (0.5 * np.cos(breath)).astype(np.float32)  # of the pleura, with every breath
    wall, shadow = _chest_wall(patient, scanner, rest, rng)
    contact = _contact(scanner, rng)
    lung = _Lung(findings, patient, scanner, rng)
    echo = np.empty((frames, scanner.samples, scanner.beams), np.complex64)
    for t in range(frames):
        echo[t] = scanner.receive((wall + shadow * lung.at(slide[t], heave[t])) * contact)
    pixels = scanner.scan_convert(scanner.grey(echo, rng), *size)
    origins = np.array([line.position for line in findings.b_lines], np.float32)
    angles = (origins[None, :] + slide[:, None]) / patient.per_radian
    return LungVideo(pixels, scanner, rest + heave[:, None], slide, angles)


def _specular(patient: LungPatient, scanner: Scanner) -> Floats:
    """Share of the sound that the pleura reflects back to the probe, 0..1, (A,): 1 where it is perpendicular."""
    depth = patient.pleura_depth(scanner.angles)
    slope = np.gradient(depth, scanner.angles) / (scanner.radius + depth)
    return np.exp(-0.5 * (np.arctan(slope) / 0.13) ** 2).astype(np.float32)


def _contact(scanner: Scanner, rng: Rng) -> Floats:
    """Transmission of each beam through the skin, (1, A): the ends of a curved probe often have no contact."""
    share = np.abs(scanner.angles / scanner.half_angle + rng.uniform(-0.15, 0.15))
    loss = rng.uniform(4, 22) * np.clip(share - 0.55, 0, 1) ** 2 * 4
    return decibels(-loss - SmoothField(rng, 0.2, 1)(share))[None]


def _chest_wall(patient: LungPatient, scanner: Scanner, pleura: Floats, rng: Rng) -> tuple[Complexes, Floats]:
    """Scatterers of the chest wall and its ribs, (R, A), and the transmission behind the ribs, 0..1, (R, A)."""
    depth = scanner.depths[:, None]
    along = (scanner.angles * patient.per_radian)[None, :]
    share = depth / pleura[None, :]
    sway = 0.06 * SmoothField(rng, 18, 9)(along, depth)
    layer = share + sway
    fat = -14 + 12 * np.exp(-(((SmoothField(rng, 9, 1.6)(along, depth)) / 0.25) ** 2))  # with bright septa
    muscle = -7 + 6 * np.cos(2 * np.pi * (depth / rng.uniform(2.4, 3.6) + 10 * sway))
    level = np.where(layer < patient.fat, fat, muscle)
    level = np.where(depth < rng.uniform(1.2, 2.2), 8, level)
    level = np.where(np.abs(layer - patient.fat) < 0.025, 6, level)  # fascia
    level += 2 * SmoothField(rng, 14, 5)(along, depth)
    white = unit_scatterers(rng, scanner.samples * scanner.beams).reshape(scanner.samples, scanner.beams)
    wall = white * decibels(np.where(share < 0.985, level, -80))
    # The pleura reflects the layers of the wall once more: faint stripes just below it.
    lag = round(patient.pleura * scanner.samples / scanner.depth)
    again = np.zeros_like(wall)
    again[lag:] = wall[:-lag]
    wall += again * (decibels(-19) * _specular(patient, scanner))[None, :]
    shadow = np.ones(wall.shape, np.float32)
    for angle in patient.ribs:
        centre = angle * scanner.half_angle * patient.per_radian
        offset = (along - centre) / rng.uniform(6, 8.5)
        surface = pleura[None, :] * 0.62 + 3.5 * (1 - np.sqrt(np.clip(1 - offset**2, 0, 1)))
        behind = 1 / (1 + np.exp(-(depth - surface) / 0.4)) * np.exp(-(np.abs(offset) ** 8))
        bone = np.exp(-0.5 * ((depth - surface) / 0.5) ** 2) * (np.abs(offset) < 0.95)
        shadow *= 1 - np.float32(0.985) * behind
        wall = wall * (1 - np.float32(0.97) * behind) + bone * np.float32(2.2) * np.exp(-(offset**2))
    return wall.astype(np.complex64), shadow.astype(np.float32)


class _Lung:
    """Scatterers and reflectors of the sliding lung, in its own coordinates: along and below its surface."""

    def __init__(self, findings: LungFindings, patient: LungPatient, scanner: Scanner, rng: Rng) -> None:
        self._findings, self._patient, self._scanner = findings, patient, scanner
        self._specular = _specular(patient, scanner)
        self._per_radian = np.float32(patient.per_radian)
        # Bumps and breaks of a diseased pleura; a fine grain that makes sliding visible.
        self._bumps, self._breaks = SmoothField(rng, 4, 1), SmoothField(rng, 3, 1)
        self._grain = SmoothField(rng, 1.1, 1)
        view = float(scanner.angles[-1]) * self._per_radian
        reach, room = view + patient.slide + 2, scanner.depth - 0.7 * patient.pleura
        count = round(scanner.samples * room / scanner.depth * scanner.beams * reach / view)  # one per cell
        along = rng.uniform(-reach, reach, count).astype(np.float32)
        below = rng.uniform(0, room, count).astype(np.float32)
        amplitude = unit_scatterers(rng, count) * self._echogenicity(along, below, rng)
        heard = np.abs(amplitude) > decibels(-50)
        self._along, self._amplitude = along[heard], amplitude[heard]
        self._below = below[heard] + self._surface(along[heard])

    def at(self, slide: np.float32, heave: np.float32) -> Complexes:
        """Everything below the chest wall, (R, A), with the lung displaced by `slide` and the pleura by `heave`."""
        angle = (self._along + slide) / self._per_radian
        depth = self._patient.pleura_depth(angle) + heave + self._below
        pleura = self._patient.pleura_depth(self._scanner.angles) + heave
        return self._scanner.deposit(depth, angle, self._amplitude) + self._reflections(slide, pleura)

    def _surface(self, along: Floats) -> Floats:
        """Depth of the surface of the lung below the pleural line: fluid and bumps."""
        return np.float32(self._findings.effusion) + np.float32(0.7 * self._findings.irregularity) * self._bumps(along)

    def _echogenicity(self, along: Floats, below: Floats, rng: Rng) -> Floats:
        """Amplitude of the lung's scatterers."""
        white = self._findings.white_lung
        level = decibels(-19 - 0.22 * below) + decibels(-30 + 27 * white - 0.05 * below) * (white > 0)
        for line in self._findings.b_lines:
            ring = 1 + 0.3 * np.cos(2 * np.pi * below / rng.uniform(1.5, 4))
            beam = np.exp(-0.5 * ((along - line.position) / line.width) ** 2)
            level += decibels(line.level - 0.03 * below) * ring * beam
        ragged = SmoothField(rng, 1.8, 1.8)
        for spot in self._findings.consolidations:
            across = (along - spot.position) / spot.half_width
            floor = spot.depth * np.sqrt(np.clip(1 - across**2, 0, 1))
            floor = floor + (0.8 + 0.07 * spot.depth) * ragged(along, below)
            inside = (np.abs(across) < 1) & (below < floor)
            border = (np.abs(across) < 1) & (np.abs(below - floor) < 0.9)
            beneath = (np.abs(across) < 0.9) & (below > floor)
            tissue = decibels(-17 + 2.5 * SmoothField(rng, 3, 3)(along, below))
            for _ in range(spot.bronchograms):
                x = spot.position + spot.half_width * rng.uniform(-0.6, 0.6)
                z, lean = spot.depth * rng.uniform(0.15, 0.75), rng.uniform(-0.8, 0.8)
                u, w = along - x - lean * (below - z), below - z
                tissue = np.where((u / rng.uniform(0.5, 1.1)) ** 2 + (w / rng.uniform(0.8, 3)) ** 2 < 1, 1.6, tissue)
            level = np.where(inside, tissue, level)
            level = np.where(beneath, level + decibels(-5 - 0.35 * (below - floor)), level)
            level = np.where(border, decibels(9 + 3 * ragged(below, along)), level)
        return level.astype(np.float32)

    def _airless(self, along: Floats) -> Floats:
        """1 where a consolidation reaches the surface: no reflection, no reverberation."""
        total = np.zeros_like(along)
        for spot in self._findings.consolidations:
            total += np.exp(-(((along - spot.position) / (0.95 * spot.half_width)) ** 6))
        return np.clip(total, 0, 1)

    def _ringing(self, along: Floats) -> Floats:
        """1 where B-lines hide the A-lines."""
        total = np.full_like(along, self._findings.white_lung)
        for line in self._findings.b_lines:
            total += np.exp(-0.5 * ((along - line.position) / (1.6 * line.width + 0.8)) ** 2)
        return np.clip(total, 0, 1)

    def _reflections(self, slide: np.float32, pleura: Floats) -> Complexes:
        """The pleural line and its A-lines, (R, A): smooth reflectors, so without a carrier."""
        findings, scanner, specular = self._findings, self._scanner, self._specular
        along = scanner.angles * self._per_radian - slide
        airless, broken = self._airless(along), findings.irregularity
        whole = 1 / (1 + np.exp(-(self._breaks(along) + 2.4 - 3.2 * broken) / 0.2))
        mirror = decibels(9 + 2 * self._grain(along)) * (0.1 + 0.9 * whole)
        mirror = mirror * (1 - 0.75 * airless) * (0.3 + 0.7 * specular)
        thickness = 0.25 + 0.9 * broken
        surface = pleura + self._surface(along)
        layers = ((-1, 0.5), (0, 1.0), (1, 0.5))
        lines: list[tuple[Floats, Floats]] = [(surface + n * thickness, mirror * weight) for n, weight in layers]
        if findings.effusion > 0:
            lines.append((pleura, mirror * 0.6))
        echoes = findings.a_lines * specular**2 * (1 - self._ringing(along)) * (1 - airless) * (0.3 + 0.7 * whole)
        for order in range(2, int(scanner.depth / pleura.min()) + 1):
            for layer, weight in ((0, 1.0), (1, 0.55), (2, 0.35)):  # every echo has a short tail
                depth = order * (pleura + findings.effusion) + layer * (0.5 + 0.3 * order)
                lines.append((depth, mirror * echoes * decibels(4 - 4.5 * order) * weight))
        depths, strengths = (np.concatenate(parts) for parts in zip(*lines, strict=True))
        return scanner.deposit(depths, np.tile(scanner.angles, len(lines)), strengths, carrier=False)
