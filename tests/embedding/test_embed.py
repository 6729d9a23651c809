"""Embedding: the right views through the encoder once, and no feature store that is torn or of other videos."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from echolung.core.errors import CheckpointError, DataError
from echolung.data.clips import ClipStore, evaluation_starts, read_clip
from echolung.embedding import embed as embedding
from echolung.embedding.embed import EmbedSettings, embed, encode_clips, evaluation_clips
from echolung.embedding.features import Features
from echolung.models.encoder import Encoder, EncoderSettings
from echolung.models.rank import effective_rank
from echolung.models.weights import EncoderRecord, initial_encoder, save_encoder

torch.set_num_threads(1)

SIZE, LENGTHS, FPS = 20, (30, 3, 17, 1, 40), (25.0, 10.0, 8.0, 12.0, 30.0)
ENCODER = EncoderSettings(width=24, depth=1, heads=2, image_size=16, frames=4, clip_fps=8.0, tubelet=2, patch=8)
VIEWS = EmbedSettings(views=2, batch=3)


def write_store(
    directory: Path, seed: int = 0, size: int = SIZE, fingerprint: str = ""
) -> tuple[ClipStore, pd.DataFrame]:
    """A clip store of five videos of different length and rate, and their manifest (in another order)."""
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    clips = {}
    for index, (length, fps) in enumerate(zip(LENGTHS, FPS, strict=True)):
        sha256 = hashlib.sha256(f"{seed} {index}".encode()).hexdigest()
        np.save(directory / f"{sha256}.npy", random.integers(256, size=(length, size, size), dtype=np.uint8))
        clips[f"s/{index}"] = {"sha256": sha256, "frames": length, "fps": fps}
    (directory / "index.json").write_text(json.dumps({"fingerprint": fingerprint, "size": size, "clips": clips}))
    manifest = pd.DataFrame([{"sample_id": name, "sha256": clip["sha256"]} for name, clip in clips.items()])
    return ClipStore.open(directory), manifest.iloc[::-1].reset_index(drop=True)


@pytest.fixture
def study(tmp_path) -> tuple[Path, pd.DataFrame, ClipStore]:
    store, manifest = write_store(tmp_path / "clips")
    save(tmp_path / "encoder", trained_on=(manifest["sha256"][1], "another video"))
    return tmp_path / "encoder", manifest, store


def save(directory: Path, seed: int = 0, spoil: bool = False, trained_on: tuple[str, ...] = ()) -> Encoder:
    encoder = initial_encoder(ENCODER, seed)
    if spoil:
        with torch.no_grad():
            encoder.norm.weight[3] = torch.nan
    save_encoder(
        directory, encoder, EncoderRecord(settings=ENCODER, arm="jepa", objective="jepa", seed=7, trained_on=trained_on)
    )
    return encoder


def test_tokens_are_the_encoded_evaluation_views(study, tmp_path) -> None:
    directory, manifest, store = study
    calls = []
    embed(directory, manifest, store, VIEWS, tmp_path / "out", lambda done, total: calls.append((done, total)))
    features = Features.open(tmp_path / "out")
    assert features.tokens.shape == (5, 2, ENCODER.frames // 2 * 4, 24)
    assert features.tokens.dtype == np.float16
    assert isinstance(features.tokens, np.memmap)
    assert list(features.videos["sample_id"]) == [f"s/{index}" for index in range(5)]
    encoder = initial_encoder(ENCODER, 0)
    for index, (length, fps) in enumerate(zip(LENGTHS, FPS, strict=True)):
        for view, start in enumerate(evaluation_starts(length, fps, 4, 8.0, 2)):
            clip = torch.from_numpy(read_clip(store, f"s/{index}", 4, 8.0, start))
            expected = encoder.encode(clip[None])[0].numpy()
            np.testing.assert_allclose(features.tokens[index, view], expected, rtol=2e-3, atol=2e-3)
    assert calls[-1] == (5, 5)


def test_the_summary_says_what_each_video_looks_like(study, tmp_path) -> None:
    directory, manifest, store = study
    summary = embed(directory, manifest, store, VIEWS, tmp_path / "out")
    tokens = np.asarray(Features.open(tmp_path / "out").tokens, dtype=np.float64).reshape(5, -1, 24)
    assert list(summary["sample_id"]) == [f"s/{index}" for index in range(5)]
    assert set(summary["arm"]) == {"jepa"}
    assert set(summary["seed"]) == {7}
    assert summary["finite"].all()
    np.testing.assert_allclose(summary["std"], tokens.std(axis=1).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(summary["effective_rank"], effective_rank(tokens.mean(axis=1)), rtol=1e-3)


def test_videos_that_the_encoder_was_trained_on_are_flagged(study, tmp_path) -> None:
    directory, manifest, store = study
    summary = embed(directory, manifest, store, VIEWS, tmp_path / "out")
    seen = manifest["sample_id"][1]
    assert list(summary.loc[summary["seen_in_pretraining"], "sample_id"]) == [seen]
    assert Features.open(tmp_path / "out").record.seen_in_pretraining == [seen]


def test_the_batch_changes_nothing_but_the_speed(study, tmp_path) -> None:
    directory, manifest, store = study
    for batch in (1, 16):
        embed(directory, manifest, store, EmbedSettings(views=2, batch=batch), tmp_path / str(batch))
    one, many = (Features.open(tmp_path / str(batch)) for batch in (1, 16))
    assert one.record.key == many.record.key
    np.testing.assert_allclose(one.tokens, many.tokens, rtol=0, atol=2e-3)


def test_weights_views_videos_frames_and_code_each_change_the_key(study, tmp_path, monkeypatch) -> None:
    directory, manifest, store = study
    one_view = EmbedSettings(views=1, batch=3)

    def key_of(*arguments) -> str:
        embed(*arguments, tmp_path / "out")
        return Features.open(tmp_path / "out").record.key

    keys = [key_of(directory, manifest, store, VIEWS)]
    assert key_of(directory, manifest, store, VIEWS) == keys[0]
    save(tmp_path / "other", seed=1)
    keys.append(key_of(tmp_path / "other", manifest, store, VIEWS))
    keys.append(key_of(tmp_path / "other", manifest, store, one_view))
    keys.append(key_of(tmp_path / "other", manifest[1:], store, one_view))
    second, replaced = write_store(tmp_path / "clips2", seed=1)
    keys.append(key_of(tmp_path / "other", replaced[1:], second, one_view))
    larger, same = write_store(tmp_path / "clips3", seed=1, size=SIZE + 4)
    assert same.equals(replaced)
    keys.append(key_of(tmp_path / "other", same[1:], larger, one_view))
    decoded_otherwise, _ = write_store(tmp_path / "clips4", seed=1, fingerprint="another decoder")
    keys.append(key_of(tmp_path / "other", same[1:], decoded_otherwise, one_view))
    monkeypatch.setattr(embedding, "CODE", embedding.CODE[1:])
    keys.append(key_of(tmp_path / "other", same[1:], decoded_otherwise, one_view))
    assert len(set(keys)) == 8


def test_an_interrupted_embedding_leaves_no_store(study, tmp_path, monkeypatch) -> None:
    directory, manifest, store = study
    real, calls = embedding.encode_clips, []

    def stop_at_the_second(encoder, clips):
        calls.append(len(clips))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(encoder, clips)

    monkeypatch.setattr(embedding, "encode_clips", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        embed(directory, manifest, store, VIEWS, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate tokens", "drop a row", "foreign record", "no index", "damaged record"])
def test_a_torn_store_is_refused_and_made_anew(study, tmp_path, damage: str) -> None:
    directory, manifest, store = study
    out = tmp_path / "out"
    embed(directory, manifest, store, VIEWS, out)
    whole = np.array(Features.open(out).tokens)
    if damage == "truncate tokens":
        (out / "tokens.npy").write_bytes((out / "tokens.npy").read_bytes()[:-200])
    elif damage == "drop a row":
        (out / "index.csv").write_text("\n".join((out / "index.csv").read_text().splitlines()[:-1]) + "\n")
    elif damage == "foreign record":
        (out / "features.json").write_text('{"format": "other"}')
    elif damage == "damaged record":
        (out / "features.json").write_text("{")
    else:
        (out / "index.csv").unlink()
    with pytest.raises(DataError):
        Features.open(out)
    embed(directory, manifest, store, VIEWS, out)
    assert np.array_equal(Features.open(out).tokens, whole)


def test_tokens_that_are_not_finite_are_told_by_video(study, tmp_path) -> None:
    _, manifest, store = study
    save(tmp_path / "spoiled", spoil=True)
    summary = embed(tmp_path / "spoiled", manifest, store, VIEWS, tmp_path / "out")
    assert not summary["finite"].any()
    assert (summary["effective_rank"] == 0).all()


def test_videos_that_the_clip_store_lacks_or_has_otherwise_are_named(study, tmp_path) -> None:
    directory, manifest, store = study
    extra = pd.concat([manifest, pd.DataFrame([{"sample_id": "s/9", "sha256": "x"}])])
    with pytest.raises(DataError, match="lacks 1 videos of the manifest: s/9"):
        embed(directory, extra, store, VIEWS, tmp_path / "out")
    other = manifest.assign(sha256=manifest["sha256"].where(manifest["sample_id"] != "s/2", "x"))
    with pytest.raises(DataError, match="another version of 1 videos: s/2"):
        embed(directory, other, store, VIEWS, tmp_path / "out")
    with pytest.raises(DataError, match="no video to embed"):
        embed(directory, manifest[:0], store, VIEWS, tmp_path / "out")
    with pytest.raises(CheckpointError):
        embed(tmp_path / "nowhere", manifest, store, VIEWS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_an_error_before_any_work(study, tmp_path, monkeypatch) -> None:
    directory, manifest, store = study
    usage = embedding.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(embedding.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="GiB free"):
        embed(directory, manifest, store, VIEWS, tmp_path / "out")


def test_a_new_video_is_embedded_as_the_store_would(study, tmp_path) -> None:
    directory, manifest, store = study
    embed(directory, manifest, store, VIEWS, tmp_path / "out")
    features = Features.open(tmp_path / "out")
    frames = np.array(store.frames("s/2"))
    tokens = encode_clips(initial_encoder(ENCODER, 0), evaluation_clips(frames, store.fps("s/2"), ENCODER, 2))
    np.testing.assert_allclose(tokens.numpy(), features.tokens[features.positions(["s/2"])[0]], rtol=0, atol=2e-3)


def test_missing_videos_are_named(study, tmp_path) -> None:
    directory, manifest, store = study
    embed(directory, manifest, store, VIEWS, tmp_path / "out")
    features = Features.open(tmp_path / "out")
    assert features.positions(["s/3", "s/0"]).tolist() == [3, 0]
    with pytest.raises(DataError, match="arm 'jepa' seed 7 lack 2 videos: s/7, t/0"):
        features.positions(["s/3", "s/7", "t/0"])
