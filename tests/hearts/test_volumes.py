"""Volumes against closed forms: ellipsoids whole, cut and tilted; beats of known curves."""

import numpy as np
import pytest

from echolung.core.errors import DataError
from echolung.hearts.volumes import beats, discs, ejection_fraction, largest, long_axis, volume, walls

SIDE, MM = 161, 0.5


def section(length: float, width: float, tilt: float = 0.0, cut: float = 1.0, skew: float = 0.0) -> np.ndarray:
    """Section through the axis of an ellipsoid with half-axes `length`, `width` in pixels, apex towards the top.

    `cut`: where the base is cut off, in half-lengths below the centre; `skew`: slope of that plane.
    """
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 + 0.13  # not exactly on pixels
    along = rows * np.cos(tilt) + columns * np.sin(tilt)
    across = columns * np.cos(tilt) - rows * np.sin(tilt)
    return ((along / length) ** 2 + (across / width) ** 2 <= 1) & (along <= cut * length + skew * across)


def ml(length: float, a: float, b: float, cut: float = 1.0) -> float:
    """Volume of an ellipsoid cut at `cut` half-lengths below its centre."""
    return np.pi * a * b * length * (cut - cut**3 / 3 + 2 / 3) * MM**3 / 1000


def direction(axis: np.ndarray) -> np.ndarray:
    return (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])


@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.7])
@pytest.mark.parametrize("cut", [1.0, 0.6])
def test_discs_measure_an_ellipsoid_whole_or_cut_however_it_is_tilted(tilt: float, cut: float) -> None:
    mask = section(70, 32, tilt, cut)
    assert volume((mask, MM)) == pytest.approx(ml(70, 32, 32, cut), rel=0.015)
    assert direction(long_axis(mask)) @ [np.sin(tilt), np.cos(tilt)] > 0.999
    diameters, length = discs(mask, MM)
    assert diameters.shape == (20,) and length == pytest.approx(70 * (1 + cut) * MM, rel=0.015)
    if cut == 1:
        half = (np.arange(20) + 0.5) / 10 - 1
        assert np.allclose(diameters, 64 * MM * np.sqrt(1 - half**2), atol=0.06 * 64 * MM)


def test_either_wall_is_measured_from_the_axis() -> None:
    wide, narrow = section(70, 40, 0.3), section(70, 24, 0.3)
    for turn, order in ((1, [40, 24]), (-1, [24, 40])):
        rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 + 0.13
        is_left = turn * (columns * np.cos(0.3) - rows * np.sin(0.3)) < 0
        found, _ = walls(np.where(is_left, wide, narrow), MM, long_axis(wide))
        half = (np.arange(20) + 0.5) / 10 - 1
        assert np.allclose(found, MM * np.c_[order] * np.sqrt(1 - half**2), atol=0.06 * 40 * MM)


def test_two_views_measure_an_ellipsoid_with_three_axes() -> None:
    wide, narrow = section(70, 38, 0.2), section(70, 24, -0.1)
    assert volume((wide, MM), (narrow, MM)) == pytest.approx(ml(70, 38, 24), rel=0.015)
    coarse = narrow[::2, ::2]  # the same view at half the resolution
    assert volume((wide, MM), (coarse, 2 * MM)) == pytest.approx(ml(70, 38, 24), rel=0.025)


def test_the_mitral_plane_gives_the_axis_that_a_reader_draws() -> None:
    """A skewed base turns the principal axis; with the atrium it runs from the middle of the plane to the apex."""
    cavity, whole = section(70, 32, 0.2, 0.5, skew=0.35), section(70, 32, 0.2, 3.0, skew=0.35)
    atrium = whole & ~cavity
    axis = long_axis(cavity, atrium)
    assert direction(axis) @ [np.sin(0.2), np.cos(0.2)] > 0.995
    assert discs(cavity, MM, axis=axis)[1] == pytest.approx(70 * 1.5 * MM, rel=0.015)
    assert np.array_equal(long_axis(cavity, np.zeros_like(cavity)), long_axis(cavity)), "no atrium: principal axis"


def test_a_speck_does_not_count_and_nothing_has_no_volume() -> None:
    mask = section(70, 32)
    spoilt, empty = mask.copy(), np.zeros_like(mask)
    spoilt[2:5, 2:5] = True
    assert np.array_equal(largest(spoilt), mask)
    assert volume((empty, MM)) == volume((empty, MM), (mask, MM)) == 0
    assert not largest(empty).any() and np.isnan(long_axis(empty)).all()
    with pytest.raises(DataError, match="end-diastolic volume of 0"):
        ejection_fraction(0.0, 0.0)
    assert (ejection_fraction(120, 48), ejection_fraction(100, 110)) == (60, -10)
    assert volume((np.ones((1, 1), bool), MM)) > 0  # a single pixel has an axis


def beating(seconds: float, fps: float, rate: float, shift: float = 0.0) -> np.ndarray:
    """100 ml that eject 60, `rate` times a minute; end-systole is half a beat after end-diastole."""
    return 70 + 30 * np.cos(2 * np.pi * (np.arange(round(seconds * fps)) / fps * rate / 60 + shift))


@pytest.mark.parametrize(("fps", "rate"), [(50, 60), (24, 120), (100, 75)])
def test_every_whole_beat_is_found_at_any_frame_rate(fps: float, rate: float) -> None:
    found = beats(beating(4, fps, rate), fps)
    per_beat = fps * 60 / rate
    assert len(found) == round(4 * rate / 60)
    for k, (full, empty) in enumerate(found):
        assert abs(full - k * per_beat) <= 1 and abs(empty - (k + 0.5) * per_beat) <= 1


def test_a_cut_beat_is_left_out_and_a_flat_curve_has_none() -> None:
    for curve, expected in [
        (beating(0.51, 50, 60), [(0, 25)]),  # half a sequence: from one end to the other
        (beating(0.51, 50, 60, 0.5), []),  # the other half: it fills, and ejects nothing
        (beating(1.0, 50, 60, 0.25), []),  # cut in the middle of its systole
        (np.full(40, 7.0), []),
        (beating(2, 50, 60) + 8 * np.cos(np.arange(100) * 2.1), [(0, 25), (50, 75)]),  # a ripple is no beat
    ]:
        found = beats(curve, 50)
        assert len(found) == len(expected) and np.abs(np.subtract(found, expected)).max(initial=0) <= 3
