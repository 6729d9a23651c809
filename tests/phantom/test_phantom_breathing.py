"""Breathing and the poses it gives the heart."""

import numpy as np

from echolung.phantom.breathing import HELD, Breathing, Pose


def test_breaths_are_slow_and_shallow_with_a_pause_at_expiration() -> None:
    rest, seconds = Pose(3.0, 60.0, 0.1), np.arange(0, 12, 0.04)
    for seed in range(40):
        poses = Breathing.draw(np.random.default_rng(seed)).poses(rest, seconds)
        moved = np.hypot(poses.x - rest.x, poses.depth - rest.depth)
        assert 2 < moved.max() < 8  # mm
        assert moved.min() < 0.01
        assert np.abs(poses.tilt - rest.tilt).max() <= np.deg2rad(3) + 1e-6
        assert np.median(moved) < 0.4 * moved.max()
        spectrum = np.abs(np.fft.rfft(moved - moved.mean()))
        rate = np.fft.rfftfreq(len(seconds), 0.04)[spectrum.argmax()] * 60
        assert 9 < rate < 23  # breaths per minute
    np.testing.assert_array_equal(HELD.poses(rest, seconds).depth, np.full(300, 60, np.float32))


def test_image_and_heart_coordinates_convert_back_and_forth() -> None:
    pose = Pose(*np.array([[2.0, -3.0], [50.0, 70.0], [0.2, -0.1]], np.float32))
    x, z = np.array([5.0, -8.0], np.float32), np.array([30.0, 12.0], np.float32)
    np.testing.assert_allclose(pose.from_image(*pose.to_image(x, z)), (x, z), atol=1e-4)
    assert pose.at(1) == Pose(-3.0, 70.0, float(np.float32(-0.1)))
    lateral, axial = pose.to_image(np.zeros(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(lateral, pose.x)
    np.testing.assert_array_equal(axial, pose.depth)
