"""A small B-mode scanner: from scatterers to grey frames.

The linear narrow-band model of Field II (Jensen 1996) at baseband: a scatterer at range r adds its amplitude times
exp(-4 pi i r / wavelength) to a polar grid; the point-spread function is a Gaussian pulse along the beam and a Gaussian
across it that widens with depth. The phase depends on the range of each scatterer, so speckle forms by interference,
moves with the tissue and decorrelates like real speckle.

Lengths are millimetres, angles radians from the probe's axis. T frames, R depths, A beams, N scatterers, H W pixels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Complexes = NDArray[np.complexfloating[Any, Any]]
Rng = np.random.Generator

SPEED_OF_SOUND = 1.54  # mm per microsecond, soft tissue
_WAVES = 12  # of a smooth field
_PAD = 0.12  # part of the sector on either side that is not shown, because the periodic beam filter wraps around there


@dataclass(frozen=True)
class Scanner:
    """A probe and the settings of the console."""

    radius: float  # of curvature; 0 for a phased array
    half_angle: float
    depth: float  # from the face of the probe
    frequency: float  # MHz
    aperture: float
    samples: int = 160
    beams: int = 112
    cycles: float = 4.0
    gain: float = 0.0  # dB
    dynamic_range: float = 55.0  # dB between black and white
    attenuation: float = 0.5  # dB/cm/MHz
    time_gain: float = 1.0  # share of the attenuation that is compensated
    noise: float = -60.0  # of the receiver before time gain, dB relative to unit speckle

    @property
    def wavelength(self) -> float:
        return SPEED_OF_SOUND / self.frequency

    @cached_property
    def depths(self) -> Floats:
        """Depth of each sample, (R,)."""
        return ((np.arange(self.samples) + 0.5) * (self.depth / self.samples)).astype(np.float32)

    @cached_property
    def angles(self) -> Floats:
        """Angle of each beam, including those not shown, (A,)."""
        half = self.half_angle * (1 + 2 * _PAD)
        return np.linspace(-half, half, self.beams, dtype=np.float32)

    @cached_property
    def _beam_response(self) -> Floats:
        """Transfer function of the beam over angular frequency at each depth, (R, A), with unit energy per row."""
        spacing = float(self.angles[1] - self.angles[0])
        # Width of an element, and diffraction: standard deviation across the axis of the beam.
        across = np.sqrt(0.5**2 + (0.5 * self.wavelength * self.depths / self.aperture) ** 2).astype(np.float32)
        width = np.clip(across / (self.radius + self.depths), 0.7 * spacing, 0.3 * _PAD * 2 * self.half_angle)
        frequency = 2 * np.pi * np.fft.fftfreq(self.beams, spacing)
        response = np.exp(-0.5 * (width[:, None] * frequency[None, :]) ** 2)
        return (response / np.sqrt(np.mean(response**2, axis=1, keepdims=True))).astype(np.float32)

    @cached_property
    def _pulse_matrix(self) -> Floats:
        """Convolution with the pulse along depth, (R, R), with unit energy."""
        # Standard deviation of the pulse, not shorter than the depth sampling allows.
        width = max(self.cycles * self.wavelength / 2 / 2.355, 0.8 * self.depth / self.samples)
        pulse = np.exp(-0.5 * ((self.depths[:, None] - self.depths[None, :]) / width) ** 2)
        middle = pulse[self.samples // 2]
        return (pulse / np.sqrt(np.sum(middle**2))).astype(np.float32)

    def deposit(self, depth: Floats, angle: Floats, amplitude: Floats | Complexes, carrier: bool = True) -> Complexes:
        """Add point scatterers (N,) to an empty polar grid (R, A), with linear interpolation; ignore those outside.

        Without `carrier`, points keep the phase of their amplitude, like points of one smooth reflector.
        """
        row = depth * np.float32(self.samples / self.depth) - np.float32(0.5)
        column = (angle - self.angles[0]) / np.float32(self.angles[1] - self.angles[0])
        inside = np.flatnonzero((row >= 0) & (row < self.samples - 1) & (column >= 0) & (column < self.beams - 1))
        row, column, amplitude = row[inside], column[inside], amplitude[inside].astype(np.complex64)
        if carrier:
            turns = np.float32(2 / self.wavelength) * depth[inside]
            phase = np.float32(-2 * np.pi) * (turns - np.floor(turns))
            amplitude *= np.cos(phase) + np.complex64(1j) * np.sin(phase)
        down, right = row % 1, column % 1
        both = down * right
        spread = self._interpolation(row, column, 1 - down - right + both, right - both, down - both, both).T
        grid = spread @ amplitude.view(np.float32).reshape(-1, 2)
        return np.ascontiguousarray(grid).view(np.complex64).reshape(self.samples, self.beams)

    def _interpolation(self, row: Floats, column: Floats, *shares: Floats) -> scipy.sparse.csr_array:
        """Linear interpolation at points (N,) of the polar grid, (N, R A), given the shares of the four cells around.

        A sparse matrix is several times faster than np.bincount.
        """
        corner = row.astype(np.int32) * np.int32(self.beams) + column.astype(np.int32)
        cells = np.stack([corner, corner + 1, corner + self.beams, corner + self.beams + 1], 1)
        starts = np.arange(0, 4 * len(row) + 1, 4, dtype=np.int32)
        values, shape = np.stack(shares, 1).astype(np.float32), (len(row), self.samples * self.beams)
        return scipy.sparse.csr_array((values.ravel(), cells.ravel(), starts), shape=shape)

    def receive(self, field: Complexes) -> Complexes:
        """Apply the point-spread function to scatterers on the polar grid, (..., R, A), giving the baseband echo.

        White scatterers with unit variance per cell give unit mean power at every depth.
        """
        spectrum = scipy.fft.fft(field, axis=-1)
        spectrum *= self._beam_response
        echo = scipy.fft.ifft(spectrum, axis=-1, overwrite_x=True).astype(np.complex64, copy=False)
        # Viewing complex columns as pairs of real ones halves the cost.
        return (self._pulse_matrix @ echo.view(np.float32)).view(np.complex64)

    def grey(self, echo: Complexes, rng: Rng) -> Floats:
        """Attenuation, receiver noise, gain and compression: echo (T, R, A) -> grey 0..255 (T, R, A).

        At a gain of 0 dB an echo of unit amplitude at the surface has 60% of white.
        """
        loss = 2 * self.attenuation * self.frequency * self.depths / 10  # dB, there and back
        returned = (10 ** ((self.time_gain - 1) * loss / 20))[:, None]
        noise_level = (10 ** ((self.noise + self.time_gain * loss) / 20))[:, None]
        white = rng.standard_normal((self.samples, 2 * self.beams), dtype=np.float32).view(np.complex64)
        noise = self.receive(white * np.float32(np.sqrt(0.5))) * noise_level
        frames = np.empty(echo.shape, np.float32)
        for frame, signal in zip(frames, echo, strict=True):
            # One noise field, shifted randomly in each frame: looks new, and is much cheaper than new noise.
            power = np.abs(signal * returned + np.roll(noise, rng.integers(self.beams), axis=1)) ** 2
            frame[...] = 10 * np.log10(power + 1e-12)
        return np.clip((frames + self.gain) / self.dynamic_range + 0.6, 0, 1) * np.float32(255)

    def pixel_grid(self, height: int, width: int) -> tuple[Floats, Floats, float]:
        """Pixel positions: lateral x (W,), axial z (H,) from the centre of curvature, and mm per pixel."""
        top, bottom = self.radius * np.cos(self.half_angle), self.radius + self.depth
        pitch = (bottom - top) / (height - 3)
        x = (np.arange(width) - (width - 1) / 2) * pitch
        z = top + (np.arange(height) - 1) * pitch
        return x.astype(np.float32), z.astype(np.float32), float(pitch)

    def scan_convert(self, polar: Floats, height: int, width: int) -> NDArray[np.uint8]:
        """Polar frames (T, R, A) as a sector on black, uint8 (T, H, W)."""
        x, z, _ = self.pixel_grid(height, width)
        depth = np.hypot(x[None, :], z[:, None]) - self.radius
        angle = np.arctan2(x[None, :], z[:, None])
        shown = np.flatnonzero((np.abs(angle) <= self.half_angle) & (depth >= 0) & (depth < self.depth))
        row = np.clip(depth.ravel()[shown] * (self.samples / self.depth) - 0.5, 0, self.samples - 1.001)
        column = (angle.ravel()[shown] - self.angles[0]) / (self.angles[1] - self.angles[0])
        frames = np.zeros((len(polar), height * width), np.uint8)
        down, right = row % 1, column % 1
        shares = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
        grey = self._interpolation(row, column, *shares) @ polar.reshape(len(polar), -1).T
        frames[:, shown] = np.rint(grey).T
        return frames.reshape(-1, height, width)


class SmoothField:
    """A smooth random function of the plane with zero mean and unit variance: a sum of random plane waves."""

    def __init__(self, rng: Rng, scale_x: float, scale_y: float) -> None:
        """`scale_x`, `scale_y`: correlation lengths along the axes."""
        self._waves = (rng.standard_normal((_WAVES, 2)) / [scale_x, scale_y]).astype(np.float32)  # radians per mm
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32)

    def __call__(self, x: Floats, y: Floats | float = 0.0) -> Floats:
        total = np.zeros(np.broadcast(x, y).shape, np.float32)
        for (kx, ky), phase in zip(self._waves, self._phases, strict=True):
            total += np.cos(kx * x + ky * y + phase)
        return total * np.float32(np.sqrt(2 / _WAVES))


def decibels(value: Floats | float) -> Floats:
    """Amplitude of a level in dB."""
    return np.asarray(10 ** (np.asarray(value, np.float32) / 20), np.float32)


def unit_scatterers(rng: Rng, count: int) -> Complexes:
    """Circular complex Gaussian amplitudes of unit variance, (count,)."""
    return (rng.standard_normal((count, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))).view(np.complex64)[:, 0]


def single(*arrays: Floats) -> list[Floats]:
    """In single precision."""
    return [np.asarray(array, np.float32) for array in arrays]
