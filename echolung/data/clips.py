"""Clips: a store of decoded videos, and which of their frames a model sees.

A clip is a few frames of a video taken at a fixed rate per second, so that videos of 22 and of 50 frames per second
show a model the same motion. Dimension letters: T frames of a video, S side of the store's square frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from echolung.core.errors import DataError
from echolung.core.runtime import read_json, write_json

INDEX = "index.json"
REMEDY = "Run `dvc repro` to ingest the source again."


def clip_indices(total_frames: int, fps: float, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """Indices of the frames of a clip: int64 (frames,), each in [0, total_frames).

    Frame k of the clip is the one shown at `start_seconds + k / clip_fps`; beyond the end the last frame repeats.
    """
    if total_frames < 1:
        raise DataError("a video without frames has no clips", REMEDY)
    seconds = start_seconds + np.arange(frames) / clip_fps
    # A time exactly between two frames belongs to the later one.
    shown = np.floor(seconds * fps + 1e-6).astype(np.int64)
    return np.clip(shown, 0, total_frames - 1)


def evaluation_starts(total_frames: int, fps: float, frames: int, clip_fps: float, views: int) -> np.ndarray:
    """Start seconds of the `views` clips by which a video is evaluated: float64 (views,), always the same.

    They are spread evenly over all starts that keep the clip inside the video, ends included; a single view is in the
    middle. If the video is shorter than a clip, all views start at 0.
    """
    usable = max(0.0, (total_frames - 1) / fps - (frames - 1) / clip_fps)
    return np.array([usable / 2]) if views == 1 else np.linspace(0.0, usable, views)


def write_index(directory: Path, size: int, clips: dict[str, dict[str, object]], fingerprint: str) -> None:
    """Write the index of a store: the facts of each video (sha256, frames, fps, ...) by sample id."""
    write_json(directory / INDEX, {"fingerprint": fingerprint, "size": size, "clips": clips})


class ClipStore:
    """The decoded videos of one source: frames uint8 (T, S, S) per video, memory-mapped from disk."""

    def __init__(self, directory: Path, size: int, clips: dict[str, dict[str, object]], fingerprint: str = "") -> None:
        self.directory = directory
        self.size = size
        self.fingerprint = fingerprint
        """Digest of the size and the code that made the frames; "" if the index has none."""
        self._clips = clips

    @classmethod
    def open(cls, directory: Path) -> ClipStore:
        """Raises DataError if `directory` holds no store or its index is damaged."""
        index = read_json(Path(directory) / INDEX)
        try:
            return cls(Path(directory), int(index["size"]), dict(index["clips"]), str(index.get("fingerprint", "")))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(f"{directory}/{INDEX} is not the index of a clip store", REMEDY) from None

    @property
    def sample_ids(self) -> list[str]:
        """Every video that has frames, in the order of the manifest."""
        return list(self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._clips

    def frames(self, sample_id: str) -> np.ndarray:
        """All frames of a video, uint8 (T, S, S), read from disk as they are used."""
        path = self.directory / f"{self.sha256(sample_id)}.npy"
        try:
            frames = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"{path} ({sample_id}) is missing from its clip store", REMEDY) from None
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} ({sample_id}) is damaged ({error})", f"Delete it. {REMEDY}") from None
        if not isinstance(frames, np.ndarray):
            raise DataError(f"{path} ({sample_id}) is an archive, not an array", f"Delete it. {REMEDY}")
        if frames.dtype != np.uint8 or frames.shape != (self._row(sample_id)["frames"], self.size, self.size):
            raise DataError(
                f"{path} ({sample_id}) holds {frames.dtype} {frames.shape}, not what the index says",
                f"Delete it. {REMEDY}",
            )
        return frames

    def fps(self, sample_id: str) -> float:
        """Frames per second of a video."""
        return float(str(self._row(sample_id)["fps"]))

    def sha256(self, sample_id: str) -> str:
        """SHA-256 of the video file the frames come from."""
        return str(self._row(sample_id)["sha256"])

    def _row(self, sample_id: str) -> dict[str, object]:
        try:
            return self._clips[sample_id]
        except KeyError:
            raise DataError(f"no video '{sample_id}' in the clip store {self.directory}", REMEDY) from None


def read_clip(store: ClipStore, sample_id: str, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """One clip of a video, uint8 (frames, S, S); see `clip_indices`."""
    video = store.frames(sample_id)
    return video[clip_indices(len(video), store.fps(sample_id), frames, clip_fps, start_seconds)]
