"""How much a study is, counted from its parameters and tables: videos, clips, trials and bytes"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from echolung.core.errors import EcholungError
from echolung.doctor.findings import Finding
from echolung.doctor.sources import is_drawn
from echolung.kinds.task import labelled
from echolung.settings import Settings

FRAMES_ASSUMED = 100
"""Frames of a video that nobody has decoded yet: the public lung sets have 60 to 250, mostly."""
DRAWN_BYTES = 0.3
"""Of a drawn video's file for each of its pixels."""
CHECKPOINT = 4.5
"""A checkpoint as a multiple of its encoder: student and teacher, the predictor, and two moments of each weight."""
SMALL_BYTES = 100 << 20
"""Everything else: predictions, tables, figures, the database of runs."""


@dataclass(frozen=True)
class Workload:
    """Counts of one study from nothing to its report."""

    drawn: dict[str, int]
    """Videos that are drawn, by source."""
    videos: dict[str, int]
    """Videos by source; a source that cannot be read is not there."""
    frames: dict[str, int]
    """Their frames, counted where they were decoded before and assumed elsewhere."""
    assumed: bool
    """Whether frames had to be assumed."""
    runs: int
    """Pretraining runs."""
    clips: int
    """Clips that are embedded, over all encoders."""
    trials: dict[str, tuple[int, int]]
    """By task: trials of the probe, and videos in each."""
    stages: int
    bytes: dict[str, int]
    """By folder of the project: what the study leaves there."""


def count(root: Path, settings: Settings, manifests: dict[str, pd.DataFrame]) -> Workload:
    """Count a study; `manifests` are those of the sources that could be read."""
    from echolung.phantom.plans import plan

    drawn, videos, frames, assumed = {}, {}, {}, False
    for source in settings.ingest.sources:
        if is_drawn(settings, source):
            plans = plan(settings.phantom[source])
            drawn[source] = videos[source] = len(plans)
            frames[source] = sum(one.frames for one in plans)
        elif source in manifests:
            videos[source] = len(manifests[source])
            decoded = _decoded(root / "data" / settings.study / "ingest" / source / "manifest.parquet")
            frames[source] = decoded or FRAMES_ASSUMED * videos[source]
            assumed |= not decoded
    views = settings.embed.views
    clips = {
        key: videos.get(pair.source, 0) * views * len(settings.seeds(pair.arm))
        for key, pair in settings.embed.pairs.items()
    }
    trials = {
        name: (
            settings.split.repeats * settings.split.outer * _encoders(settings, task.source),
            _labelled(settings, name, manifests, videos),
        )
        for name, task in settings.tasks.items()
    }
    stages = len(settings.phantom) + len(settings.ingest.sources) + 2 * len(settings.tasks) + 3
    stages += len(settings.pretrain.arms) + len(settings.embed.pairs)
    runs = len(settings.pretrain.arms) * len(settings.pretrain.seeds)
    sizes = _bytes(settings, frames, drawn, sum(clips.values()), runs)
    return Workload(drawn, videos, frames, assumed, runs, sum(clips.values()), trials, stages, sizes)


def _encoders(settings: Settings, source: str) -> int:
    return sum(len(settings.seeds(arm)) for arm in settings.embed.of_source(source))


def _labelled(settings: Settings, name: str, manifests: dict[str, pd.DataFrame], videos: dict[str, int]) -> int:
    """Videos that take part in a task; those of its whole source where its labels cannot be read yet."""
    task = settings.tasks[name]
    try:
        return len(labelled(task, manifests[task.source]))
    except (KeyError, EcholungError):
        return videos.get(task.source, 0)


def _decoded(path: Path) -> int:
    """Frames of a source that was ingested before, 0 if it was not."""
    try:
        return int(pd.read_parquet(path, columns=["frames"])["frames"].sum())
    except (OSError, ValueError, KeyError):
        return 0


def encoder_bytes(settings: Settings) -> int:
    """Size of one saved encoder."""
    import torch

    from echolung.models.encoder import Encoder

    with torch.device("meta"):
        return 4 * sum(weight.numel() for weight in Encoder(settings.encoder).state_dict().values())


def _bytes(settings: Settings, frames: dict[str, int], drawn: dict[str, int], clips: int, runs: int) -> dict[str, int]:
    time, height, width = settings.encoder.grid
    encoder = encoder_bytes(settings)
    raw = sum(DRAWN_BYTES * frames[source] * settings.phantom[source].size ** 2 for source in drawn)
    stores = sum(frames.values()) * settings.ingest.size**2
    tokens = 2 * clips * time * height * width * settings.encoder.width
    encoders = encoder * (len(settings.initialise.seeds) + runs)
    data = raw + stores + tokens + encoders + CHECKPOINT * encoder * runs + SMALL_BYTES
    return {"data": int(data), "reports": SMALL_BYTES // 2, "mlruns": int(encoder * runs + SMALL_BYTES // 2)}


def disk(root: Path, settings: Settings, work: Workload) -> list[Finding]:
    """Whether there is room for what the study leaves, where it leaves it; one finding per file system."""
    needed: dict[int, int] = {}
    places: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for name, size in {**work.bytes, ".dvc/cache": work.bytes["data"]}.items():
        folder = _existing(root / name)
        device = os.stat(folder).st_dev
        if name == ".dvc/cache" and device == os.stat(_existing(root / "data")).st_dev:
            size = 0  # DVC links: a file in the cache and in data/ is one
        have = _size(root, name, settings.study)
        needed[device] = needed.get(device, 0) + max(0, size - have)
        places.setdefault(device, []).append(name)
        free[device] = shutil.disk_usage(folder).free
    found = []
    for device, need in needed.items():
        said = f"{_gigabytes(free[device])} free for {', '.join(places[device])}"
        said += f"; still to be written: about {_gigabytes(need)}"
        if need > free[device]:
            remedy = "Free some space, put `data` on a larger disk (a link will do), or lower embed.views."
            found.append(Finding("machine", "disk", "missing", said, remedy, True))
        elif 2 * need > free[device]:
            found.append(Finding("machine", "disk", "warning", said, "Free some space: the estimate is a rough one."))
        else:
            found.append(Finding("machine", "disk", "ok", said))
    return found


def _existing(path: Path) -> Path:
    """The folder itself, through a link if it is one, or the nearest above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def _size(root: Path, name: str, study: str) -> int:
    """Bytes of the study that are there already."""
    folders = {
        "data": [root / "data" / study, root / "data" / f"{study}-runs", root / "data" / "raw" / study],
        "reports": [root / "reports" / study],
        "mlruns": [],  # holds other studies, too
        ".dvc/cache": [],
    }[name]
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB"
