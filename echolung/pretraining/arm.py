"""One seed of a pretrained arm: where its run lives, what it leaves behind, and the row that its gate judges."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from echolung.core.runtime import atomic_path
from echolung.data.clips import ClipStore
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import EncoderRecord, finite, load_encoder, save_encoder
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import HISTORY, OnMetrics, PretrainSettings, fingerprint, train


@dataclass(frozen=True)
class SeedRun:
    """One seed of an arm; picklable, with absolute paths."""

    arm: str
    settings: PretrainSettings
    encoder: EncoderSettings
    pool: Path
    """The clip store it trains on."""
    seed: int
    directory: Path
    """Its checkpoint and history."""
    output: Path
    """The encoder that comes out of it."""

    @property
    def objective(self) -> str:
        return self.settings.arms[self.arm].objective

    @property
    def error(self) -> Path:
        """Where a worker that fails leaves its traceback."""
        return self.directory / "error.txt"

    def outlook(self) -> str:
        """Whether it will go on or start afresh, and why; empty for a first call."""
        progress = checkpoint.read_progress(self.directory)
        if progress is None:
            return ""
        store = ClipStore.open(self.pool)
        ours = fingerprint(self.objective, self.encoder, self.settings, store, self.seed)
        changed = checkpoint.differences(ours, progress.fingerprint)
        if changed:
            return f"{self.arm} seed {self.seed}: starting afresh, because of {'; '.join(changed)}"
        return f"{self.arm} seed {self.seed}: going on from step {progress.step} of {self.settings.training.steps}"

    def train(self, on_metrics: OnMetrics, device: torch.device | str, writes: bool = True) -> None:
        """Train to the end, or go on; one worker of a run `writes` its encoder and its history to `output`."""
        store = ClipStore.open(self.pool)
        try:
            trained = train(
                self.objective, self.encoder, self.settings, store, self.seed, self.directory, on_metrics, device
            )
        except Exception:
            with contextlib.suppress(OSError):  # it may be the disk that is full
                self.directory.mkdir(parents=True, exist_ok=True)
                self.error.write_text(traceback.format_exc())
            raise
        if not writes:
            return
        self.error.unlink(missing_ok=True)
        record = EncoderRecord(
            settings=self.encoder,
            arm=self.arm,
            objective=self.objective,
            seed=self.seed,
            steps=self.settings.training.steps,
            trained_on=tuple(store.sha256(sample_id) for sample_id in store.sample_ids),
            trained_on_source=self.settings.arms[self.arm].pool,
        )
        save_encoder(self.output, trained.encoder, record)
        with atomic_path(self.output / HISTORY) as temporary:
            trained.history.to_csv(temporary, index=False, lineterminator="\n")

    def row(self) -> dict[str, Any]:
        """What came out, read back from `output`."""
        encoder, record = load_encoder(self.output)
        history = pd.read_csv(self.output / HISTORY)
        return {
            "seed": self.seed,
            "steps": record.steps,
            "loss_first": history["loss"].iloc[0],
            "loss_last": history["loss"].iloc[-1],
            "effective_rank": history["effective_rank"].iloc[-1],
            "videos": len(record.trained_on),
            "finite": finite(encoder),
            "weights_sha256": record.weights_sha256,
        }
