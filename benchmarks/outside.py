"""How often a champion says that a video lies outside what it has seen: python benchmarks/outside.py pocus-pathology

Sets of videos that it has not seen are drawn, written to disk, and go through `echolung predict`'s own path: lungs of
new patients from where its training videos come from (false alarms), hearts, and things that are no ultrasound at all.
`--videos NAME=FOLDER` adds a folder of your own.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from echolung import settings
from echolung.data.video import encode
from echolung.evaluation.statistics import wilson_interval
from echolung.phantom.heart import draw_heart
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write
from echolung.registry import models as registry
from echolung.serving.model import Model
from echolung.stage import exit_cleanly, project_root
from echolung.tracking.store import store

SUFFIXES = {".mp4", ".mov", ".avi", ".gif", ".mpeg", ".mpg", ".mkv"}
OTHER_SEED = 5_000_000
"""Added to a study's seeds: patients whom nothing has seen."""
FPS, FRAMES, SIDE = 25.0, 40, 128


def odd(kind: str, seed: int) -> np.ndarray:
    """Frames uint8 (T, H, W) that are no ultrasound."""
    random = np.random.default_rng([seed, sum(kind.encode())])
    height, width = random.integers(SIDE // 2, SIDE * 2, 2) // 2 * 2
    still = np.zeros((height, width))
    if kind == "noise":
        return random.integers(0, 256, (FRAMES, height, width), dtype=np.uint8)
    if kind == "still noise":
        still = random.integers(0, 256, (height, width))
    elif kind == "bars":
        levels = random.permutation(np.linspace(0, 255, random.integers(4, 9)))
        still = np.broadcast_to(levels[np.arange(width) * len(levels) // width], (height, width))
    elif kind == "blank":
        still = np.full((height, width), random.integers(0, 256))
    elif kind == "text":
        letters = random.random((height // 8 + 1, width // 6 + 1)) < 0.5
        still = np.kron(letters, np.ones((8, 6)))[:height, :width] * 220
    elif kind == "ball":
        y, x = np.mgrid[:height, :width]
        turn = np.arange(FRAMES)[:, None, None] / random.uniform(3, 8)
        apart = (y - height / 2 * (1 + np.sin(turn) / 2)) ** 2 + (x - width / 2 * (1 + np.cos(turn) / 2)) ** 2
        return (255 * np.exp(-apart / (2 * random.uniform(6, 24) ** 2))).astype(np.uint8)
    return np.broadcast_to(still, (FRAMES, height, width)).astype(np.uint8)


ODD = ("bars", "noise", "still noise", "blank", "text", "ball")


def drawn_sets(
    study: settings.Settings, source: str, count: int, folder: Path, seed: int
) -> Iterator[tuple[str, list[Path]]]:
    """Named sets of `count` videos, drawn into `folder`: other ones for every `seed`."""
    first = OTHER_SEED + seed * 10_000
    if source in study.phantom:
        own = study.phantom[source]
        fresh = {"seed": own.seed + first, "patients": count, "videos_per_patient": 1}
        PhantomSettings.parse(own.model_dump() | fresh, "held-back")
        write(own.model_copy(update=fresh), folder / "held-back", study.workers, lambda done, total: None)
        yield f"held-back {source}", videos_in(folder / "held-back")[:count]
    for view in ("a4c", "psax"):
        paths = [folder / f"heart-{view}-{index}.avi" for index in range(count)]
        for index, path in enumerate(paths):
            fraction = float(np.random.default_rng(first + index).uniform(20, 75))
            heart = draw_heart(fraction, FRAMES, FPS, 112, first + index, view=view)
            encode(path, heart.frames, FPS, "mjpeg")
        yield f"hearts, {view}", paths
    for kind in ODD:
        paths = [folder / f"{kind}-{index}.avi" for index in range(count)]
        for index, path in enumerate(paths):
            encode(path, odd(kind, first + index), FPS, "mjpeg")
        yield kind, paths


def videos_in(folder: Path) -> list[Path]:
    """All video files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--count", type=int, default=60, help="videos of each drawn set")
    parser.add_argument(
        "--seed", type=int, default=0, help="draw other videos: choose a distance on one, report another"
    )
    parser.add_argument("--videos", action="append", default=[], metavar="NAME=FOLDER", help="a folder of your own")
    chosen = parser.parse_args()
    root = project_root()
    study = settings.load(root)
    task = study.known_task(chosen.task)
    version = registry.champion(store(root, study.tracking), study.study, task)
    model, source = Model.open(version.folder), study.tasks[task].source
    record = model.record.novelty
    print(f"{version.name} version {version.number}: {version.tags['outside']}")
    print(
        f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        sets = {
            name: model.predict(paths)["distance"].to_numpy()
            for name, paths in drawn_sets(study, source, chosen.count, Path(temporary), chosen.seed)
        }
    for named in chosen.videos:
        name, _, folder = named.partition("=")
        sets[name] = model.predict(videos_in(Path(folder)))["distance"].to_numpy()
    print(f"\n{'set':24} {'videos':>6} {'outside':>8}  95% interval")
    for name, distances in sets.items():
        flagged, count = int((distances > record.threshold).sum()), len(distances)
        low, high = wilson_interval(flagged, count)
        print(f"{name:24} {count:6} {flagged / count:8.1%}  [{low:.1%}, {high:.1%}]")


if __name__ == "__main__":
    with exit_cleanly():
        main()
