"""The four-chamber view: volumes, discs, tissue and valves."""

import numpy as np
import pytest

from echolung.phantom.four_chamber import FourChamber
from echolung.phantom.heart import HeartVideo, beating_heart, draw_heart, heart_scanner
from echolung.phantom.simulator import Scanner


def beating(ef: float, seed: int, frames: int = 40) -> tuple[FourChamber, Scanner]:
    """A heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart("a4c", ef, frames, 25, rng)
    assert isinstance(heart, FourChamber)
    return heart, heart_scanner(heart.deepest, rng, 448)


@pytest.fixture(scope="module")
def video() -> HeartVideo:
    return draw_heart(60, 44, 25, 112, seed=4)


@pytest.mark.parametrize(("ef", "seed"), [(25, 0), (50, 1), (65, 2)])
def test_volumes_and_discs_are_those_of_the_masks(ef: float, seed: int) -> None:
    heart, scanner = beating(ef, seed)
    masks, pitch = heart.masks(scanner, 448), scanner.pixel_grid(448, 448)[2]
    for frame in range(0, 40, 9):
        apex, mitral = heart.long_axis(frame, scanner, 448)
        along = (mitral - apex) / np.hypot(*(mitral - apex))
        rows, columns = np.nonzero(masks[frame])
        distance = (columns - apex[0]) * along[1] - (rows - apex[1]) * along[0]
        volume = np.pi * np.abs(distance).sum() * pitch**3 / 1000  # Pappus: 2 pi |x| dA, on one of the two sides
        assert volume == pytest.approx(heart.ventricle.volumes[frame], rel=0.01)
        discs = heart.discs(frame, scanner, 448)
        assert np.all(np.diff(discs.mean(axis=1) @ along) > 0)  # from the apex down
        for left, right in discs[3:]:  # those wide enough to resolve end on the border of the mask
            middle, half = (left + right) / 2, (right - left) / 2
            for share, inside in ((-1.06, False), (-0.94, True), (0.94, True), (1.06, False)):
                column, row = np.rint(middle + share * half).astype(int)
                assert masks[frame][row, column] == inside


@pytest.mark.parametrize("ef", [15.0, 40.0, 60.0, 78.0])
def test_the_ejection_fraction_is_exact_at_two_frames(ef: float) -> None:
    for seed in range(40):
        ventricle = beating(ef, seed, frames=8 + seed)[0].ventricle
        full, empty = ventricle.volumes[ventricle.end_diastole], ventricle.volumes[ventricle.end_systole]
        assert 100 * (full - empty) / full == pytest.approx(ef, abs=1e-3)
        assert full == pytest.approx(ventricle.volumes.max(), rel=1e-6)
        assert ventricle.end_diastole < ventricle.end_systole < ventricle.end_diastole + ventricle.frames_per_beat
        assert 40 < full < 260  # ml


def test_chambers_are_dark_inside_the_mask_and_walls_bright_around_it(video: HeartVideo) -> None:
    masks, ends = video.masks(), (video.ventricle.end_diastole, video.ventricle.end_systole)
    for frame in ends:
        picture, mask = video.frames[frame], masks[frame]
        assert picture[_beside(mask)].mean() > picture[mask].mean() + 40
    # Where the wall moves inwards there is blood at end-diastole and muscle at end-systole.
    full, empty = (masks[frame] for frame in ends)
    above_valves = np.arange(112)[:, None] < np.nonzero(empty)[0].max() - 4
    swept = full & ~_beside(~full, 1) & ~empty & ~_beside(empty, 1) & above_valves
    assert video.frames[ends[1]][swept].mean() > video.frames[ends[0]][swept].mean() + 40


def _beside(mask: np.ndarray, width: int = 5) -> np.ndarray:
    """Pixels left and right of the mask, at most `width` away."""
    grown = mask.copy()
    for shift in range(1, width + 1):
        grown |= np.roll(mask, shift, axis=1) | np.roll(mask, -shift, axis=1)
    return grown & ~mask


def test_tissue_moves_with_the_mask_and_keeps_its_volume() -> None:
    heart, _ = beating(60, seed=1)
    ventricle, anatomy = heart.ventricle, heart.ventricle.anatomy
    full, empty, half_width = ventricle.end_diastole, ventricle.end_systole, anatomy.diameter / 2
    x, z = np.array([-60.0, -24, 3, 22, 28, 70]), np.array([40.0, 50, 60, 50, 45, 100])
    np.testing.assert_allclose(heart.tissue(x, z).at(full), (x, z), atol=1e-3)
    # The border of the cavity at end-diastole moves onto its border at end-systole.
    s = np.linspace(0.1, 0.95, 12)
    shape = np.sqrt(1 - ((s - 0.62) / 0.62) ** 2)
    x, z = heart.tissue(half_width * shape, s * anatomy.length).at(empty)
    np.testing.assert_allclose(z, s * ventricle.lengths[empty], rtol=1e-4)
    np.testing.assert_allclose(x, ventricle.half_widths[empty] * shape, rtol=1e-3)
    # Muscle of the free wall keeps its volume as a body of revolution: (r' / r) (dr'/dr dz'/dz) = 1.
    r, step = half_width * 1.02 + 2.0, 0.1
    for depth in np.linspace(0.3, 0.9, 7) * anatomy.length:
        corner = heart.tissue(np.array([r, r + step, r]), np.array([depth, depth, depth + step])).at(empty)
        new_x, new_z = (part.astype(np.float64) for part in corner)
        stretch = (new_x[1] - new_x[0]) * (new_z[2] - new_z[0]) - (new_x[2] - new_x[0]) * (new_z[1] - new_z[0])
        assert stretch / step**2 * new_x[0] / r == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("valve", "hinges"), [("mitral", (0, 1)), ("tricuspid", (2, 3))])
def test_valves_close_in_systole_and_open_in_diastole(video: HeartVideo, valve: str, hinges: tuple[int, int]) -> None:
    """By the tips of the leaflets: their distance, and how bright the picture is between them."""
    assert isinstance(video.heart, FourChamber)
    ventricle, leaflets = video.ventricle, video.heart.leaflets
    sides = [(leaflets.hinge == side) & (leaflets.along > 0.9) for side in hinges]
    gaps, lit = np.empty(44), np.empty(44)
    for frame in range(44):
        points = np.stack(leaflets.at(frame), axis=1)
        one, other = (points[side].mean(axis=0) for side in sides)
        gaps[frame] = np.hypot(*(one - other))
        x, z = ((one + other) / 2)[:, None]
        column, row = np.rint(video.heart.poses.at(frame).pixels(x, z, video.scanner, 112)[0]).astype(int)
        lit[frame] = video.frames[frame, row - 1 : row + 2, column - 1 : column + 2].mean()
    phase = (np.arange(44) - ventricle.end_diastole) % ventricle.frames_per_beat / ventricle.frames_per_beat
    closed, open_ = phase <= 0.36, ventricle.opening > 0.9
    assert gaps[closed].max() < 4  # mm: the thickness of the leaflets
    assert gaps[open_].min() > 12, valve
    assert lit[closed].mean() > lit[open_].mean() + 60
