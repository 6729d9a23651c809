"""Training clips from the clip store against decoding every time: python benchmarks/clip_feed.py

Drawn videos in an mp4 each. A clip of 16 frames at 8 per second is read from the store as training reads it, or by
opening the file with torchcodec, decoding its frames and resizing. In turns within one process; the
ratio is of the medians. The files are in the page cache: a cold disk would be slower for all.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from echolung.data.clips import ClipStore, clip_indices, read_clip, write_index
from echolung.data.video import encode
from echolung.phantom.heart import draw_heart

FRAMES, CLIP, CLIP_FPS, FPS, SIZE, STORED = 64, 16, 8.0, 25.0, 224, 112


def drawn(folder: Path, videos: int) -> ClipStore:
    """mp4 files of SIZE pixels, and the clip store that ingest would make of them."""
    (folder / "clips").mkdir()
    rows: dict[str, dict[str, object]] = {}
    for number in range(videos):
        frames = draw_heart(60.0, FRAMES, FPS, SIZE, number, "a4c").frames
        encode(folder / f"{number}.mp4", frames, FPS, "h264")
        np.save(
            folder / "clips" / f"{number}.npy",
            frames.reshape(FRAMES, STORED, 2, STORED, 2).mean((2, 4)).astype(np.uint8),
        )
        rows[str(number)] = {"sha256": str(number), "fps": FPS, "frames": FRAMES}
    write_index(folder / "clips", STORED, rows, "")
    return ClipStore.open(folder / "clips")


def by_torchcodec(path: Path, wanted: np.ndarray) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    frames = VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_at(indices=wanted.tolist()).data
    grey = frames.float().mean(dim=1, keepdim=True)
    return torch.nn.functional.interpolate(grey, (STORED, STORED), mode="area")[:, 0].byte().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store, random = drawn(folder, chosen.videos), np.random.default_rng(0)
        ways: dict[str, Callable[[int, float], np.ndarray]] = {
            "clip store": lambda number, start: np.array(read_clip(store, str(number), CLIP, CLIP_FPS, start)),
            "torchcodec": lambda number, start: by_torchcodec(folder / f"{number}.mp4", indices(start)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(chosen.rounds + 1):  # the first fills the page cache
            starts = random.uniform(0, (FRAMES - 1) / FPS - (CLIP - 1) / CLIP_FPS, chosen.videos)
            for name, way in ways.items():
                begun = time.perf_counter()
                for number, start in enumerate(starts):
                    assert way(number, float(start)).shape == (CLIP, STORED, STORED)
                if turn:
                    seconds[name].append((time.perf_counter() - begun) / chosen.videos)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, {datetime.date.today()}; median of {chosen.rounds}")
    for name, median in medians.items():
        print(f"{name:10}  {1e3 * median:8.3f} ms a clip  {median / medians['clip store']:6.0f}x")


def indices(start: float) -> np.ndarray:
    return clip_indices(FRAMES, FPS, CLIP, CLIP_FPS, start)


if __name__ == "__main__":
    main()
