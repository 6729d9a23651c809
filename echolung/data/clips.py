"""Clips: from a store of decoded videos to the frames that a model sees.

A video is decoded once, letterboxed to one size and kept as a memory-mapped array; a clip is a few of its frames, taken
at a fixed rate in seconds, so that 22 and 50 frames per second show the same motion to a model.

Dimension letters: T frames of a video, S side of the store's square frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from echolung.core.errors import DataError
from echolung.core.runtime import digest, read_json, write_json

INDEX = "index.json"
FLOATS_AT_ONCE = 1 << 22
"""Pixels that letterboxing holds as floats: 16 MB, whatever the length and size of a video."""
REMEDY = "Run `dvc repro` to ingest the source again."


def letterbox(frames: np.ndarray, size: int) -> np.ndarray:
    """Fit frames into a square without changing their shape: uint8 (T, H, W) -> uint8 (T, size, size).

    The longer side becomes `size` (bilinear, antialiased when it shrinks), the rest is black and the picture centred.
    """
    total, height, width = frames.shape
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    boxed = np.zeros((total, size, size), np.uint8)
    step = max(1, FLOATS_AT_ONCE // max(height * width, size * size))
    for start in range(0, total, step):
        pixels = torch.from_numpy(np.ascontiguousarray(frames[start : start + step])).float()[:, None]
        inner = F.interpolate(pixels, (inner_height, inner_width), mode="bilinear", antialias=True)[:, 0]
        boxed[start : start + step, top : top + inner_height, left : left + inner_width] = inner.round().byte().numpy()
    return boxed


def clip_indices(total_frames: int, fps: float, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """Which frames of a video make a clip: int64 (frames,), each in [0, total_frames).

    Frame k of the clip is the one on screen at `start_seconds + k / clip_fps`; beyond the end the last frame repeats.
    """
    if total_frames < 1:
        raise DataError("a clip cannot be cut from a video without frames", REMEDY)
    seconds = start_seconds + np.arange(frames) / clip_fps
    # A time that falls on the border of two frames in exact arithmetic belongs to the later one.
    shown = np.floor(seconds * fps + 1e-6).astype(np.int64)
    return np.clip(shown, 0, total_frames - 1)


def evaluation_starts(total_frames: int, fps: float, frames: int, clip_fps: float, views: int) -> np.ndarray:
    """Start seconds of the `views` clips that stand for a video in evaluation: float64 (views,), always the same.

    They are spread evenly over the starts for which the clip lies within the video, ends included; one view is the
    middle one. A video shorter than a clip has all its views at 0.
    """
    usable = max(0.0, (total_frames - 1) / fps - (frames - 1) / clip_fps)
    return np.array([usable / 2]) if views == 1 else np.linspace(0.0, usable, views)


def write_index(directory: Path, size: int, clips: dict[str, dict[str, object]], fingerprint: str) -> None:
    """Write a store's index: what is known of each video, by sample id, with a digest of it all."""
    index = {"fingerprint": fingerprint, "size": size, "clips": clips}
    write_json(directory / INDEX, {**index, "digest": digest(index)})


def is_untouched(index: dict[str, object]) -> bool:
    """Whether an index is as `write_index` wrote it; one without a digest was not written by it."""
    return index.get("digest") == digest({name: value for name, value in index.items() if name != "digest"})


class ClipStore:
    """The decoded videos of one source, on disk: frames uint8 (T, S, S) per video, read by memory map."""

    def __init__(self, directory: Path, size: int, clips: dict[str, dict[str, object]], fingerprint: str = "") -> None:
        self.directory = directory
        self.size = size
        self.fingerprint = fingerprint
        """Digest of the size and the code that made the frames; "" where the index names none."""
        self._clips = clips

    @classmethod
    def open(cls, directory: Path) -> ClipStore:
        """Raises DataError if there is no store in `directory` or its index is not ours."""
        index = read_json(Path(directory) / INDEX)
        if isinstance(index, dict) and "digest" in index and not is_untouched(index):
            raise DataError(f"{directory}/{INDEX} was changed since it was written", REMEDY)
        try:
            return cls(Path(directory), int(index["size"]), dict(index["clips"]), str(index.get("fingerprint", "")))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(f"{directory}/{INDEX} is not the index of a clip store", REMEDY) from None

    @property
    def sample_ids(self) -> list[str]:
        """Every video that has frames, in the manifest's order."""
        return list(self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._clips

    def frames(self, sample_id: str) -> np.ndarray:
        """All frames of a video, uint8 (T, S, S); read from disk where they are touched."""
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
        """SHA-256 of the video file that the frames come from."""
        return str(self._row(sample_id)["sha256"])

    def _row(self, sample_id: str) -> dict[str, object]:
        try:
            return self._clips[sample_id]
        except KeyError:
            raise DataError(f"no video '{sample_id}' in the clip store {self.directory}", REMEDY) from None


def read_clip(store: ClipStore, sample_id: str, frames: int, clip_fps: float, start_seconds: float) -> np.ndarray:
    """One clip of a video, uint8 (frames, S, S), by the rule of `clip_indices`."""
    video = store.frames(sample_id)
    return video[clip_indices(len(video), store.fps(sample_id), frames, clip_fps, start_seconds)]
