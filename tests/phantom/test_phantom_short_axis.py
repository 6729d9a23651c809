"""The short axis' truth against independent geometry, and its picture against its truth."""

import numpy as np
import pytest

from echolung.phantom.heart import HeartVideo, beating_heart, draw_heart, heart_scanner
from echolung.phantom.short_axis import ShortAxis
from echolung.phantom.simulator import Scanner


def beating(ef: float, seed: int, frames: int = 40) -> tuple[ShortAxis, Scanner]:
    """A heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart("psax", ef, frames, 25, rng)
    assert isinstance(heart, ShortAxis)
    return heart, heart_scanner(heart.deepest, rng, 112)


def in_plane(heart: ShortAxis, scanner: Scanner, frame: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the ventricle's axis and clock angle of every pixel, (size, size) each."""
    lateral, axial, _ = scanner.pixel_grid(size, size)
    x, z = heart.poses.at(frame).from_image(lateral[None, :], axial[:, None])
    return np.hypot(x, z), np.arctan2(x, -z)


@pytest.fixture(scope="module")
def video() -> HeartVideo:
    return draw_heart(60, 40, 25, 112, seed=5, view="psax")


@pytest.mark.parametrize("ef", [15.0, 30.0, 50.0, 60.0, 78.0])
def test_masks_have_the_area_that_the_ejection_fraction_asks_for(ef: float) -> None:
    size = 320
    heart, scanner = beating(ef, seed=int(ef))
    pitch = scanner.pixel_grid(size, size)[2]
    ends = [heart.ventricle.end_diastole, heart.ventricle.end_systole]
    masks = heart.masks(scanner, size)
    full, empty = (masks[frame].sum() * pitch**2 / 100 for frame in ends)
    np.testing.assert_allclose([full, empty], heart.areas[ends], rtol=0.01)
    # V is proportional to A L, and a heart that empties by EF shortens by 0.27 EF.
    assert empty / full == pytest.approx((1 - ef / 100) / (1 - 0.27 * ef / 100), rel=0.01)
    assert heart.ventricle.end_diastole in np.flatnonzero(heart.areas == heart.areas.max())


def test_both_views_are_of_one_ventricle() -> None:
    long, short = (beating_heart(view, 55, 40, 25, np.random.default_rng(8)) for view in ("a4c", "psax"))
    np.testing.assert_array_equal(long.ventricle.volumes, short.ventricle.volumes)
    # The bullet: volume is 5/6 of area times length where the section is taken at the widest place.
    bullet = 5 / 6 * short.areas * short.ventricle.lengths / 10
    np.testing.assert_allclose(bullet / short.ventricle.volumes, (bullet / short.ventricle.volumes)[0], rtol=1e-5)
    assert bullet[0] / short.ventricle.volumes[0] == pytest.approx(1, abs=0.12)


def test_the_contour_is_the_border_of_the_mask() -> None:
    heart, scanner = beating(50, seed=3)
    mask = heart.masks(scanner, 448)[7]
    contour = heart.contour(7, scanner, 448)
    middle = contour.mean(axis=0)
    for point in contour:
        inner, outer = (np.rint(middle + (point - middle) * share).astype(int) for share in (0.96, 1.04))
        assert mask[inner[1], inner[0]]
        assert not mask[outer[1], outer[0]]


@pytest.mark.parametrize("seed", range(20))
def test_the_ring_lies_within_the_sector(seed: int) -> None:
    heart, scanner = beating(20.0 + 3 * seed, seed, frames=80)
    lateral, axial, _ = scanner.pixel_grid(112, 112)
    angle, depth = np.arctan2(lateral[None], axial[:, None]), np.hypot(lateral[None], axial[:, None])
    shown = (np.abs(angle) < scanner.half_angle) & (depth < scanner.depth)
    assert not (heart.masks(scanner, 112) & ~shown).any()


def test_muscle_keeps_its_volume_and_the_wall_thickens() -> None:
    heart, _ = beating(60, seed=1)
    section, frame = heart.section, heart.ventricle.end_systole
    shortened = heart.ventricle.lengths[frame] / heart.ventricle.anatomy.length
    clock = np.linspace(0.4, 2.6, 9)  # the free wall
    inner = section.inner(clock)

    def thickness(at: np.ndarray) -> np.ndarray:
        return np.hypot(*heart.tissue(at * np.sin(clock), -at * np.cos(clock)).at(frame))

    border, outside = thickness(inner * 1.0001), thickness(inner + section.wall)
    np.testing.assert_allclose(border, section.radii[frame] * section.shape(clock), rtol=1e-3)
    assert ((outside - border) > 1.2 * section.wall).all()
    before, after = (inner + section.wall) ** 2 - inner**2, outside**2 - border**2
    np.testing.assert_allclose(after * shortened, before, rtol=1e-3)


def test_the_cavity_is_dark_and_the_ring_bright(video: HeartVideo) -> None:
    heart, masks = video.heart, video.masks()
    assert isinstance(heart, ShortAxis)
    for frame in (video.ventricle.end_diastole, video.ventricle.end_systole):
        distance, clock = in_plane(heart, video.scanner, frame, 112)
        ring = (distance > heart.section.radii[frame] + 2) & (distance < heart.section.radii[frame] + 7)
        picture = video.frames[frame]
        papillary = np.cos(clock - heart.papillary.clocks[0]) > 0.5
        papillary |= np.cos(clock - heart.papillary.clocks[1]) > 0.5
        blood = masks[frame] & ~papillary
        assert picture[ring].mean() > picture[blood].mean() + 50
        assert picture[ring].mean() > picture[masks[frame]].mean() + 25


def test_two_papillary_muscles_stand_in_the_cavity(video: HeartVideo) -> None:
    heart, frame = video.heart, video.ventricle.end_diastole
    assert isinstance(heart, ShortAxis)
    distance, clock = in_plane(heart, video.scanner, frame, 112)
    near = np.abs(distance - 0.8 * heart.section.radii[frame]) < 2.5
    sector = ((clock + np.pi) / (2 * np.pi) * 36).astype(int)
    profile = np.array([video.frames[frame][near & (sector == number)].mean() for number in range(36)])
    bright = profile > (profile.min() + profile.max()) / 2
    rises = np.flatnonzero(bright & ~np.roll(bright, 1))
    assert len(rises) == 2  # twice around the clock from blood to muscle
    for muscle in heart.papillary.clocks:
        at = int((muscle + np.pi) % (2 * np.pi) / (2 * np.pi) * 36)
        assert bright[at]


def test_the_right_ventricle_is_a_dark_crescent_beside_the_septum(video: HeartVideo) -> None:
    heart, frame = video.heart, video.ventricle.end_diastole
    assert isinstance(heart, ShortAxis)
    distance, clock = in_plane(heart, video.scanner, frame, 112)
    beyond, width = distance - heart.section.outer(clock), heart.right.width(clock)
    within = np.abs(clock - heart.right.middle) < 0.5
    crescent, septum = within & (beyond > 2) & (beyond < width - 2), within & (beyond < -2) & (beyond > -6)
    assert crescent.sum() > 40
    assert video.frames[frame][septum].mean() > video.frames[frame][crescent].mean() + 40


def test_a_seed_is_a_picture() -> None:
    first, again, other = (draw_heart(50, 8, 25, 64, seed, "psax") for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert np.abs(first.frames.astype(float) - other.frames).mean() > 5
