"""The scanner against the physics of ultrasound."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from echolung.phantom.simulator import Scanner, unit_scatterers

CONVEX = Scanner(radius=50, half_angle=0.5, depth=90, frequency=3.5, aperture=16, samples=180, beams=120)
FINE = dataclasses.replace(CONVEX, samples=720, beams=480)  # so fine that interpolation does not matter


def speckle(scanner: Scanner, seed: int, shift: float = 0.0) -> np.ndarray:
    """The echo of a homogeneous phantom with twelve scatterers per cell, rotated by `shift` radians."""
    rng = np.random.default_rng(seed)
    count = 12 * scanner.samples * scanner.beams
    depth = rng.uniform(0, scanner.depth, count).astype(np.float32)
    angle = rng.uniform(1.2 * scanner.angles[0], 1.2 * scanner.angles[-1], count).astype(np.float32)
    return scanner.receive(scanner.deposit(depth, angle + np.float32(shift), unit_scatterers(rng, count)))


def width_at_half_maximum(profile: np.ndarray) -> float:
    """In samples, between linearly interpolated crossings."""
    peak = int(profile.argmax())
    half = profile[peak] / 2
    right = peak + int(np.argmax(profile[peak:] < half))
    left = peak - int(np.argmax(profile[peak::-1] < half))
    rise = (half - profile[left]) / (profile[left + 1] - profile[left])
    fall = (profile[right - 1] - half) / (profile[right - 1] - profile[right])
    return (right - 1 + fall) - (left + rise)


def test_speckle_of_a_homogeneous_phantom_is_fully_developed() -> None:
    envelopes = [np.abs(speckle(CONVEX, seed))[15:-15, 15:-15] for seed in range(4)]
    ratios = [envelope.mean() / envelope.std() for envelope in envelopes]
    assert np.mean(ratios) == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)  # Rayleigh: 1.913
    sparse = np.concatenate([envelope[::12, ::15].ravel() for envelope in envelopes])  # one resolution cell apart
    assert scipy.stats.kstest(sparse / sparse.mean(), "rayleigh", args=(0, np.sqrt(2 / np.pi))).pvalue > 0.001


def test_the_beam_widens_with_depth_and_the_pulse_does_not() -> None:
    lateral, axial = [], []
    for depth in (30.25, 50.25, 70.25):
        point = FINE.deposit(np.array([depth], np.float32), np.array([0.0], np.float32), np.ones(1, np.complex64))
        image = np.abs(FINE.receive(point))
        row, column = np.unravel_index(image.argmax(), image.shape)
        spacing = (FINE.angles[1] - FINE.angles[0]) * (FINE.radius + depth)
        lateral.append(width_at_half_maximum(image[row]) * spacing)
        axial.append(width_at_half_maximum(image[:, column]) * FINE.depth / FINE.samples)
        expected = 2.355 * FINE.lateral_width(np.array(depth, np.float32))
        assert lateral[-1] == pytest.approx(float(expected), rel=0.03)
    assert lateral[0] < lateral[1] < lateral[2]
    assert lateral[2] > 1.3 * lateral[0]
    assert axial == pytest.approx([axial[0]] * 3, rel=0.02)
