"""The scanner against the physics of ultrasound; the artefacts of the lung, where they are and how they move."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from scipy.ndimage import map_coordinates

from echolung.phantom.findings import BLine, LungFindings
from echolung.phantom.lung import LungPatient, LungVideo, draw_lung
from echolung.phantom.simulator import Scanner, unit_scatterers

SCANNER = Scanner(
    radius=55, half_angle=0.5, depth=90, frequency=3.5, aperture=16, dynamic_range=60, attenuation=0.35, noise=-58
)
PATIENT = LungPatient(pleura=20, tilt=0, flatness=0, ribs=(), fat=0.4, breath_rate=20, slide=6, scanner=SCANNER)
HEALTHY = LungFindings(0, a_lines=1.0)
SIZE = (200, 220)
DEPTH, MIDDLE = np.arange(2, 88, 0.25), np.linspace(-0.2, 0.2, 80)


def test_speckle_of_a_homogeneous_phantom_is_fully_developed() -> None:
    """With twelve scatterers per cell."""
    scanner, envelopes = Scanner(50, 0.5, 90, frequency=3.5, aperture=16, samples=180, beams=120), []
    count = 12 * scanner.samples * scanner.beams
    for rng in map(np.random.default_rng, range(4)):
        depth = rng.uniform(0, scanner.depth, count).astype(np.float32)
        angle = rng.uniform(1.2 * scanner.angles[0], 1.2 * scanner.angles[-1], count).astype(np.float32)
        echo = scanner.receive(scanner.deposit(depth, angle, unit_scatterers(rng, count)))
        envelopes.append(np.abs(echo)[15:-15, 15:-15])
    ratios = [envelope.mean() / envelope.std() for envelope in envelopes]
    assert np.mean(ratios) == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)  # Rayleigh: 1.913
    sparse = np.concatenate([envelope[::12, ::15].ravel() for envelope in envelopes])  # one resolution cell apart
    assert scipy.stats.kstest(sparse / sparse.mean(), "rayleigh", args=(0, np.sqrt(2 / np.pi))).pvalue > 0.001


def polar(video: LungVideo, frame: int, depth: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Grey values of a drawn frame along beams, (depth, angle), read back from its pixels."""
    x, z, pitch = video.scanner.pixel_grid(*SIZE)
    radius = video.scanner.radius + depth[:, None]
    rows, columns = (radius * np.cos(angle) - z[0]) / pitch, (radius * np.sin(angle) - x[0]) / pitch
    return map_coordinates(video.frames[frame].astype(float), [rows, columns], order=1)


def test_a_lines_lie_at_multiples_of_the_depth_of_the_pleura() -> None:
    video = draw_lung(HEALTHY, PATIENT, 8, 10, SIZE, 0)
    for frame in (0, 7):
        profile = polar(video, frame, DEPTH, MIDDLE).mean(axis=1)
        pleura = float(np.interp(0, video.scanner.angles, video.pleura[frame]))
        assert DEPTH[profile.argmax()] == pytest.approx(pleura, abs=0.6)
        for order in (2, 3, 4):
            near = np.abs(DEPTH - order * pleura) < 0.3 * pleura
            assert DEPTH[near][profile[near].argmax()] == pytest.approx(order * pleura, abs=1.2)
            between = np.abs(DEPTH - (order - 0.5) * pleura) < 2
            assert profile[near].max() > profile[between].mean() + 20


def test_b_lines_reach_the_bottom_and_move_with_the_lung() -> None:
    video = draw_lung(dataclasses.replace(HEALTHY, b_lines=(BLine(0, 1.5, 4),)), PATIENT, 20, 10, SIZE, 0)
    angle, bottom, found = np.linspace(-0.25, 0.25, 200), DEPTH > 80, []
    for frame in range(20):
        beams = polar(video, frame, DEPTH, angle)
        bright = np.convolve(beams[DEPTH > 30].mean(axis=0), np.ones(15) / 15, "same")
        found.append(angle[bright.argmax()])
        line, beside = (np.abs(angle - at - video.b_line_angles[frame, 0]) < 0.012 for at in (0, 0.12))
        assert beams[bottom][:, line].mean() > beams[bottom][:, beside].mean() + 40
    assert np.ptp(video.slide) > 5
    np.testing.assert_allclose(found, video.b_line_angles[:, 0], atol=0.02)
    np.testing.assert_allclose(video.b_line_angles[:, 0] * (55 + 20), video.slide, rtol=1e-5)


def test_noise_covers_the_a_lines_of_the_same_lung() -> None:
    quiet, noisy = (LungPatient.draw(np.random.default_rng(2), noise) for noise in (0, 30))
    assert dataclasses.replace(noisy, scanner=quiet.scanner) == quiet
    videos = [draw_lung(HEALTHY, patient, 8, 10, SIZE, 0) for patient in (quiet, noisy)]
    np.testing.assert_array_equal(videos[0].pleura, videos[1].pleura)
    stands_out = []
    for video in videos:
        profile = polar(video, 0, DEPTH, MIDDLE).mean(axis=1)
        pleura = float(np.interp(0, video.scanner.angles, video.pleura[0]))
        line, between = (np.abs(DEPTH - order * pleura) < 2 for order in (3, 2.5))
        stands_out.append(profile[line].max() - profile[between].mean())
    assert stands_out[0] > 1.5 * stands_out[1] > 0
