"""How long a study takes here: some seconds of each kind of its work, at its own settings, times its counts"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from echolung.data.clips import ClipStore
from echolung.data.ingest import IngestSettings, SourceSettings, ingest
from echolung.data.splits import make_folds
from echolung.doctor.workload import Workload
from echolung.embedding.embed import encode_clips, evaluation_clips
from echolung.embedding.features import Features, FeaturesRecord
from echolung.methods.probes.probe import fit_trial
from echolung.models.encoder import Encoder
from echolung.models.weights import initial_encoder
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write
from echolung.pretraining.loop import train
from echolung.settings import Settings

SECONDS_PER_STAGE = 7.0
"""To start Python, load the libraries, open the tracking store, and run the gate."""
SECONDS_PER_RAY = 10.0
"""To start and stop Ray, in stages of `pretrain` and `probe`."""
SECONDS_AT_THE_END = 20.0
"""Comparison and report: resamples, figures and a page, nearly the same for every study."""
MOST_VIDEOS = 48
"""In the measured trial of a probe; its time grows with them in proportion."""
PATIENCE = 4.0
"""Seconds that one kind of work is measured for, at most, where it can be cut short."""
OF = (
    "an estimate, good to half or twice: drawing, decoding, training steps, clips and a trial of the probe were timed"
    " here for some seconds, and multiplied by the study's counts, from nothing to its report"
)


@dataclass(frozen=True)
class Rates:
    """Seconds of one piece of each kind of work, in one process."""

    drawing: float
    decoding: float
    step: float
    clip: float
    trial_video: float
    """One video's share of one trial."""


def estimate(settings: Settings, work: Workload) -> dict[str, Any]:
    """Expected seconds of the study, in all and by kind of work, and what they were made from."""
    rates = measure(settings)
    cores = os.cpu_count() or 1
    together = min(settings.workers, cores)
    compute = settings.pretrain.compute
    places = torch.cuda.device_count() if compute.gpu else cores // compute.cpus_per_worker
    rounds = math.ceil(work.runs / max(1, places // compute.workers)) if work.runs else 0
    trials = sum(count * videos for count, videos in work.trials.values())
    sessions = len(settings.pretrain.arms) + len(settings.tasks)
    parts = {
        "drawing": sum(work.drawn.values()) * rates.drawing / together,
        "decoding": sum(work.videos.values()) * rates.decoding / together,
        "pretraining": rounds * settings.pretrain.training.steps * rates.step,
        "embedding": work.clips * rates.clip,
        "probes": trials * rates.trial_video / together,
        "starting and reporting": work.stages * SECONDS_PER_STAGE + sessions * SECONDS_PER_RAY + SECONDS_AT_THE_END,
    }
    return {"seconds": sum(parts.values()), "parts": parts, "of": OF}


def measure(settings: Settings) -> Rates:
    """Time each kind of work at the study's own settings, on two drawn hearts and lungs; takes up to 20 seconds."""
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="echolung-doctor-") as folder:
            drawing, decoding, store = _videos(settings, Path(folder))
            torch.set_num_threads(settings.pretrain.compute.cpus_per_worker)
            step = _step(settings, store, Path(folder) / "run")
            torch.set_num_threads(os.cpu_count() or 1)
            clip = _clip(settings, store)
            torch.set_num_threads(1)
            return Rates(drawing, decoding, step, clip, _trial_video(settings))
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - begun)


def _videos(settings: Settings, folder: Path) -> tuple[float, float, ClipStore]:
    """Seconds to draw and to decode a video, and the store they end in."""
    asked = list(settings.phantom.values()) or [PhantomSettings.model_validate({"layout": "echonet", "patients": 1})]
    drawing: list[float] = []
    decoding: list[float] = []
    for number, phantom in enumerate(asked):
        few = phantom.model_copy(update={"patients": 1, "videos_per_patient": 1})
        with _timed(drawing):
            videos = len(write(few, folder / "raw" / str(number), 1, _silent))
        drawing[-1] /= videos
        chosen = IngestSettings(
            size=settings.ingest.size,
            sources={"drawn": SourceSettings(layout=phantom.layout, root=folder / "raw" / str(number))},
        )
        clips = folder / "clips" / str(number)
        with _timed(decoding):
            ingest("drawn", chosen, folder, clips, 1)
        decoding[-1] /= videos
    return float(np.mean(drawing)), float(np.mean(decoding)), ClipStore.open(clips)


def _step(settings: Settings, store: ClipStore, directory: Path) -> float:
    """Seconds of one training step; measured on fewer clips, and multiplied, where a whole batch takes too long."""
    if not settings.pretrain.arms:
        return 0.0
    batch = settings.pretrain.training.batch
    few = min(2, batch)
    seconds = _steps(settings, store, directory / "few", few) * batch / few
    return _steps(settings, store, directory / "all", batch) if 3 * seconds < PATIENCE else seconds


class _Enough(Exception):
    """Ends a measured run."""


def _steps(settings: Settings, store: ClipStore, directory: Path, batch: int) -> float:
    """Median seconds of a few steps after the first; of the first, where others would take too long."""
    seconds: list[float] = []

    def note(step: int, values: dict[str, float | None]) -> None:
        seconds.append(batch / (values["clips_per_second"] or float("nan")))
        if len(seconds) > 6 or sum(seconds) > PATIENCE / 2:
            raise _Enough

    plenty = {"steps": 100, "warmup_steps": 0, "cooldown_steps": 0, "batch": batch, "loaders": 0}
    every = {"log_every": 1, "rank_every": 100, "checkpoint_every": 100}
    training = settings.pretrain.training.model_copy(update=plenty | every)
    pretrain = settings.pretrain.model_copy(update={"training": training})
    objective = next(iter(settings.pretrain.arms.values())).objective
    device = "cuda" if settings.pretrain.compute.gpu and torch.cuda.is_available() else "cpu"
    with suppress(_Enough):
        train(objective, settings.encoder, pretrain, store, 0, directory, note, device)
    return float(np.median(seconds[1:] or seconds))


def _clip(settings: Settings, store: ClipStore) -> float:
    """Seconds to embed one evaluation view."""
    encoder = initial_encoder(settings.encoder, 0).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    name = store.sample_ids[0]
    views = evaluation_clips(store.frames(name), store.fps(name), settings.encoder, settings.embed.views)

    def run(count: int) -> None:
        encode_clips(encoder, np.resize(views, (count, *views.shape[1:])))

    first = _seconds(lambda: run(1))
    batch = settings.embed.batch
    count = max(1, min(batch, int(PATIENCE / max(first, 1e-6))))
    return _seconds(lambda: run(count)) / count


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _trial_video(settings: Settings) -> float:
    """Seconds of one trial of the probe for each of its videos: a short search is timed, and its epochs multiplied."""
    task = next(iter(settings.tasks.values()))
    classes = len(task.classes)
    videos = max(MOST_VIDEOS, settings.split.outer * settings.split.inner * classes)
    names = [f"v{number}" for number in range(videos)]
    label = np.arange(videos) % classes
    table = pd.DataFrame({"sample_id": names, "patient_id": names, "split_group": names, "y": label})
    folds = make_folds(table, settings.split.model_copy(update={"repeats": 1}))
    features = _random_features(settings, names)

    def run(epochs: int) -> None:
        fit_trial(features, folds, 0, 0, "timed", task, settings.probe.model_copy(update={"epochs": epochs}))

    run(1)  # the first allocations are no part of a trial
    one = _seconds(lambda: run(1))
    two = _seconds(lambda: run(2)) if one < PATIENCE else 2 * one
    per_epoch = max(two - one, 0.2 * one)
    return (one + (settings.probe.epochs - 1) * per_epoch) / videos


def _random_features(settings: Settings, names: list[str]) -> Features:
    with torch.device("meta"):
        tokens = Encoder(settings.encoder).tokens
    shape = (len(names), settings.embed.views, tokens, settings.encoder.width)
    record = FeaturesRecord(
        key="timed", arm="random", seed=0, encoder_sha256="", shape=shape, effective_rank=1.0, seen_in_pretraining=[]
    )
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    return Features(record, pd.DataFrame({"sample_id": names}), noise)


def _silent(done: int, total: int) -> None:
    """Draws no bar."""


def in_words(seconds: float) -> str:
    """90 seconds as "2 minutes", two days as "48 hours"."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
