"""All views of the heart: masks, contours and volumes against independent geometry."""

import numpy as np
import pytest

from echolung.hearts.volumes import volume
from echolung.phantom.heart import VIEWS, HeartVideo, View, beating_heart, draw_heart, heart_scanner


def beating(view: View, ef: float, seed: int, size: int = 112, frames: int = 40, still_wall: int = 0) -> HeartVideo:
    """A breathing heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart(view, ef, frames, 25, rng, still_wall)
    return HeartVideo(np.empty((frames, size, size), np.uint8), heart, heart_scanner(heart.deepest, rng, 112))


def area_of_polygon(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("ef", "seed"), [(25, 0), (50, 1), (78, 2)])
def test_masks_and_contours_have_the_stated_area(view: View, ef: float, seed: int) -> None:
    video = beating(view, ef, seed, size=448)
    heart, masks, pitch = video.heart, video.masks(), video.scanner.pixel_grid(448, 448)[2]
    for frame in (0, 7, heart.ventricle.end_diastole, heart.ventricle.end_systole):
        assert masks[frame].sum() * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.01)
        contour = video.contour(frame)
        assert area_of_polygon(contour) * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.005)
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
