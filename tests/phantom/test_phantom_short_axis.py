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


def test_muscle_keeps_its_volume_and_the_wall_thickens() -> None:
    heart = beating(60, seed=1)
    section, frame = heart.section, heart.ventricle.end_systole
    shortened = heart.ventricle.lengths[frame] / heart.ventricle.anatomy.length
    clock = np.linspace(0.4, 2.6, 9)  # the free wall
    inner = section.inner(clock)

    def radius(at: np.ndarray) -> np.ndarray:
        return np.hypot(*heart.tissue(at * np.sin(clock), -at * np.cos(clock)).at(frame))

    border, outside = radius(inner * 1.0001), radius(inner + section.wall)
    np.testing.assert_allclose(border, section.radii[frame] * section.shape(clock), rtol=1e-3)
    assert ((outside - border) > 1.2 * section.wall).all()
    before, after = (inner + section.wall) ** 2 - inner**2, outside**2 - border**2
    np.testing.assert_allclose(after * shortened, before, rtol=1e-3)


def test_the_cavity_is_dark_and_the_ring_bright(video: HeartVideo) -> None:
    masks = video.masks()
    for frame in (video.ventricle.end_diastole, video.ventricle.end_systole):
        heart, distance, clock = in_plane(video, frame)
        ring = (distance > heart.section.radii[frame] + 2) & (distance < heart.section.radii[frame] + 7)
        picture = video.frames[frame]
        papillary = np.any([np.cos(clock - muscle) > 0.5 for muscle in heart.papillary.clocks], axis=0)
        assert picture[ring].mean() > picture[masks[frame] & ~papillary].mean() + 50
        assert picture[ring].mean() > picture[masks[frame]].mean() + 25


def test_there_are_two_papillary_muscles_in_the_cavity(video: HeartVideo) -> None:
    frame = video.ventricle.end_diastole
    heart, distance, clock = in_plane(video, frame)
    near = np.abs(distance - 0.8 * heart.section.radii[frame]) < 2.5
    sector = ((clock + np.pi) / (2 * np.pi) * 36).astype(int)
    profile = np.array([video.frames[frame][near & (sector == number)].mean() for number in range(36)])
    bright = profile > (profile.min() + profile.max()) / 2
    assert np.sum(bright & ~np.roll(bright, 1)) == 2  # from blood to muscle twice around the clock
    assert all(bright[int((muscle + np.pi) % (2 * np.pi) / (2 * np.pi) * 36)] for muscle in heart.papillary.clocks)


def test_the_right_ventricle_is_a_dark_crescent_beside_the_septum(video: HeartVideo) -> None:
    frame = video.ventricle.end_diastole
    heart, distance, clock = in_plane(video, frame)
    beyond, width = distance - heart.section.outer(clock), heart.right.width(clock)
    within = np.abs(clock - heart.right.middle) < 0.5
    crescent, septum = within & (beyond > 2) & (beyond < width - 2), within & (beyond < -2) & (beyond > -6)
    assert crescent.sum() > 40
    assert video.frames[frame][septum].mean() > video.frames[frame][crescent].mean() + 40
