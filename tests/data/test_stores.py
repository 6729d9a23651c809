"""What ingest leaves on disk: the manifest, the clip store and how clips are cut from it, the mask store."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of, save_clips
from matplotlib.path import Path as Polygon

from echolung.core.errors import DataError
from echolung.data import nifti
from echolung.data.clips import ClipStore, clip_indices, evaluation_starts, read_clip
from echolung.data.manifest import MANIFEST_COLUMNS, conform, read_manifest, write_manifest
from echolung.data.masks import STRUCTURES, Masks, Tracing, filled, rasterised, read_masks, write_masks


def manifest_rows(**more: list[object]) -> pd.DataFrame:
    ids = {"sample_id": ["s/a", "s/b"], "source": "s", "path": ["a.mp4", "b.mp4"], "patient_id": ["s/1", "s/2"]}
    return pd.DataFrame(ids | more)


def test_every_column_is_there_typed_and_in_order(tmp_path: Path) -> None:
    given = {"covid": [1, None], "decode_error": [None, "cut"], "label_lobe": ["left", None]}
    frame = conform(manifest_rows(**given, split_group=["g", None]))
    assert list(frame) == [*MANIFEST_COLUMNS, "label_lobe"]
    assert {name: str(frame[name].dtype) for name in MANIFEST_COLUMNS} == MANIFEST_COLUMNS
    assert frame["covid"].tolist() == [1, pd.NA] and frame["severity"].isna().all()
    assert frame["split_group"].tolist() == ["g", "s/2"]
    for table in (frame, frame.iloc[:0]):
        write_manifest(tmp_path / "manifest.parquet", table)
        pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.parquet"), table)


def test_repeated_sample_ids_and_files_that_are_no_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 sample ids are repeated: .*a.mp4.*b.mp4"):
        conform(pd.concat([manifest_rows(), manifest_rows()]))
    path = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(path)
    path.write_text("not parquet")
    with pytest.raises(DataError, match="not a parquet table"):
        read_manifest(path)
    conform(manifest_rows()).drop(columns="sha256").to_parquet(path)
    with pytest.raises(DataError, match=r"manifest.parquet has no column 'sha256'"):
        read_manifest(path)


def test_clip_indices_are_the_frames_on_screen() -> None:
    """The frame on screen is the last one that starts no later than the time."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        total, frames = int(rng.integers(1, 60)), int(rng.integers(1, 20))
        fps, clip_fps = float(rng.uniform(5, 60)), float(rng.uniform(2, 30))
        start = float(rng.uniform(0, 1.2 * total / fps))
        times = [start + k / clip_fps + 1e-9 for k in range(frames)]
        naive = [max(i for i in range(total) if i / fps <= time) for time in times]
        assert clip_indices(total, fps, frames, clip_fps, start).tolist() == naive
    for fps in (22.25, 25.0, 29.97, 30.0, 60000 / 1001):
        assert clip_indices(5000, fps, 5000, fps, 0.0).tolist() == list(range(5000)), "at its own rate every frame once"


def test_evaluation_starts_cover_the_video_evenly_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        total, frames, views = int(rng.integers(1, 300)), int(rng.integers(1, 33)), int(rng.integers(1, 6))
        fps, clip_fps = float(rng.uniform(5, 60)), float(rng.uniform(2, 30))
        starts = evaluation_starts(total, fps, frames, clip_fps, views)
        room = (total - 1) / fps - (frames - 1) / clip_fps
        expected = np.linspace(0, room, views) if views > 1 else np.array([room / 2])
        assert starts == pytest.approx(expected if room > 0 else np.zeros(views))
        assert starts.min() >= 0 and (starts.max() <= room + 1e-9 or room <= 0)
        if views > 1 and room > 0:
            assert clip_indices(total, fps, frames, clip_fps, starts[-1])[-1] == total - 1


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 16), dtype=np.uint8)


def test_several_stores_are_read_as_one_by_memory_map(tmp_path: Path) -> None:
    one, two = noise(30, 1), noise(3, 2)
    save_clips(tmp_path / "a", {"one": one}, 10.0)
    save_clips(tmp_path / "b", {"two": two}, 11.0, sha256=["sha1"])
    store = ClipStore.open(tmp_path / "a", tmp_path / "b")
    assert store.sample_ids == ["one", "two"] and store.size == 16
    assert "one" in store and "three" not in store
    assert isinstance(store.frames("one"), np.memmap) and not store.frames("one").flags.writeable
    assert np.array_equal(store.frames("one"), one)
    assert (store.fps("two"), store.sha256("two")) == (11.0, "sha1")
    assert np.array_equal(read_clip(store, "one", 8, 5.0, 1.0), one[10:25:2])
    assert np.array_equal(read_clip(store, "two", 4, 11.0, 0.0), two[[0, 1, 2, 2]])
    assert np.array_equal(store.subset(["one"]).frames("one"), one)
    index = tmp_path / "b" / "index.json"
    index.write_text(index.read_text().replace('"size": 16', '"size": 32'))
    with pytest.raises(DataError, match="other sizes"):
        ClipStore.open(tmp_path / "a", tmp_path / "b")


def test_store_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*dvc repro"):
        ClipStore.open(tmp_path / "none")
    store = save_clips(tmp_path, {name: noise(4, seed) for seed, name in enumerate("abc")})
    with pytest.raises(DataError, match="no video 'zz'"):
        store.frames("zz")
    paths = {name: tmp_path / f"{store.sha256(name)}.npy" for name in store.sample_ids}
    paths["a"].unlink()
    paths["b"].write_bytes(paths["b"].read_bytes()[:300])
    np.save(paths["c"], np.array([{"code": "never run"}], dtype=object), allow_pickle=True)
    for name, path in paths.items():
        with pytest.raises(DataError, match=rf"{path} \({name}\) is missing or damaged"):
            store.frames(name)


@pytest.mark.parametrize("seed", range(6))
def test_filled_pixels_are_those_with_their_centre_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(3, 30, 12)  # a star; it may leave the picture
    polygon = np.stack([20 + radius * np.cos(angle), 22 + radius * np.sin(angle)], 1)
    rows, columns = np.mgrid[:40, :40]
    inside = Polygon(polygon).contains_points(np.stack([columns.ravel(), rows.ravel()], 1)).reshape(40, 40)
    assert np.array_equal(filled(polygon, 40), inside) and inside.any()


def test_a_polygon_lies_where_its_pixels_are_and_beyond_the_last_frame_it_is_named(tmp_path: Path) -> None:
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
    nifti.write(tmp_path / "x.nii.gz", np.full((1, 20, 40), 2, np.uint8), 0.5)
    of_three = Tracing("a/x", 3, tmp_path / "x.nii.gz")
    for given, known in (([of_three], STRUCTURES), ([of_three, *tracings], STRUCTURES[:1])):
        assert rasterised(given, videos, 20)[0]["a/x"].structures == known, "what every traced frame has"


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
