"""Embedding: the deterministic evaluation views of every video, through an encoder once, into a feature store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pydantic
import torch

from echolung.core.errors import DataError
from echolung.core.parameters import Key, Parameters
from echolung.core.runtime import (
    Progress,
    atomic_directory,
    code_digest,
    digest,
    link,
    read_json,
    sha256_file,
    used_modules,
    write_json,
)
from echolung.data.clips import ClipStore, clip_indices, evaluation_starts
from echolung.embedding.features import FILES, RECORD, TOKENS, Features, FeaturesRecord, write_index
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.rank import effective_rank
from echolung.models.weights import EncoderRecord, load_encoder

# Dimension letters: V videos, B clips, T frames, S pixels, N tokens, D width.

DIGESTS = "digests.json"
"""SHA-256 of the files of a store in the cache, written last. Stores of studies are hard links to these files, and so
an edit of one damages the cache."""
CODE = ("echolung.data.clips", "echolung.embedding.embed")
"""Modules that decide which tokens a video becomes, besides the encoder's own."""


class EmbedSettings(Parameters):
    """`views` clips of each video, evenly spaced; `batch` clips pass through the encoder at a time."""

    sources: tuple[Key, ...]
    """The sources that tasks read; pools that are only pretrained on are not embedded."""
    views: int = pydantic.Field(2, ge=1)
    batch: int = pydantic.Field(16, ge=1)


def embed(
    encoder_directory: Path,
    arm: str,
    manifest: pd.DataFrame,
    store: ClipStore,
    settings: EmbedSettings,
    out: Path,
    cache: Path,
    on_progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Embed every video of `manifest` (sample_id, sha256) for an arm and write the feature store `out`.

    Stores are kept in `cache` by the digest of all that their tokens depend on, and `out` links to them: what was
    computed once is not computed again, for any study. Returns the store's summary, one row per video. Raises DataError
    where the clip store lacks a video or holds another version of it.
    """
    encoder, record = load_encoder(encoder_directory)
    videos = manifest[["sample_id", "sha256"]].sort_values("sample_id", ignore_index=True)
    _check_videos(videos, store)
    key = features_key(encoder, record, videos, store, settings.views)
    kept = cache / key
    if not _whole(kept):
        _compute(encoder, record, videos, store, settings, kept, key, on_progress)
    with atomic_directory(out) as directory:
        for name in FILES:
            link(kept / name, directory / name)
        # The same weights and videos may serve arms of other names.
        stored = FeaturesRecord.parse(read_json(directory / RECORD), str(directory / RECORD))
        (directory / RECORD).unlink()
        write_json(directory / RECORD, stored.model_copy(update={"arm": arm, "seed": record.seed}).model_dump())
    return Features.open(out).summary()


def _whole(kept: Path) -> bool:
    """Whether the cache holds this store as it was written."""
    try:
        return all(sha256_file(kept / name) == known for name, known in read_json(kept / DIGESTS).items())
    except (OSError, DataError):
        return False


def _compute(
    encoder: Encoder,
    record: EncoderRecord,
    videos: pd.DataFrame,
    store: ClipStore,
    settings: EmbedSettings,
    out: Path,
    key: str,
    on_progress: Progress,
) -> None:
    """Write a feature store and its digests."""
    shape = (len(videos), settings.views, encoder.tokens, encoder.width)
    _check_space(out, 2 * int(np.prod(shape, dtype=np.int64)))
    encoder = encoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    with atomic_directory(out) as directory:
        with open(directory / TOKENS, "wb") as stream:
            # Written front to back, not through a memory map: a full disk is then an error and not a killed process.
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
            rows, pooled = _write_tokens(stream, encoder, store, videos, settings, on_progress)
        rows["seen_in_pretraining"] = rows["sha256"].isin(set(record.trained_on))
        finite = rows["finite"].to_numpy()
        write_index(
            directory,
            FeaturesRecord(
                key=key,
                arm=record.arm,
                seed=record.seed,
                encoder_sha256=record.weights_sha256,
                shape=shape,
                grid=encoder.grid,
                effective_rank=effective_rank(pooled[finite]) if finite.any() else 0.0,
                seen_in_pretraining=list(rows.loc[rows["seen_in_pretraining"], "sample_id"]),
            ),
            rows,
        )
        write_json(directory / DIGESTS, {name: sha256_file(directory / name) for name in FILES})


def features_key(encoder: Encoder, record: EncoderRecord, videos: pd.DataFrame, store: ClipStore, views: int) -> str:
    """Digest of everything that tokens depend on: weights, preprocessing, views, code, videos and their frames."""
    return digest(
        {
            "code": code_digest(*CODE, *used_modules(type(encoder).__module__, within=("echolung.models.",))),
            "weights": record.weights_sha256,
            "trained_on": record.trained_on,
            "preprocessing": record.settings.model_dump(mode="json"),
            "views": views,
            "frames": {"size": store.size, "fingerprint": store.fingerprint},
            "videos": videos[["sample_id", "sha256"]].to_numpy().tolist(),
        }
    )


def evaluation_clips(frames: np.ndarray, fps: float, settings: ClipSettings, views: int) -> np.ndarray:
    """The evaluation views (views, T, S, S) of a video's frames (F, S, S): the same wherever they are needed."""
    starts = evaluation_starts(len(frames), fps, settings.frames, settings.clip_fps, views)
    return np.stack(
        [frames[clip_indices(len(frames), fps, settings.frames, settings.clip_fps, start)] for start in starts]
    )


def encode_clips(encoder: Encoder, clips: np.ndarray) -> torch.Tensor:
    """Tokens (B, N, D) of clips uint8 (B, T, S, S), as the store holds them: float16, on the CPU."""
    return encoder.encode(torch.from_numpy(np.ascontiguousarray(clips))).half().cpu()


def _write_tokens(
    stream: BinaryIO,
    encoder: Encoder,
    store: ClipStore,
    videos: pd.DataFrame,
    settings: EmbedSettings,
    on_progress: Progress,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Append every video's tokens to `stream`; returns the videos with what they look like, and their means (V, D)."""
    finite: list[bool] = []
    std: list[float] = []
    pooled: list[np.ndarray] = []
    for group in _groups(list(videos["sample_id"]), max(1, settings.batch // settings.views)):
        clips = [
            evaluation_clips(store.frames(name), store.fps(name), encoder.settings, settings.views) for name in group
        ]
        flat = np.concatenate(clips)
        parts = [encode_clips(encoder, flat[at : at + settings.batch]) for at in range(0, len(flat), settings.batch)]
        tokens = torch.cat(parts).unflatten(0, (len(group), settings.views)).contiguous()
        stream.write(tokens.numpy().tobytes())
        for video in tokens.float().flatten(1, 2):
            finite.append(bool(video.isfinite().all()))
            std.append(float(video.std(dim=0, correction=0).mean()))
            pooled.append(video.mean(dim=0).numpy())
        on_progress(len(pooled), len(videos))
    return videos.assign(finite=finite, std=std), np.stack(pooled)


def _groups(names: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(names), size):
        yield names[at : at + size]


def _check_videos(videos: pd.DataFrame, store: ClipStore) -> None:
    if videos.empty:
        raise DataError("the manifest has no video to embed", "Run `dvc repro ingest`.")
    absent = [name for name in videos["sample_id"] if name not in store]
    if absent:
        raise DataError(
            f"the clip store lacks {len(absent)} videos of the manifest: {', '.join(absent[:10])}",
            "Run `dvc repro ingest`.",
        )
    pairs = zip(videos["sample_id"].astype(str), videos["sha256"].astype(str), strict=True)
    changed = [name for name, sha256 in pairs if store.sha256(name) != sha256]
    if changed:
        raise DataError(
            f"the clip store holds another version of {len(changed)} videos: {', '.join(changed[:10])}",
            "Run `dvc repro ingest`.",
        )


def _check_space(out: Path, needed: int) -> None:
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the tokens need {needed / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free",
            "Free some space, or lower embed.views or the encoder's resolution.",
        )
