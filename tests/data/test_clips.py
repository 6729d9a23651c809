"""Letterboxing, sampling in seconds and the memory-mapped store, against naive definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from echolung.core.errors import DataError
from echolung.data.clips import ClipStore, clip_indices, evaluation_starts, letterbox, read_clip

torch.set_num_threads(1)


def triangle_weights(given: int, wanted: int) -> np.ndarray:
    """Linear interpolation whose support grows with the shrinkage, written down pixel by pixel: (wanted, given)."""
    scale = given / wanted
    support = max(scale, 1.0)
    weights = np.zeros((wanted, given))
    for target in range(wanted):
        centre = (target + 0.5) * scale
        for pixel in range(given):
            weights[target, pixel] = max(0.0, 1 - abs(pixel + 0.5 - centre) / support)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (91, 91), (32, 32), (17, 17)])
def test_letterbox_is_an_area_weighted_average(height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width), dtype=np.uint8)
    rows, columns = triangle_weights(height, 32), triangle_weights(width, 32)
    naive = np.einsum("ih,thw,jw->tij", rows, frames.astype(float), columns)
    assert np.abs(letterbox(frames, 32) - naive).max() <= 0.51
    assert letterbox(frames, 32).mean() == pytest.approx(frames.mean(), abs=2)
    flat = np.full((1, height, width), 77, np.uint8)
    assert (letterbox(flat, 32) == 77).all()


def test_letterbox_does_not_alias() -> None:
    """A pattern finer than the result becomes its mean, instead of the stripes that skipping pixels would give."""
    stripes = np.zeros((1, 256, 256), np.uint8)
    stripes[:, :, ::2] = 255
    inner = letterbox(stripes, 32)[:, 2:-2, 2:-2]
    assert np.abs(inner.astype(float) - 127.5).max() < 4
    assert set(np.unique(stripes[:, ::8, ::8])) == {255}


@pytest.mark.parametrize(("height", "width"), [(100, 50), (50, 100), (33, 47), (20, 20), (7, 300), (300, 1)])
def test_letterbox_keeps_the_shape_and_centres_the_picture(height: int, width: int) -> None:
    boxed = letterbox(np.full((2, height, width), 200, np.uint8), 48)
    assert boxed.shape == (2, 48, 48)
    rows, columns = np.nonzero(boxed[0])
    seen_height, seen_width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(seen_height, seen_width) == 48
    assert seen_height == pytest.approx(48 * height / max(height, width), abs=1)
    assert seen_width == pytest.approx(48 * width / max(height, width), abs=1)
    assert abs(rows.min() - (47 - rows.max())) <= 1
    assert abs(columns.min() - (47 - columns.max())) <= 1


def test_letterbox_treats_frames_alone_and_leaves_the_right_size_untouched() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 30), dtype=np.uint8)
    together = letterbox(frames, 32)
    assert all(np.array_equal(together[i : i + 1], letterbox(frames[i : i + 1], 32)) for i in range(5))
    square = frames[:, :30]
    assert np.array_equal(letterbox(square, 30), square)


def test_clip_indices_are_the_frames_on_screen() -> None:
    """Against the definition: the last frame whose start is not after the time."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        total, frames = int(rng.integers(1, 60)), int(rng.integers(1, 20))
        fps, clip_fps = float(rng.uniform(5, 60)), float(rng.uniform(2, 30))
        start = float(rng.uniform(0, 1.2 * total / fps))
        naive = []
        for k in range(frames):
            started = [i for i in range(total) if i / fps <= start + k / clip_fps + 1e-9]
            naive.append(started[-1])
        assert clip_indices(total, fps, frames, clip_fps, start).tolist() == naive


@pytest.mark.parametrize("fps", [22.25, 25.0, 29.97, 30.0, 60000 / 1001])
def test_sampling_at_the_video_rate_takes_every_frame_once(fps: float) -> None:
    assert clip_indices(5000, fps, 5000, fps, 0.0).tolist() == list(range(5000))


def test_a_short_video_repeats_its_last_frame() -> None:
    assert clip_indices(3, 8, 6, 8, 0.0).tolist() == [0, 1, 2, 2, 2, 2]
    assert clip_indices(1, 25, 4, 8, 0.0).tolist() == [0, 0, 0, 0]
    with pytest.raises(DataError, match="without frames"):
        clip_indices(0, 25, 4, 8, 0.0)


def test_evaluation_starts_cover_the_video_evenly_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        total, frames, views = int(rng.integers(1, 300)), int(rng.integers(1, 33)), int(rng.integers(1, 6))
        fps, clip_fps = float(rng.uniform(5, 60)), float(rng.uniform(2, 30))
        starts = evaluation_starts(total, fps, frames, clip_fps, views)
        assert starts.shape == (views,)
        assert np.array_equal(starts, evaluation_starts(total, fps, frames, clip_fps, views))
        span, length = (total - 1) / fps, (frames - 1) / clip_fps
        if length >= span:
            assert (starts == 0).all()
            continue
        assert starts.min() >= 0
        assert starts.max() + length <= span + 1e-9
        if views == 1:
            assert starts[0] == pytest.approx((span - length) / 2)
        else:
            assert starts[0] == 0
            assert starts[-1] + length == pytest.approx(span)
            assert np.diff(starts) == pytest.approx(np.full(views - 1, (span - length) / (views - 1)))
            assert clip_indices(total, fps, frames, clip_fps, starts[-1])[-1] == total - 1


def make_store(directory: Path, **videos: np.ndarray) -> ClipStore:
    """A store as ingest leaves it."""
    directory.mkdir(exist_ok=True)
    clips = {}
    for number, (name, frames) in enumerate(videos.items()):
        content = f"{number:064x}"
        np.save(directory / f"{content}.npy", frames)
        clips[name] = {"sha256": content, "frames": len(frames), "fps": 10.0 + number}
    (directory / "index.json").write_text(json.dumps({"fingerprint": "x", "size": 16, "clips": clips}))
    return ClipStore.open(directory)


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 16), dtype=np.uint8)


def test_store_reads_by_memory_map(tmp_path: Path) -> None:
    one, two = noise(30, 1), noise(3, 2)
    store = make_store(tmp_path, one=one, two=two)
    assert store.sample_ids == ["one", "two"]
    assert len(store) == 2
    assert "one" in store
    assert "three" not in store
    assert store.size == 16
    assert isinstance(store.frames("one"), np.memmap)
    assert not store.frames("one").flags.writeable
    assert np.array_equal(store.frames("one"), one)
    assert (store.fps("two"), store.sha256("two")) == (11.0, f"{1:064x}")
    clip = read_clip(store, "one", 8, 5.0, 1.0)
    assert np.array_equal(clip, one[[10, 12, 14, 16, 18, 20, 22, 24]])
    assert np.array_equal(read_clip(store, "two", 4, 11.0, 0.0), two[[0, 1, 2, 2]])


def test_store_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        ClipStore.open(tmp_path / "none")
    assert "dvc repro" in caught.value.remedy
    store = make_store(tmp_path, a=noise(4, 0), b=noise(4, 1), c=noise(4, 2), d=noise(4, 3))
    with pytest.raises(DataError, match="no video 'zz'"):
        store.frames("zz")
    paths = {name: tmp_path / f"{store.sha256(name)}.npy" for name in store.sample_ids}
    paths["a"].unlink()
    paths["b"].write_bytes(paths["b"].read_bytes()[:300])
    np.save(paths["c"], np.zeros((4, 8, 8), np.uint8))
    np.save(paths["d"], np.array([{"code": "never run"}], dtype=object), allow_pickle=True)
    for name, problem in [("a", "missing"), ("b", "damaged"), ("c", "not what the index says"), ("d", "damaged")]:
        with pytest.raises(DataError, match=problem) as caught:
            store.frames(name)
        assert str(paths[name]) in caught.value.problem
    (tmp_path / "index.json").write_text('{"clips": 3}')
    with pytest.raises(DataError, match="not the index of a clip store"):
        ClipStore.open(tmp_path)
