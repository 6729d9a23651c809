"""Breathing carries the heart to and fro before the probe, its truth with it, and changes nothing about its beat."""

import numpy as np
import pytest

from echolung.phantom.breathing import HELD, Breathing, Pose
from echolung.phantom.heart import VIEWS, View, beating_heart, draw_heart, heart_scanner

SECONDS = np.arange(0, 12, 0.04)


def test_breaths_are_slow_shallow_and_rest_longest_when_breathed_out() -> None:
    rest = Pose(3.0, 60.0, 0.1)
    for seed in range(40):
        breathing = Breathing.draw(np.random.default_rng(seed))
        poses = breathing.poses(rest, SECONDS)
        moved = np.hypot(poses.x - rest.x, poses.depth - rest.depth)
        assert 2 < moved.max() < 8  # mm
        assert moved.min() < 0.01
        assert np.abs(poses.tilt - rest.tilt).max() <= np.deg2rad(3) + 1e-6
        assert np.median(moved) < 0.4 * moved.max()
        spectrum = np.abs(np.fft.rfft(moved - moved.mean()))
        rate = np.fft.rfftfreq(len(SECONDS), 0.04)[spectrum.argmax()] * 60
        assert 9 < rate < 23  # breaths per minute
    np.testing.assert_array_equal(HELD.poses(rest, SECONDS).depth, np.full(300, 60, np.float32))


def test_poses_turn_there_and_back() -> None:
    pose = Pose(*np.array([[2.0, -3.0], [50.0, 70.0], [0.2, -0.1]], np.float32))
    x, z = np.array([5.0, -8.0], np.float32), np.array([30.0, 12.0], np.float32)
    np.testing.assert_allclose(pose.from_image(*pose.to_image(x, z)), (x, z), atol=1e-4)
    assert pose.at(1) == Pose(-3.0, 70.0, float(np.float32(-0.1)))
    lateral, axial = pose.to_image(np.zeros(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(lateral, pose.x)
    np.testing.assert_array_equal(axial, pose.depth)


@pytest.mark.parametrize("view", VIEWS)
def test_masks_and_tracings_follow_the_breath_and_volumes_do_not(view: View) -> None:
    frames, size = 110, 224
    breathing, held = (
        beating_heart(view, 55, frames, 25, np.random.default_rng(6), breath_held=flag) for flag in (False, True)
    )
    np.testing.assert_array_equal(breathing.ventricle.volumes, held.ventricle.volumes)
    np.testing.assert_array_equal(breathing.areas, held.areas)
    scanner = heart_scanner(breathing.deepest, np.random.default_rng(0), size)
    pitch = scanner.pixel_grid(size, size)[2]
    moving, still = breathing.masks(scanner, size), held.masks(scanner, size)
    np.testing.assert_allclose(moving.sum((1, 2)), still.sum((1, 2)), rtol=0.02)
    rows, columns = np.mgrid[:size, :size]
    travelled = []
    for frame in range(0, frames, 10):
        pose = breathing.poses.at(frame)
        # Where the centre of the still mask lies in the heart, it must be seen through the pose that the breath gives.
        middle, expected = (
            np.array([columns[mask[frame]].mean(), rows[mask[frame]].mean()]) for mask in (moving, still)
        )
        lateral, axial, _ = scanner.pixel_grid(size, size)
        in_heart = held.rest.from_image(lateral[0] + expected[0] * pitch, axial[0] + expected[1] * pitch)
        seen = pose.pixels(np.array([in_heart[0]]), np.array([in_heart[1]]), scanner, size)[0]
        np.testing.assert_allclose(middle, seen, atol=0.15)
        contour = breathing.contour(frame, scanner, size, 200)
        np.testing.assert_allclose((contour.min(0) + contour.max(0)) / 2, _box_middle(moving[frame]), atol=1.0)
        travelled.append(np.hypot(*(middle - expected)) * pitch)
    assert max(travelled) > 2  # mm
    assert min(travelled) < 0.5


def _box_middle(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2


@pytest.mark.parametrize("view", VIEWS)
def test_the_picture_follows_the_breath(view: View) -> None:
    """Two frames a whole number of beats apart differ by the breath alone: moved back by it, they agree."""
    video = draw_heart(60, 60, 25, 112, 12, view)
    heart, beat = video.heart, video.ventricle.frames_per_beat
    depths = np.asarray(heart.poses.depth)
    pairs = [(t, t + k * beat) for t in range(60) for k in (1, 2) if t + k * beat < 60]
    first, second = max(pairs, key=lambda pair: abs(depths[pair[0]] - depths[pair[1]]))
    assert abs(depths[first] - depths[second]) > 1.5  # mm
    lateral, axial, pitch = video.scanner.pixel_grid(112, 112)
    x, z = heart.poses.at(first).from_image(lateral[None, :], axial[:, None])
    there_x, there_z = heart.poses.at(second).to_image(x, z)
    column = np.clip(np.rint((there_x - lateral[0]) / pitch), 0, 111).astype(int)
    row = np.clip(np.rint((there_z - axial[0]) / pitch), 0, 111).astype(int)
    inside = video.frames[first] > 0
    inside &= video.frames[second][row, column] > 0
    inside &= (axial[:, None] > 35) & np.ones((1, 112), bool)  # below what stands still
    one, other = video.frames[first].astype(float), video.frames[second].astype(float)
    followed = np.abs(one - other[row, column])[inside].mean()
    ignored = np.abs(one - other)[inside].mean()
    assert followed < 0.85 * ignored
