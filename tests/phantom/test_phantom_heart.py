"""The heart's truth against independent geometry, and its picture against its truth."""

import numpy as np
import pytest

from echolung.phantom.four_chamber import FourChamber
from echolung.phantom.heart import HeartVideo, beating_heart, draw_heart, heart_scanner
from echolung.phantom.simulator import Scanner
from echolung.phantom.ventricle import contraction, mitral_opening


def beating(
    ef: float, seed: int, frames: int = 40, size: int = 112, breath_held: bool = False
) -> tuple[FourChamber, Scanner]:
    """A heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart("a4c", ef, frames, 25, rng, breath_held)
    assert isinstance(heart, FourChamber)
    return heart, heart_scanner(heart.deepest, rng, size)


def volume_of_mask(mask: np.ndarray, axis: np.ndarray, pitch: float) -> float:
    """Millilitres of the solid that a mask makes when turned about `axis`, by Pappus: 2 pi |x| dA on one side."""
    (apex_x, apex_y), (mitral_x, mitral_y) = axis
    rows, columns = np.nonzero(mask)
    along = np.array([mitral_x - apex_x, mitral_y - apex_y])
    along /= np.hypot(*along)
    distance = (columns - apex_x) * along[1] - (rows - apex_y) * along[0]
    return float(np.pi * np.abs(distance).sum() * pitch**3 / 1000)  # half of 2 pi: both sides are counted


def discs_volume(axis: np.ndarray, discs: np.ndarray) -> float:
    """Single-plane method of discs, cubic pixels."""
    length = np.hypot(*(axis[1] - axis[0]))
    diameters = np.hypot(*(discs[:, 1] - discs[:, 0]).T)
    return float(np.pi / 4 * length / len(discs) * (diameters**2).sum())


def area_of_polygon(points: np.ndarray) -> float:
    """Square pixels, by Gauss's formula."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


@pytest.fixture(scope="module")
def heart() -> HeartVideo:
    return draw_heart(60, 44, 25, 112, seed=4, breath_held=True)


@pytest.mark.parametrize(("ef", "seed"), [(25, 0), (50, 1), (65, 2)])
def test_volumes_are_those_of_the_masks_turned_about_their_axis(ef: float, seed: int) -> None:
    size = 448
    heart, scanner = beating(ef, seed)
    masks = heart.masks(scanner, size)
    pitch = scanner.pixel_grid(size, size)[2]
    for frame in range(0, 40, 9):
        turned = volume_of_mask(masks[frame], heart.long_axis(frame, scanner, size), pitch)
        assert turned == pytest.approx(heart.ventricle.volumes[frame], rel=0.01)
        assert masks[frame].sum() * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.01)
        contour = heart.contour(frame, scanner, size)
        assert area_of_polygon(contour) * pitch**2 / 100 == pytest.approx(heart.areas[frame], rel=0.005)


@pytest.mark.parametrize("ef", [15.0, 40.0, 60.0, 78.0])
def test_the_ejection_fraction_is_the_chosen_one_at_exact_frames(ef: float) -> None:
    for seed in range(40):
        ventricle = beating(ef, seed, frames=8 + seed)[0].ventricle
        full, empty = ventricle.volumes[ventricle.end_diastole], ventricle.volumes[ventricle.end_systole]
        assert 100 * (full - empty) / full == pytest.approx(ef, abs=1e-3)
        assert full == pytest.approx(ventricle.volumes.max(), rel=1e-6)
        assert ventricle.end_diastole < ventricle.end_systole < ventricle.end_diastole + ventricle.frames_per_beat
        assert 40 < full < 260  # ml


@pytest.mark.parametrize("ef", [20.0, 45.0, 70.0])
def test_twenty_discs_measure_the_ejection_fraction(ef: float) -> None:
    heart, scanner = beating(ef, seed=4)
    ventricle = heart.ventricle
    full, empty = (
        discs_volume(heart.long_axis(frame, scanner, 112), heart.discs(frame, scanner, 112))
        for frame in (ventricle.end_diastole, ventricle.end_systole)
    )
    assert 100 * (full - empty) / full == pytest.approx(ef, abs=0.1)
    pitch = scanner.pixel_grid(112, 112)[2]
    assert full * pitch**3 / 1000 == pytest.approx(ventricle.volumes[ventricle.end_diastole], rel=0.002)


def test_discs_end_on_the_mask_border() -> None:
    heart, scanner = beating(55, seed=7)
    mask = heart.masks(scanner, 448)[3]
    axis, discs = heart.long_axis(3, scanner, 448), heart.discs(3, scanner, 448)
    for left, right in discs:
        middle, half = (left + right) / 2, (right - left) / 2
        for side in (-1, 1):
            inner, outer = (np.rint(middle + side * half * (1 + margin)).astype(int) for margin in (-0.06, 0.06))
            assert mask[inner[1], inner[0]]
            assert not mask[outer[1], outer[0]]
    assert np.dot(discs[0].mean(axis=0) - axis[0], axis[1] - axis[0]) > 0  # from the apex down


def test_beats_repeat_exactly() -> None:
    heart, scanner = beating(60, seed=3, frames=60, breath_held=True)
    beat = heart.ventricle.frames_per_beat
    assert 2 * beat < 60
    np.testing.assert_array_equal(heart.ventricle.volumes[beat:], heart.ventricle.volumes[:-beat])
    masks = heart.masks(scanner, 112)
    np.testing.assert_array_equal(masks[beat:], masks[:-beat])


def test_the_picture_repeats_with_the_beat(heart: HeartVideo) -> None:
    frames, beat = heart.frames.astype(float), heart.ventricle.frames_per_beat
    same = np.abs(frames[beat:] - frames[:-beat]).mean()
    other = np.abs(frames[beat // 2 :] - frames[: -(beat // 2)]).mean()
    assert same < 0.3 * other


def test_chambers_are_dark_inside_the_mask_and_walls_bright_around_it(heart: HeartVideo) -> None:
    ventricle = heart.ventricle
    masks = heart.masks()
    full, empty = masks[ventricle.end_diastole], masks[ventricle.end_systole]
    for frame, mask in ((ventricle.end_diastole, full), (ventricle.end_systole, empty)):
        inside = heart.frames[frame][mask].mean()
        around = heart.frames[frame][_ring(mask)].mean()
        assert around > inside + 40
    # What the wall has swept over is blood when the ventricle is full and muscle when it is empty.
    beside = np.arange(112)[:, None] < np.nonzero(empty)[0].max() - 4  # not the atrium, where the valve plane was
    swept = full & ~_ring(~full, 1) & ~empty & ~_ring(empty, 1) & beside
    assert heart.frames[ventricle.end_systole][swept].mean() > heart.frames[ventricle.end_diastole][swept].mean() + 40


def _ring(mask: np.ndarray, width: int = 5) -> np.ndarray:
    """Pixels left and right of the mask, not farther than `width`."""
    grown = mask.copy()
    for shift in range(1, width + 1):
        grown |= np.roll(mask, shift, axis=1) | np.roll(mask, -shift, axis=1)
    return grown & ~mask


@pytest.mark.parametrize("seed", range(25))
def test_the_ventricle_lies_within_the_sector(seed: int) -> None:
    ef = 20.0 + 2 * seed
    heart, scanner = beating(ef, seed, frames=80)
    lateral, axial, _ = scanner.pixel_grid(112, 112)
    angle, depth = np.arctan2(lateral[None], axial[:, None]), np.hypot(lateral[None], axial[:, None])
    shown = (np.abs(angle) < scanner.half_angle) & (depth < scanner.depth)
    assert not (heart.masks(scanner, 112) & ~shown).any()


def test_tissue_rests_at_end_diastole_and_walls_keep_their_volume() -> None:
    heart, _ = beating(60, seed=1)
    anatomy = heart.ventricle.anatomy
    length, half_width = anatomy.length, anatomy.diameter / 2
    x, z = np.array([-60.0, -24, 3, 22, 28, 70]), np.array([40.0, 50, 60, 50, 45, 100])
    np.testing.assert_allclose(heart.tissue(x, z).when(length, half_width), (x, z), atol=1e-4)
    # Muscle of the free wall, as a body of revolution: r' (dr'/dr dz'/dz) / r = 1.
    z, step = np.linspace(0.3, 0.9, 7) * length, 0.1
    r = half_width * 1.02 + 2.0
    now = (0.85 * length, 0.75 * half_width)
    for depth in z:
        grid_x = np.array([r, r + step, r], np.float64)
        grid_z = np.array([depth, depth, depth + step], np.float64)
        new_x, new_z = (part.astype(np.float64) for part in heart.tissue(grid_x, grid_z).when(*now))
        stretch = (new_x[1] - new_x[0]) * (new_z[2] - new_z[0]) - (new_x[2] - new_x[0]) * (new_z[1] - new_z[0])
        assert stretch / step**2 * new_x[0] / r == pytest.approx(1, abs=0.02)


def test_the_cavity_border_is_carried_onto_the_mask_border() -> None:
    heart, _ = beating(60, seed=2)
    ventricle, frame = heart.ventricle, heart.ventricle.end_systole
    s = np.linspace(0.1, 0.95, 12)
    shape = np.sqrt(1 - ((s - 0.62) / 0.62) ** 2)
    border = heart.tissue(ventricle.anatomy.diameter / 2 * shape, s * ventricle.anatomy.length)
    x, z = border.at(frame)
    np.testing.assert_allclose(z, s * ventricle.lengths[frame], rtol=1e-4)
    np.testing.assert_allclose(x, ventricle.half_widths[frame] * shape, rtol=1e-3)


def test_filling_follows_the_beat() -> None:
    phase = np.linspace(0, 0.999, 1000).astype(np.float32)
    emptied, opening = contraction(phase, 0.36), mitral_opening(phase, 0.36)
    assert emptied[0] == 0
    assert emptied.max() == pytest.approx(1, abs=1e-4)
    assert phase[emptied.argmax()] == pytest.approx(0.36, abs=0.01)
    assert np.all(np.diff(emptied[phase > 0.37]) <= 1e-6)  # only ever fills
    assert np.all(opening[phase < 0.36] == 0)  # shut while the ventricle ejects
    assert opening[phase > 0.4].max() > 0.9


@pytest.mark.parametrize(("valve", "hinges"), [("mitral", (0, 1)), ("tricuspid", (2, 3))])
def test_valves_shut_in_systole_and_open_in_diastole(heart: HeartVideo, valve: str, hinges: tuple[int, int]) -> None:
    """By the leaflets' tips: how far apart they are, and how bright the picture is between them."""
    assert isinstance(heart.heart, FourChamber)
    ventricle, leaflets = heart.ventricle, heart.heart.leaflets
    sides = [(leaflets.hinge == side) & (leaflets.along > 0.9) for side in hinges]
    gaps, lit = np.empty(44), np.empty(44)
    for frame in range(44):
        x, z = leaflets.at(frame)
        (x_one, z_one), (x_other, z_other) = ((x[side].mean(), z[side].mean()) for side in sides)
        gaps[frame] = np.hypot(x_one - x_other, z_one - z_other)
        x, z = np.array([(x_one + x_other) / 2]), np.array([(z_one + z_other) / 2])
        column, row = np.rint(heart.heart.poses.at(frame).pixels(x, z, heart.scanner, 112)[0]).astype(int)
        lit[frame] = heart.frames[frame, row - 1 : row + 2, column - 1 : column + 2].mean()
    phase = (np.arange(44) - ventricle.end_diastole) % ventricle.frames_per_beat / ventricle.frames_per_beat
    shut, open_ = phase <= 0.36, ventricle.opening > 0.9
    assert open_.any()
    assert gaps[shut].max() < 4  # mm: the leaflets' own thickness
    assert gaps[open_].min() > 12, valve
    assert lit[shut].mean() > lit[open_].mean() + 60


def test_a_seed_is_a_heart() -> None:
    first, again, other = (draw_heart(50, 8, 25, 64, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert np.abs(first.frames.astype(float) - other.frames).mean() > 5
