"""The short-axis view: area change, the ring of muscle, papillary muscles and the right ventricle."""

import numpy as np
import pytest

from echolung.phantom.heart import HeartVideo, beating_heart, draw_heart
from echolung.phantom.short_axis import ShortAxis


def beating(ef: float, seed: int) -> ShortAxis:
    heart = beating_heart("psax", ef, 40, 25, np.random.default_rng(seed))
    assert isinstance(heart, ShortAxis)
    return heart


@pytest.fixture(scope="module")
def video() -> HeartVideo:
    return draw_heart(60, 40, 25, 112, seed=5, view="psax")


def in_plane(video: HeartVideo, frame: int) -> tuple[ShortAxis, np.ndarray, np.ndarray]:
    """The heart, and the distance from the axis and clock angle of every pixel, (112, 112) each."""
    assert isinstance(video.heart, ShortAxis)
    lateral, axial, _ = video.scanner.pixel_grid(112, 112)
    x, z = video.heart.poses.at(frame).from_image(lateral[None, :], axial[:, None])
    return video.heart, np.hypot(x, z), np.arctan2(x, -z)


@pytest.mark.parametrize("ef", [15.0, 30.0, 50.0, 60.0, 78.0])
def test_area_follows_the_ejection_fraction(ef: float) -> None:
    heart = beating(ef, seed=int(ef))
    ventricle = heart.ventricle
    full, empty = heart.areas[[ventricle.end_diastole, ventricle.end_systole]]
    # V is proportional to A L, and a heart that ejects EF shortens by 0.27 EF.
    assert empty / full == pytest.approx((1 - ef / 100) / (1 - 0.27 * ef / 100), rel=0.001)
    assert full == heart.areas.max()
    # The bullet formula: the volume is 5/6 of area times length if the section is taken at the widest place.
    bullet = 5 / 6 * heart.areas * ventricle.lengths / 10
    np.testing.assert_allclose(bullet / ventricle.volumes, (bullet / ventricle.volumes)[0], rtol=1e-5)
    assert bullet[0] / ventricle.volumes[0] == pytest.approx(1, abs=0.12)


def test_the_cavity_is_dark_and_the_ring_bright(video: HeartVideo) -> None:
    masks = video.masks()
    for frame in (video.ventricle.end_diastole, video.ventricle.end_systole):
        heart, distance, clock = in_plane(video, frame)
        ring = (distance > heart.section.radii[frame] + 2) & (distance < heart.section.radii[frame] + 7)
        picture = video.frames[frame]
        papillary = np.any([np.cos(clock - muscle) > 0.5 for muscle in heart.papillary.clocks], axis=0)
        assert picture[ring].mean() > picture[masks[frame] & ~papillary].mean() + 50
        assert picture[ring].mean() > picture[masks[frame]].mean() + 25
