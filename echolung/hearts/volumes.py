"""Volumes and ejection fractions from masks of the left ventricle, by the formulas of clinical practice.

Discs (modified Simpson, Lang et al. 2015, 10.1016/j.echo.2014.10.003) cut the long axis of each frame into n slices of
equal height: V = pi/4 L/n sum(a_i b_i), a = b in one view, or a and b of two views at right angles and the longer L.

Masks are bool (H, W) with square pixels, apex towards the top as in apical views; `spacing` is mm per pixel. Without it
(NaN, or 1) volumes have no unit and ejection fractions are still right. Points are (x, y) in pixels, as in
`echolung.data.geometry`. An empty mask has the volume 0.

Not all references are made so. CAMUS's current release gives end-diastole and end-systole one length (`disc_volume`
with length 1 for both), which leaves out the shortening and reads 8 points lower (benchmarks/ef_references.py).
"""

import numpy as np
from scipy import ndimage

from echolung.core.errors import DataError

DISCS = 20
SHORTEST_BEAT = 0.3  # seconds from one end-systole to the next: 200 beats per minute
MITRAL_GAP = 3  # pixels between cavity and atrium that still count as the mitral plane


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest of the mask's connected components (sides, not corners): bool (H, W)."""
    pieces, _ = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:])


def long_axis(mask: np.ndarray, atrium: np.ndarray | None = None) -> np.ndarray:
    """Apex and base of a ventricle: float64 (2, 2), points x before y; NaN if the mask is empty.

    Where the mask of the atrium is given and touches the ventricle: the middle of the mitral plane, and the point
    farthest from it, as a reader places them. Else the ends of the principal axis, which cover the whole mask.
    """
    points = _points(mask)
    if not len(points):
        return np.full((2, 2), np.nan)
    if atrium is not None and atrium.any():
        above = mask & ndimage.binary_dilation(atrium, iterations=MITRAL_GAP)
        below = atrium & ndimage.binary_dilation(mask, iterations=MITRAL_GAP)
        if above.any():
            base = (_points(above).mean(0) + _points(below).mean(0)) / 2
            return np.stack([points[np.argmax(((points - base) ** 2).sum(1))], base])
    centre = points.mean(0)
    direction = np.linalg.eigh(np.cov(points.T - centre[:, None], ddof=0))[1][:, 1]
    direction *= np.sign(direction[1]) or 1.0  # down, from the apex to the base
    along = (points - centre) @ direction
    # Pixels are as wide as they are far apart: half of one lies beyond the outermost centres.
    return centre + np.array([[along.min() - 0.5], [along.max() + 0.5]]) * direction


def discs(mask: np.ndarray, spacing: float = 1.0, axis: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Diameters float64 (DISCS,) from apex to base, and the length of the axis, both in mm; see `walls`."""
    found, length = walls(mask, spacing, axis)
    return found.sum(axis=0), length


def walls(mask: np.ndarray, spacing: float = 1.0, axis: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """From the axis to the walls at its left and right, apex up: float64 (2, DISCS) from apex to base; and its length,
    both in mm.

    A distance is the area of the mask on that side, within a slice, / the height of the slice. `axis`: as `long_axis`
    returns it; what lies beyond its ends is not counted.
    """
    apex, base = long_axis(mask) if axis is None else axis
    length = float(np.hypot(*(base - apex)))
    if not length > 0:
        return np.zeros((2, DISCS)), 0.0
    points, (x, y) = _points(mask) - apex, (base - apex) / length
    cuts = np.linspace(0, length, DISCS + 1)
    # Area up to each cut: a pixel that is cut, by a slice or by the axis, counts in part.
    below = np.clip(cuts[:, None] - points @ (x, y) + 0.5, 0, 1)
    left = np.clip(0.5 - points @ (y, -x), 0, 1)
    return np.diff(below @ np.stack([left, 1 - left]).T, axis=0).T * DISCS / length * spacing, length * spacing


def disc_volume(a: np.ndarray, b: np.ndarray, length: float) -> float:
    """Volume in ml of elliptical discs: diameters (n,) in two planes at right angles, and the axis's length, in mm."""
    return float(np.pi / 4 * length / len(a) * (a * b).sum() / 1000)


def volume(*views: tuple[np.ndarray, float]) -> float:
    """Volume in ml by discs in one view, or in two at right angles over the longer of their axes: (mask, spacing)."""
    diameters, lengths = zip(*(discs(mask, spacing) for mask, spacing in views), strict=True)
    return disc_volume(diameters[0], diameters[-1], max(lengths))


def ejection_fraction(end_diastolic: float, end_systolic: float) -> float:
    """Percent of the end-diastolic volume that is ejected; below 0 if the ventricle grows.

    Raises DataError if the end-diastolic volume is not a positive number.
    """
    if not end_diastolic > 0:
        raise DataError(f"an end-diastolic volume of {end_diastolic:g} ejects nothing", "Is its mask empty?")
    return 100 * (end_diastolic - end_systolic) / end_diastolic


def beats(volumes: np.ndarray, fps: float) -> list[tuple[int, int]]:
    """Frames of end-diastole and end-systole of each beat in a curve of volumes or areas (T,).

    End-systole is a minimum with a prominence of half the range (5th to 95th percentile), SHORTEST_BEAT or more
    from the next; end-diastole is the largest volume since the end-systole before. Either may be an end of the curve.
    A beat that the recording cuts (a volume over a quarter of the range from full or empty) is left out.
    """
    from scipy import signal  # a second to import

    curve = np.asarray(volumes, float)
    low, high = np.percentile(curve, (5, 95))
    if not high > low:
        return []
    walled = np.concatenate([[curve.max()], curve, [curve.max()]])  # so that the ends can be minima
    apart = max(1, round(SHORTEST_BEAT * fps))
    ends = signal.find_peaks(-walled, prominence=(high - low) / 2, distance=apart)[0] - 1
    found, after = [], 0
    for empty in map(int, ends):
        if empty > after:
            full = after + int(np.argmax(curve[after:empty]))
            if curve[full] >= high - (high - low) / 4 and curve[empty] <= low + (high - low) / 4:
                found.append((full, empty))
        after = empty + 1
    return found


def _points(mask: np.ndarray) -> np.ndarray:
    """Centres of the mask's pixels, (N, 2)."""
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], 1).astype(float)
