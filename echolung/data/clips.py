"""Clips: a store of decoded videos, and which of their frames a model sees.

A clip is a few frames of a video taken at a fixed rate per second, so that videos of 22 and of 50 frames per second
show a model the same motion. Dimension letters: T frames of a video, S side of the store's square frames.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from echolung.core.errors import DataError, listed
from echolung.core.runtime import read_json, write_json

INDEX = "index.json"
REMEDY = "Run `dvc repro` to ingest the source again."


def clip_indices(total_frames: int, fps: float, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """Indices of the frames of a clip: int64 (frames,), each in [0, total_frames), of which there must be one.

    Frame k of the clip is the one shown at `start_seconds + k / clip_fps`; beyond the end the last frame repeats.
    """
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
    """The decoded videos of one source or several: frames uint8 (T, S, S) per video, memory-mapped from disk."""

    def __init__(self, directory: Path, size: int, clips: dict[str, dict[str, object]], fingerprint: str) -> None:
        self.directory, self.size, self._clips = directory, size, clips
        self.fingerprint = fingerprint  # digest of the size and the code that made the frames

    @classmethod
    def open(cls, *directories: Path) -> ClipStore:
        """The stores in `directories` as one; raises DataError if one holds none, or if their frames differ in size."""
        found = [read_json(Path(directory) / INDEX) for directory in directories]
        if len({(index["size"], index["fingerprint"]) for index in found}) > 1:
            raise DataError(f"the stores {listed(directories)} were made with other sizes or code", REMEDY)
        clips = {
            name: {**facts, "folder": directory}
            for directory, index in zip(directories, found, strict=True)
            for name, facts in index["clips"].items()
        }
        return cls(Path(directories[0]), found[0]["size"], clips, found[0]["fingerprint"])

    @property
    def sample_ids(self) -> list[str]:
        """Every video that has frames, in the order of the manifest."""
        return list(self._clips)

    def subset(self, sample_ids: Iterable[str]) -> ClipStore:
        """The same store with these videos alone, in this order."""
        return ClipStore(self.directory, self.size, {name: self._row(name) for name in sample_ids}, self.fingerprint)

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._clips

    def frames(self, sample_id: str) -> np.ndarray:
        """All frames of a video, uint8 (T, S, S), read from disk as they are used."""
        path = Path(str(self._row(sample_id)["folder"])) / f"{self.sha256(sample_id)}.npy"
        try:
            return _mapped(path, path.stat().st_mtime_ns)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} ({sample_id}) is missing or damaged ({error})", f"Delete it. {REMEDY}") from None

    def fps(self, sample_id: str) -> float:
        """Frames per second of a video."""
        return float(str(self._row(sample_id)["fps"]))

    def sha256(self, sample_id: str) -> str:
        """SHA-256 of the video file the frames come from."""
        return str(self._row(sample_id)["sha256"])

    def identities(self) -> list[tuple[str, str, float]]:
        """Sample id, SHA-256 and frames per second of every video: with `fingerprint`, all that its clips depend on."""
        return [(name, self.sha256(name), self.fps(name)) for name in self._clips]

    def _row(self, sample_id: str) -> dict[str, object]:
        try:
            return self._clips[sample_id]
        except KeyError:
            raise DataError(f"no video '{sample_id}' in the clip store {self.directory}", REMEDY) from None


@functools.lru_cache(maxsize=4096)
def _mapped(path: Path, changed: int) -> np.ndarray:
    """A file that was written at `changed`: opening one takes as long as cropping a clip of it."""
    frames: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return frames


def read_clip(store: ClipStore, sample_id: str, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """One clip of a video, uint8 (frames, S, S); see `clip_indices`."""
    video = store.frames(sample_id)
    return video[clip_indices(len(video), store.fps(sample_id), frames, clip_fps, start_seconds)]
