"""The mask store: polygons are filled by the rule of the public sets, stores are one, and damage is named."""

from pathlib import Path

import numpy as np
import pytest
from drawn import manifest_of
from matplotlib.path import Path as Polygon

from echolung.core.errors import DataError
from echolung.data.masks import STRUCTURES, Masks, Tracing, filled, rasterised, read_masks, write_masks


@pytest.mark.parametrize("seed", range(6))
def test_filled_pixels_are_those_with_their_centre_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(3, 30, 12)  # a star; it may leave the picture
    polygon = np.stack([20 + radius * np.cos(angle), 22 + radius * np.sin(angle)], 1)
    rows, columns = np.mgrid[:40, :40]
    inside = Polygon(polygon).contains_points(np.stack([columns.ravel(), rows.ravel()], 1)).reshape(40, 40)
    assert np.array_equal(filled(polygon, 40), inside) and inside.any()


def test_a_polygon_lies_where_its_pixels_are_and_beyond_the_last_frame_it_is_named() -> None:
    videos = manifest_of(["a/x", "a/y", "a/z"], [1, 2, 3], height=20, width=40, pixel_aspect=1.0, pixel_mm=0.5)
    videos.loc[2, ["frames", "decode_error"]] = [0, "cut"]
    square = np.array([[9.5, 4.5], [19.5, 4.5], [19.5, 14.5], [9.5, 14.5]])  # columns 10-19, rows 5-14
    tracings = [Tracing("a/x", 7, square, {7: "ES"}), Tracing("a/x", 2, square, {2: "ED"}), Tracing("a/z", 0, square)]
    masks, rows = rasterised([*tracings, Tracing("a/y", 8, square)], videos, 20)
    made = masks["a/x"]
    assert list(masks) == ["a/x"] and made.frames.tolist() == [2, 7] and made.phases == ("ED", "ES")
    assert made.structures == STRUCTURES[:1] and made.spacing == 1.0
    expected = np.zeros((20, 20), bool)
    expected[5 + 2 : 5 + 7, 5:10] = True  # half the size, five rows down
    found = made.maps[0] == 1
    assert (found & expected).sum() >= 0.8 * expected.sum() and not (found & ~expected).any()
    assert rows.set_index("sample_id")["problem"].dropna().to_dict() == {"a/y": "there are 8 frames"}


def recording(value: int, spacing: float = float("nan")) -> Masks:
    maps = np.full((2, 8, 8), value, np.uint8)
    return Masks(np.array([1, 5]), ("ED", "ES"), maps, STRUCTURES, spacing)


def test_stores_are_one_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    write_masks(tmp_path / "a", 8, {"a/x": recording(1, 0.3), "a/y": recording(2)})
    write_masks(tmp_path / "b", 8, {"b/x": recording(3)})
    store = read_masks(tmp_path / "a", tmp_path / "b")
    assert list(store) == ["a/x", "a/y", "b/x"]
    for name, value in zip(store, (1, 2, 3), strict=True):
        assert (store[name].maps == value).all() and store[name].maps.shape == (2, 8, 8)
    assert store["a/y"].frames.tolist() == [1, 5] and store["a/x"].spacing == 0.3 and np.isnan(store["b/x"].spacing)
    (tmp_path / "b" / "masks.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks.npy is missing or damaged"):
        read_masks(tmp_path / "b")
