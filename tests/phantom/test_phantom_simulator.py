"""The scanner against the physics of ultrasound."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from echolung.phantom.simulator import Scanner, SmoothField, unit_scatterers

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


@pytest.mark.parametrize("wavelengths", [0.25, 0.375, 0.5])  # destructive, a quarter turn, constructive
def test_two_scatterers_interfere_by_their_range(wavelengths: float) -> None:
    apart = wavelengths * FINE.wavelength
    depth = np.array([40.0, 40.0 + apart], np.float32)
    both = np.abs(FINE.receive(FINE.deposit(depth, np.zeros(2, np.float32), np.ones(2, np.complex64)))).max()
    one = np.abs(FINE.receive(FINE.deposit(depth[:1], np.zeros(1, np.float32), np.ones(1, np.complex64)))).max()
    x = np.linspace(-3, 3, 6001)
    first, second = (np.exp(-0.5 * ((x - at) / FINE.axial_width) ** 2) for at in (0, apart))
    expected = np.abs(first + second * np.exp(-4j * np.pi * wavelengths)).max()
    assert both / one == pytest.approx(expected, abs=0.03)


def test_deposit_equals_a_loop_over_scatterers() -> None:
    rng = np.random.default_rng(3)
    depth = rng.uniform(-5, 95, 60).astype(np.float32)
    angle = rng.uniform(-0.8, 0.8, 60).astype(np.float32)
    amplitude = unit_scatterers(rng, 60)
    expected = np.zeros((CONVEX.samples, CONVEX.beams), complex)
    for r, a, value in zip(depth, angle, amplitude, strict=True):
        row = r * CONVEX.samples / CONVEX.depth - 0.5
        column = (a - CONVEX.angles[0]) / (CONVEX.angles[1] - CONVEX.angles[0])
        if not (0 <= row < CONVEX.samples - 1 and 0 <= column < CONVEX.beams - 1):
            continue
        for i in range(2):
            for j in range(2):
                share = (1 - abs(row - int(row) - i)) * (1 - abs(column - int(column) - j))
                echo = value * np.exp(-4j * np.pi * r / CONVEX.wavelength)
                expected[int(row) + i, int(column) + j] += share * echo
    np.testing.assert_allclose(CONVEX.deposit(depth, angle, amplitude), expected, atol=2e-3)


def test_speckle_moves_with_the_tissue() -> None:
    spacing = float(CONVEX.angles[1] - CONVEX.angles[0])
    before, after = np.abs(speckle(CONVEX, 1)), np.abs(speckle(CONVEX, 1, shift=5 * spacing))
    still = np.corrcoef(before[:, 20:-20].ravel(), after[:, 20:-20].ravel())[0, 1]
    followed = np.corrcoef(before[:, 20:-20].ravel(), after[:, 25:-15].ravel())[0, 1]
    assert followed > 0.99
    assert still < 0.5


def test_compression_draws_decibels_as_equal_steps_of_grey() -> None:
    quiet = Scanner(50, 0.5, 90, 3.5, 16, 180, 120, attenuation=0, noise=-200, dynamic_range=60)
    levels = np.array([-30, -20, -10, 0, 10], np.float32)
    echo = np.broadcast_to((10 ** (levels / 20))[:, None, None], (5, 180, 120)).astype(np.complex64)
    grey = quiet.grey(echo, np.random.default_rng(0))
    assert grey[3].mean() == pytest.approx(0.6 * 255, rel=1e-3)
    np.testing.assert_allclose(np.diff(grey.mean(axis=(1, 2))), 255 * 10 / 60, rtol=1e-3)


def test_time_gain_compensates_attenuation_and_amplifies_the_noise() -> None:
    echo = np.full((1, 180, 120), 0.1, np.complex64)
    rng = np.random.default_rng(0)
    corrected = Scanner(50, 0.5, 90, 3.5, 16, 180, 120, noise=-200).grey(echo, rng)[0].mean(axis=1)
    assert corrected[-1] == pytest.approx(corrected[0], abs=0.5)
    short = Scanner(50, 0.5, 90, 3.5, 16, 180, 120, noise=-200, time_gain=0.8).grey(echo, rng)[0].mean(axis=1)
    assert short[0] - short[-1] > 20
    silence = Scanner(50, 0.5, 90, 3.5, 16, 180, 120, noise=-45).grey(0 * echo, rng)[0].mean(axis=1)
    assert silence[-10:].mean() > silence[:10].mean() + 20


def test_scan_conversion_puts_a_point_in_the_right_place() -> None:
    polar = np.zeros((1, CONVEX.samples, CONVEX.beams), np.float32)
    row, column = 120, 90
    polar[0, row - 1 : row + 2, column - 1 : column + 2] = 255
    picture = CONVEX.scan_convert(polar, 160, 200)[0]
    x, z, _ = CONVEX.pixel_grid(160, 200)
    weights = picture / picture.sum(dtype=float)
    radius, angle = CONVEX.radius + CONVEX.depths[row], CONVEX.angles[column]
    pitch = float(x[1] - x[0])
    assert (weights.sum(axis=0) * x).sum() == pytest.approx(radius * np.sin(angle), abs=0.3 * pitch)
    assert (weights.sum(axis=1) * z).sum() == pytest.approx(radius * np.cos(angle), abs=0.3 * pitch)


def test_outside_the_sector_is_black() -> None:
    picture = CONVEX.scan_convert(np.full((1, CONVEX.samples, CONVEX.beams), 200, np.float32), 160, 200)[0]
    x, z, _ = CONVEX.pixel_grid(160, 200)
    radius, angle = np.hypot(x[None], z[:, None]), np.abs(np.arctan2(x[None], z[:, None]))
    inside = (angle < CONVEX.half_angle) & (radius > CONVEX.radius) & (radius < CONVEX.radius + CONVEX.depth)
    assert (picture[~inside] == 0).mean() > 0.999
    assert (picture[inside] == 200).mean() > 0.999


def test_a_smooth_field_has_unit_variance_and_its_correlation_length() -> None:
    x = np.linspace(0, 2000, 40001, dtype=np.float32)
    fields = np.stack([SmoothField.draw(np.random.default_rng(seed), 5, 5)(x) for seed in range(20)])
    assert fields.mean() == pytest.approx(0, abs=0.1)
    assert fields.std() == pytest.approx(1, abs=0.1)
    lag = round(5 / 0.05)  # one correlation length: exp(-1/2)
    assert (fields[:, lag:] * fields[:, :-lag]).mean() == pytest.approx(np.exp(-0.5), abs=0.15)
