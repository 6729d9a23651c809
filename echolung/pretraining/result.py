"""A run from start to its saved encoder: train or resume it, and tell whether that was done already."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from echolung.core.errors import CheckpointError, DataError
from echolung.core.runtime import atomic_path, digest
from echolung.data.clips import ClipStore
from echolung.models.weights import EncoderRecord, finite, load_encoder, read_record, save_encoder
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import OnMetrics, train
from echolung.pretraining.run import SeedRun

HISTORY = "history.csv"


def finish(run: SeedRun, on_metrics: OnMetrics, device: torch.device | str, writes: bool = True) -> None:
    """Train to the end; one worker of a run `writes` the encoder and its history to `run.result`."""
    trained = train(run, on_metrics, device)
    if not writes:
        return
    store = ClipStore.open(run.pool)
    record = EncoderRecord(
        settings=run.encoder,
        arm=run.name,
        objective=run.objective,
        seed=run.seed,
        steps=run.training.steps,
        trained_on=tuple(store.sha256(sample_id) for sample_id in store.sample_ids),
        trained_on_source=run.settings.encoders[run.name].pool,
        fingerprint=digest(run.fingerprint(torch.device(device).type)),
    )
    save_encoder(run.result, trained.encoder, record)
    with atomic_path(run.result / HISTORY) as temporary:
        trained.history.to_csv(temporary, index=False, lineterminator="\n")


def finished(run: SeedRun) -> bool:
    """Whether `run.result` holds, undamaged, the encoder of exactly these parameters, code and data."""
    try:
        return read_record(run.result).fingerprint == digest(run.fingerprint()) and bool(row(run))
    except (CheckpointError, DataError):
        return False


def outlook(run: SeedRun) -> str:
    """What the next call does, if there is a checkpoint: continue or start over, and why."""
    progress = checkpoint.read_progress(run.directory)
    if progress is None:
        return ""
    changed = checkpoint.differences(run.fingerprint(), progress.fingerprint)
    if changed:
        return f"{run.title}: starting over, because of {'; '.join(changed)}"
    return f"{run.title}: continuing from step {progress.step} of {run.training.steps}"


def row(run: SeedRun) -> dict[str, Any]:
    """What the gate checks, read back from `run.result`; raises CheckpointError or DataError if that is damaged."""
    encoder, record = load_encoder(run.result)
    try:
        history = pd.read_csv(run.result / HISTORY)
        loss, rank = history["loss"], history["effective_rank"].iloc[-1]
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{run.result / HISTORY} is damaged ({error})", "Run `dvc repro` again.") from None
    return {
        "seed": run.seed,
        "steps": record.steps,
        "loss_first": loss.iloc[0],
        "loss_last": loss.iloc[-1],
        "effective_rank": rank,
        "videos": len(record.trained_on),
        "finite": finite(encoder),
        "weights_sha256": record.weights_sha256,
    }
