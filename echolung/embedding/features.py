"""The feature store: one encoder's tokens of every video of one source, read by memory map.

A directory of these files:
    tokens.npy     float16 (V, views, N, D): videos, evaluation views, tokens, width
    summary.npy    float32 (V, regions, statistics, D): `echolung.embedding.summary` of each video's tokens
    frames.npy     float16 (F, h * w, D), of sources with masks if asked for: every traced frame, shown as a still clip
    index.csv      one row per video, in the order of the tokens: sample_id, sha256, finite, std, seen_in_pretraining
    features.json  the encoder's arm and seed, and the digest of everything that the tokens depend on
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from echolung.core.errors import DataError, SettingsError, listed
from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.embedding.summary import summarise

TOKENS, SUMMARY, INDEX, RECORD = "tokens.npy", "summary.npy", "index.csv", "features.json"
FRAMES = "frames.npy"
INDEX_COLUMNS = ["sample_id", "sha256", "finite", "std", "seen_in_pretraining"]
REMEDY = "Delete the folder and run `dvc repro embed`."


class FeaturesRecord(Parameters):
    """features.json: what the tokens are of, and what they were made with."""

    key: str  # digest of all that the tokens depend on: weights, preprocessing, views, code, videos and their frames
    arm: str
    seed: int
    encoder_sha256: str  # digest of the encoder's weights
    shape: tuple[int, int, int, int]  # videos, views, tokens, width
    grid: tuple[int, int, int]  # tokens of a clip along (time, height, width)
    seconds: float = 0.0
    """On the clock, for each video, from stored frames to tokens and their statistics; in batches, with all threads."""
    effective_rank: float  # RankMe of the videos' mean tokens
    seen_in_pretraining: list[str]  # sample_ids of videos that the encoder was trained on
    traced: dict[str, tuple[int, int]] = {}  # sample_id -> its first row in frames.npy, and how many


@dataclass(frozen=True)
class Features:
    """An opened feature store; `tokens` (V, views, N, D) float16 is read from the disk as it is used."""

    record: FeaturesRecord
    videos: pd.DataFrame
    tokens: np.ndarray
    summaries: np.ndarray  # (V, regions, statistics, D) float32
    frames: np.ndarray | None = None  # (F, h * w, D) float16

    @classmethod
    def in_memory(cls, sample_ids: Iterable[str], tokens: np.ndarray, grid: tuple[int, int, int]) -> Features:
        """Of tokens (V, views, N, D) float16 that were just computed."""
        record = FeaturesRecord(
            key="", arm="", seed=0, encoder_sha256="", shape=tokens.shape, grid=grid, effective_rank=0.0,
            seen_in_pretraining=[],
        )  # fmt: skip
        summaries = np.stack([summarise(torch.from_numpy(video), grid) for video in tokens])
        return cls(record, pd.DataFrame({"sample_id": list(sample_ids)}), tokens, summaries)

    @classmethod
    def open(cls, directory: Path) -> Features:
        """Open the store in `directory`; raises DataError if there is none or if its files do not belong together."""
        try:
            record = FeaturesRecord.parse(read_json(directory / RECORD), str(directory / RECORD))
            videos = pd.read_csv(
                directory / INDEX,
                dtype={"sample_id": str, "sha256": str},
                keep_default_na=False,  # a video may be named "NA"
                na_values={"std": [""]},
            )
            tokens, summaries = (
                np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in (TOKENS, SUMMARY)
            )
            frames = np.load(directory / FRAMES, mmap_mode="r", allow_pickle=False) if record.traced else None
        except (SettingsError, OSError, EOFError, TypeError, ValueError) as error:
            raise DataError(f"{directory} is not a feature store ({error})", REMEDY) from None
        if (
            not isinstance(tokens, np.ndarray)  # an archive of arrays opens, too
            or list(videos.columns) != INDEX_COLUMNS
            or not len(videos) == len(tokens) == len(summaries)
            or tokens.shape != record.shape
            or tokens.dtype != np.float16
        ):
            raise DataError(f"{directory}: tokens, index and record do not belong together", REMEDY)
        return cls(record, videos, tokens, summaries, frames)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.videos["sample_id"])}

    def positions(self, sample_ids: Iterable[str]) -> np.ndarray:
        """Rows of `tokens` that hold these videos; raises DataError naming those that are missing."""
        wanted = list(sample_ids)
        if missing := [name for name in wanted if name not in self._places]:
            raise DataError(
                f"the features of arm '{self.record.arm}' seed {self.record.seed} lack {len(missing)} videos:"
                f" {listed(missing)}",
                "Run `dvc repro embed`, so that every labelled video is embedded.",
            )
        return np.array([self._places[name] for name in wanted], dtype=np.int64)

    def of_frames(self, sample_id: str) -> np.ndarray:
        """float16 (T, h * w, D) of the traced frames of a recording; raises DataError if they were not embedded."""
        if self.frames is None or sample_id not in self.record.traced:
            raise DataError(f"the traced frames of {sample_id} are not embedded", "Set `embed: {frames: true}`.")
        first, count = self.record.traced[sample_id]
        return np.array(self.frames[first : first + count])

    def summarised(self, sample_ids: Iterable[str]) -> np.ndarray:
        """float32 (n, regions, statistics, D)."""
        return np.asarray(self.summaries[self.positions(sample_ids)])

    def rows(self) -> pd.DataFrame:
        """One row per video: arm, seed, the index's columns, and the effective rank of the whole store."""
        head = self.videos.assign(arm=self.record.arm, seed=self.record.seed)
        return head[["arm", "seed", *INDEX_COLUMNS]].assign(effective_rank=self.record.effective_rank)


def write_index(directory: Path, record: FeaturesRecord, videos: pd.DataFrame) -> None:
    """Write index.csv and features.json beside the tokens that are already in `directory`."""
    videos[INDEX_COLUMNS].to_csv(directory / INDEX, index=False, lineterminator="\n")
    write_json(directory / RECORD, record.model_dump())
