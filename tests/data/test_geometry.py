"""Letterbox: pixels against naive definitions, and labels that move with them."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from echolung.data.geometry import Letterbox, letterbox


def triangle_weights(given: int, wanted: int) -> np.ndarray:
    """Linear interpolation whose support grows as the picture shrinks, pixel by pixel: (wanted, given)."""
    scale, weights = given / wanted, np.zeros((wanted, given))
    for target, pixel in np.ndindex(wanted, given):
        weights[target, pixel] = max(0.0, 1 - abs(pixel + 0.5 - (target + 0.5) * scale) / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (91, 91), (32, 32), (17, 17)])
def test_letterbox_is_an_area_weighted_average(height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width), dtype=np.uint8)
    rows, columns = triangle_weights(height, 32), triangle_weights(width, 32)
    naive = np.einsum("ih,thw,jw->tij", rows, frames.astype(float), columns)
    assert np.abs(letterbox(frames, 32) - naive).max() <= 0.51
    assert (letterbox(np.full((1, height, width), 77, np.uint8), 32) == 77).all()


@pytest.mark.parametrize("aspect", [1.0, 9 / 8, 0.5, 2.0])
@pytest.mark.parametrize(("height", "width"), [(100, 50), (50, 100), (33, 47), (20, 20), (7, 300), (300, 1)])
def test_letterbox_keeps_the_shown_shape_and_centres_the_picture(height: int, width: int, aspect: float) -> None:
    boxed = letterbox(np.full((2, height, width), 200, np.uint8), 48, aspect)
    assert boxed.shape == (2, 48, 48)
    rows, columns = np.nonzero(boxed[0])
    longer = max(height, width * aspect)
    assert np.ptp(rows) + 1 == pytest.approx(48 * height / longer, abs=1)
    assert np.ptp(columns) + 1 == pytest.approx(48 * width * aspect / longer, abs=1)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 48
    assert all(abs(place.min() - (47 - place.max())) <= 1 for place in (rows, columns))


@pytest.mark.parametrize("seed", range(6))
def test_points_and_masks_follow_the_pixels_within_half_a_pixel(seed: int) -> None:
    """A bright disc, its mask and its outline are moved; the moved outline, filled in, is where the disc is."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(90, 150, 2))
    x, y, radius = width / 2 + rng.uniform(-9, 9), height / 2 + rng.uniform(-9, 9), float(rng.uniform(12, 20))
    down, across = np.mgrid[:height, :width]
    mask = (np.hypot(across - x, down - y) < radius).astype(np.uint8)
    angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
    for aspect in (1.0, float(rng.uniform(0.6, 1.7))):
        box = Letterbox(height, width, int(rng.integers(64, 160)), aspect)
        seen, moved, points = box.frames(255 * mask[None])[0] / 255, box.mask(mask), box.points(outline)
        rows, columns = np.mgrid[: box.size, : box.size]
        inside = Polygon(points).contains_points(np.stack([columns.ravel(), rows.ravel()], 1)).reshape(seen.shape)
        for weights in (moved, inside):
            for place in (rows, columns):
                centres = [(one * place).sum() / one.sum() for one in (weights, seen)]
                assert abs(centres[0] - centres[1]) < 0.5
        border = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
        assert not (((moved != inside) | ((seen > 0.5) != inside)) & ~border).any()
