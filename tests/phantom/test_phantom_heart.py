"""The four-chamber view: volumes, discs, tissue and valves."""

import numpy as np
import pytest

from echolung.phantom.four_chamber import FourChamber
from echolung.phantom.heart import beating_heart, heart_scanner
from echolung.phantom.simulator import Scanner


def beating(ef: float, seed: int, frames: int = 40) -> tuple[FourChamber, Scanner]:
    """A heart without its picture."""
    rng = np.random.default_rng(seed)
    heart = beating_heart("a4c", ef, frames, 25, rng)
    assert isinstance(heart, FourChamber)
    return heart, heart_scanner(heart.deepest, rng, 448)


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
