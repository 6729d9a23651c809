"""Embedding: the deterministic evaluation views of every video, through an encoder once, into a feature store."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import torch

from echolung.core.errors import DataError
from echolung.core.parameters import Key, Parameters
from echolung.core.progress import Progress
from echolung.core.runtime import atomic_directory, code_digest, digest, link, used_modules, write_json
from echolung.data.clips import ClipStore, clip_indices, evaluation_starts
from echolung.embedding.features import FRAMES, INDEX, RECORD, SUMMARY, TOKENS, Features, FeaturesRecord, write_index
from echolung.embedding.summary import summarise
from echolung.models.encoder import ClipSettings, Encoder, effective_rank
from echolung.models.weights import EncoderRecord, load_encoder

# Dimension letters: V videos, B clips, T frames, S pixels, N tokens, D width.

CODE = ("echolung.data.clips", "echolung.embedding.embed", "echolung.embedding.summary")
"""Modules that decide which tokens and statistics a video becomes, besides the encoder's own."""


class EmbedSettings(Parameters):
    """`views` clips of each video, evenly spaced; `batch` clips pass through the encoder at a time."""

    sources: tuple[Key, ...]  # the sources that tasks read; pools that are only pretrained on are not embedded
    views: int = pydantic.Field(2, ge=1)
    batch: int = pydantic.Field(16, ge=1)
    frames: bool = False  # every traced frame, too, as a clip that stands still: what light decoders read


def embed(
    encoder_directory: Path, arm: str, manifest: pd.DataFrame, store: ClipStore, settings: EmbedSettings, out: Path,
    cache: Path, on_progress: Progress = lambda done, total: None, traced: Mapping[str, Sequence[int]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Embed every video of `manifest` (sample_id, sha256) for an arm; returns the store's summary, one row per video.

    `traced`: sample_id -> frames that are embedded on their own, too. Stores are kept in `cache` by the digest of all
    that their tokens depend on, for all studies; `out` links to them.
    """
    encoder, record = load_encoder(encoder_directory)
    videos = manifest[["sample_id", "sha256"]].sort_values("sample_id", ignore_index=True)
    traced = {name: [int(frame) for frame in frames] for name, frames in (traced or {}).items() if name in store}
    key = features_key(encoder, record, videos, store, settings.views, traced)
    kept = cache / key
    try:
        stored = Features.open(kept).record
    except DataError:
        _compute(encoder, record, videos, store, settings, kept, key, on_progress, traced)
        stored = Features.open(kept).record
    with atomic_directory(out) as directory:
        for name in (TOKENS, SUMMARY, INDEX, *([FRAMES] if traced else [])):
            link(kept / name, directory / name)
        # The same weights and videos may serve arms of other names.
        write_json(directory / RECORD, stored.model_copy(update={"arm": arm, "seed": record.seed}).model_dump())
    return Features.open(out).rows()


def _compute(
    encoder: Encoder, record: EncoderRecord, videos: pd.DataFrame, store: ClipStore, settings: EmbedSettings, out: Path,
    key: str, on_progress: Progress, traced: Mapping[str, Sequence[int]],
) -> None:  # fmt: skip
    shape = (len(videos), settings.views, encoder.tokens, encoder.width)
    encoder = encoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    told: list[tuple[Any, ...]] = []  # of each video: finite, std, mean token, summary
    begun = time.perf_counter()
    with atomic_directory(out) as directory:
        with open(directory / TOKENS, "wb") as stream:
            # Written front to back, not through a memory map: a full disk is then an error and not a killed process.
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for tokens in _encoded(encoder, list(videos["sample_id"]), store, settings):
                stream.write(tokens.contiguous().numpy().tobytes())
                for video in tokens:
                    every = video.float().flatten(0, 1)
                    spread = float(every.std(dim=0, correction=0).mean())
                    mean, summary = every.mean(dim=0).numpy(), summarise(video, encoder.grid)
                    told.append((bool(every.isfinite().all()), spread, mean, summary))
                on_progress(len(told), len(videos))
        seconds = (time.perf_counter() - begun) / len(videos)
        finite, std, pooled, summaries = zip(*told, strict=True)
        np.save(directory / SUMMARY, np.stack(summaries))
        firsts = itertools.accumulate(map(len, traced.values()), initial=0)  # rows of frames.npy
        if traced:
            np.save(directory / FRAMES, np.concatenate([*_still(encoder, traced, store, settings.batch)]))
        seen = videos["sha256"].isin(set(record.trained_on))
        features = FeaturesRecord(
            key=key,
            arm=record.arm,
            seed=record.seed,
            encoder_sha256=record.weights_sha256,
            shape=shape,
            grid=encoder.grid,
            seconds=seconds,
            effective_rank=effective_rank(np.stack(pooled)),
            seen_in_pretraining=list(videos.loc[seen, "sample_id"]),
            traced={name: (first, len(traced[name])) for name, first in zip(traced, firsts, strict=False)},
        )
        write_index(directory, features, videos.assign(finite=finite, std=std, seen_in_pretraining=seen))


def _encoded(encoder: Encoder, names: list[str], store: ClipStore, settings: EmbedSettings) -> Iterator[torch.Tensor]:
    """Tokens (a few videos, views, N, D), in order."""
    few = max(1, settings.batch // settings.views)
    for group in (names[at : at + few] for at in range(0, len(names), few)):
        clips = np.concatenate(
            [evaluation_clips(store.frames(name), store.fps(name), encoder.settings, settings.views) for name in group]
        )
        parts = [encode_clips(encoder, clips[at : at + settings.batch]) for at in range(0, len(clips), settings.batch)]
        yield torch.cat(parts).unflatten(0, (len(group), settings.views))


def _still(encoder: Encoder, traced: Mapping[str, Sequence[int]], store: ClipStore, batch: int) -> Iterator[np.ndarray]:
    """Tokens float16 (a few frames, h * w, D) of frames that fill a whole clip, as the mean over its time steps."""
    every = [(name, frame) for name, frames in traced.items() for frame in frames]
    for few in (every[at : at + batch] for at in range(0, len(every), batch)):
        frames = np.stack([store.frames(name)[frame] for name, frame in few])
        clips = np.repeat(frames[:, None], encoder.settings.frames, axis=1)
        tokens = encode_clips(encoder, clips).float().unflatten(1, (encoder.grid[0], -1))
        yield tokens.mean(dim=1).half().numpy()


def features_key(
    encoder: Encoder, record: EncoderRecord, videos: pd.DataFrame, store: ClipStore, views: int,
    traced: Mapping[str, Sequence[int]],
) -> str:  # fmt: skip
    """Digest of everything that tokens depend on: weights, preprocessing, views, code, videos and their frames."""
    return digest(
        {
            "code": code_digest(*CODE, *used_modules(type(encoder).__module__, within=("echolung.models.",))),
            "weights": record.weights_sha256,
            "trained_on": record.trained_on,
            "preprocessing": record.settings.model_dump(mode="json"),
            "views": views,
            "frames": {"size": store.size, "fingerprint": store.fingerprint},
            "videos": store.subset(videos["sample_id"]).identities(),
            "traced": traced,
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
