"""Sampling in seconds and the memory-mapped store, against naive definitions."""

from pathlib import Path

import numpy as np
import pytest
from drawn import save_clips

from echolung.core.errors import DataError
from echolung.data.clips import ClipStore, clip_indices, evaluation_starts, read_clip


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


def test_store_reads_by_memory_map(tmp_path: Path) -> None:
    one, two = noise(30, 1), noise(3, 2)
    store = save_clips(tmp_path, {"one": one, "two": two}, [10.0, 11.0])
    assert store.sample_ids == ["one", "two"] and store.size == 16
    assert "one" in store and "three" not in store
    assert isinstance(store.frames("one"), np.memmap) and not store.frames("one").flags.writeable
    assert np.array_equal(store.frames("one"), one)
    assert (store.fps("two"), store.sha256("two")) == (11.0, "sha1")
    assert np.array_equal(read_clip(store, "one", 8, 5.0, 1.0), one[10:25:2])
    assert np.array_equal(read_clip(store, "two", 4, 11.0, 0.0), two[[0, 1, 2, 2]])


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


def test_several_stores_are_read_as_one(tmp_path: Path) -> None:
    frames = np.arange(2 * 3 * 16 * 16, dtype=np.uint8).reshape(2, 3, 16, 16)
    save_clips(tmp_path / "a", {"a/1": frames[0]})
    save_clips(tmp_path / "b", {"b/1": frames[1]})
    both = ClipStore.open(tmp_path / "a", tmp_path / "b")
    assert both.sample_ids == ["a/1", "b/1"]
    assert (both.frames("b/1") == frames[1]).all() and (both.subset(["a/1"]).frames("a/1") == frames[0]).all()
    index = tmp_path / "b" / "index.json"
    index.write_text(index.read_text().replace('"size": 16', '"size": 32'))
    with pytest.raises(DataError, match="other sizes"):
        ClipStore.open(tmp_path / "a", tmp_path / "b")
