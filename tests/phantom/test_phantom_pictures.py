"""The scanner against the physics of ultrasound, artefacts of lungs, views of hearts against independent geometry."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from scipy.ndimage import map_coordinates

from echolung.hearts.volumes import volume
from echolung.phantom.findings import BLine, LungFindings
from echolung.phantom.heart import VIEWS, HeartVideo, View, beating_heart, draw_heart, heart_scanner
from echolung.phantom.lung import LungPatient, LungVideo, draw_lung
from echolung.phantom.simulator import Scanner, unit_scatterers

SCANNER = Scanner(55, 0.5, 90, frequency=3.5, aperture=16, dynamic_range=60, attenuation=0.35, noise=-58)
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


def beating(view: View, ef: float, seed: int, size: int = 112, frames: int = 40, still_wall: int = 0) -> HeartVideo:
    """A breathing heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart(view, ef, frames, 25, rng, still_wall)
    return HeartVideo(np.empty((frames, size, size), np.uint8), heart, heart_scanner(heart.deepest, rng, 112))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("ef", "seed"), [(25, 0), (50, 1), (78, 2)])
def test_masks_and_contours_have_the_stated_area(view: View, ef: float, seed: int) -> None:
    video = beating(view, ef, seed, size=448)
    heart, masks, pitch = video.heart, video.masks(), video.scanner.pixel_grid(448, 448)[2]
    for frame in (0, 7, heart.ventricle.end_diastole, heart.ventricle.end_systole):
        assert masks[frame].sum() * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.01)
        contour = video.contour(frame)
        x, y = contour.T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        assert area * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.005)
        middle = contour.mean(axis=0)
        for point in contour:  # the contour is the border of the mask
            inner, outer = (np.rint(middle + (point - middle) * share).astype(int) for share in (0.96, 1.04))
            assert masks[frame][inner[1], inner[0]]
            assert not masks[frame][outer[1], outer[0]]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("ef", [15.0, 40.0, 60.0, 78.0])
def test_the_ejection_fraction_is_exact_at_two_frames(view: View, ef: float) -> None:
    for seed in range(20):
        ventricle = beating(view, ef, seed, frames=8 + seed).heart.ventricle
        full, empty = ventricle.volumes[ventricle.end_diastole], ventricle.volumes[ventricle.end_systole]
        assert 100 * (full - empty) / full == pytest.approx(ef, abs=1e-3)
        assert full == pytest.approx(ventricle.volumes.max(), rel=1e-6)
        assert ventricle.end_diastole < ventricle.end_systole < ventricle.end_diastole + ventricle.frames_per_beat
        assert 40 < full < 260  # ml


@pytest.mark.parametrize("view", VIEWS)
def test_the_cavity_lies_within_the_sector_and_a_seed_is_one_heart(view: View) -> None:
    for seed in range(6):
        video = beating(view, 20.0 + 3 * seed, seed, frames=80)
        lateral, axial, _ = video.scanner.pixel_grid(112, 112)
        angle, depth = np.arctan2(lateral[None], axial[:, None]), np.hypot(lateral[None], axial[:, None])
        shown = (np.abs(angle) < video.scanner.half_angle) & (depth < video.scanner.depth)
        assert not (video.masks() & ~shown).any()
    first, again, other = (draw_heart(50, 8, 25, 64, seed, view) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert np.abs(first.frames.astype(float) - other.frames).mean() > 5
    same_heart = beating_heart("psax" if view == "a4c" else "a4c", 50, 8, 25, np.random.default_rng(1))
    np.testing.assert_array_equal(first.heart.ventricle.volumes, same_heart.ventricle.volumes)


def test_noise_fills_the_cavity_of_the_same_heart() -> None:
    clear, noisy, noisier = (draw_heart(60, 8, 25, 96, 3, noise=noise) for noise in (0, 16, 26))
    labels = clear.labels()
    shown = clear.frames.max(axis=0) > 0
    contrast, psnr = [], []
    for video in (clear, noisy, noisier):
        np.testing.assert_array_equal(video.labels(), labels)
        contrast.append(video.frames[labels == 2].mean() - video.frames[labels == 1].mean())
        error = np.mean((video.frames[:, shown] - clear.frames[:, shown].astype(float)) ** 2)
        psnr.append(10 * np.log10(255**2 / error) if error else np.inf)
    assert contrast[0] > 1.1 * contrast[1] > 1.3 * contrast[2] > 0
    assert 20 > psnr[1] > psnr[2] > 8


@pytest.mark.parametrize("still_wall", [0, -1, 1])
def test_discs_in_both_apical_views_measure_every_frame(still_wall: int) -> None:
    """Exact label maps of all frames give the volumes by biplane discs, also while one wall stands still."""
    four, two = (beating(view, 55, 3, size=256, frames=50, still_wall=still_wall) for view in ("a4c", "a2c"))
    ventricle = four.heart.ventricle
    np.testing.assert_array_equal(ventricle.volumes, two.heart.ventricle.volumes)
    abnormal = np.zeros(50, bool)
    abnormal[ventricle.abnormal] = True
    pitch4, pitch2 = (video.scanner.pixel_grid(256, 256)[2] for video in (four, two))
    for cavity4, cavity2, truth in zip(four.masks(), two.masks(), ventricle.volumes, strict=True):
        assert volume((cavity4, pitch4), (cavity2, pitch2)) == pytest.approx(truth, rel=0.025)
    single = np.array([volume((mask, pitch4)) for mask in four.masks()])
    ratio = single / ventricle.volumes * ventricle.anatomy.flatness
    assert np.abs(ratio[~abnormal] - 1).max() < 0.025, "one view takes the section for a circle"
    assert abnormal.sum() == (ventricle.frames_per_beat if still_wall else 0)
    if still_wall:
        beat = ventricle.volumes[ventricle.abnormal]
        assert beat.min() > 1.1 * ventricle.volumes[ventricle.end_systole]
        assert beat[0] == pytest.approx(ventricle.volumes.max())
        assert np.abs(ratio[abnormal] - 1).max() > 0.04
    labels = four.labels()
    assert np.array_equal(labels == 1, four.masks()) and all((labels == label).any((1, 2)).all() for label in (2, 3))
    muscle = (labels == 2).sum((1, 2))[~abnormal] * ventricle.lengths[~abnormal]
    assert np.ptp(muscle) < 0.35 * muscle.mean() and (muscle > 0).all()
