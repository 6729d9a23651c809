"""One seed of a pretrained encoder: its run folder, its result, and the row that the gate checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from echolung.core.errors import CheckpointError, DataError
from echolung.core.runtime import atomic_path, digest
from echolung.data.clips import ClipStore
from echolung.models.encoder import ClipSettings
from echolung.models.weights import EncoderRecord, finite, load_encoder, read_record, save_encoder
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import HISTORY, OnMetrics, fingerprint, train
from echolung.pretraining.settings import PretrainSettings


@dataclass(frozen=True)
class SeedRun:
    """One seed of `settings.encoders[name]`; picklable, with absolute paths."""

    name: str
    settings: PretrainSettings
    encoder: ClipSettings
    pool: Path
    """The clip store it trains on."""
    seed: int
    directory: Path
    """Its checkpoint and history, and in the end its encoder."""

    @property
    def result(self) -> Path:
        """The finished encoder and its history; kept, so that a deleted stage output costs no training."""
        return self.directory / "encoder"

    def fingerprint(self, device: str | None = None) -> dict[str, Any]:
        """Everything that decides the result; the device is by default the one that the settings ask for."""
        device = device or ("cuda" if self.settings.compute.gpu else "cpu")
        return fingerprint(self.name, self.encoder, self.settings, ClipStore.open(self.pool), self.seed, device)

    def finished(self) -> bool:
        """Whether `result` holds the encoder of exactly these parameters, code and data, undamaged."""
        try:
            if read_record(self.result).fingerprint != digest(self.fingerprint()):
                return False
            self.row()
        except (CheckpointError, DataError):
            return False
        return True

    def outlook(self) -> str:
        """What the next call does, if there is a checkpoint: continue or start over, and why."""
        progress = checkpoint.read_progress(self.directory)
        if progress is None:
            return ""
        changed = checkpoint.differences(self.fingerprint(), progress.fingerprint)
        if changed:
            return f"{self.name} seed {self.seed}: starting over, because of {'; '.join(changed)}"
        steps = self.settings.of(self.name).steps
        return f"{self.name} seed {self.seed}: continuing from step {progress.step} of {steps}"

    def train(self, on_metrics: OnMetrics, device: torch.device | str, writes: bool = True) -> None:
        """Train to the end, or continue; one worker of a run `writes` the encoder and its history to `result`."""
        store = ClipStore.open(self.pool)
        trained = train(self.name, self.encoder, self.settings, store, self.seed, self.directory, on_metrics, device)
        if not writes:
            return
        record = EncoderRecord(
            settings=self.encoder,
            arm=self.name,
            objective=self.settings.encoders[self.name].objective,
            seed=self.seed,
            steps=self.settings.of(self.name).steps,
            trained_on=tuple(store.sha256(sample_id) for sample_id in store.sample_ids),
            trained_on_source=self.settings.encoders[self.name].pool,
            fingerprint=digest(self.fingerprint(torch.device(device).type)),
        )
        save_encoder(self.result, trained.encoder, record)
        with atomic_path(self.result / HISTORY) as temporary:
            trained.history.to_csv(temporary, index=False, lineterminator="\n")

    def row(self) -> dict[str, Any]:
        """The columns of the gate, read back from `result`; raises CheckpointError or DataError if it is damaged."""
        encoder, record = load_encoder(self.result)
        try:
            history = pd.read_csv(self.result / HISTORY)
            loss, rank = history["loss"], history["effective_rank"]
            first, last, rank = loss.iloc[0], loss.iloc[-1], rank.iloc[-1]
        except (OSError, ValueError, LookupError) as error:
            raise DataError(f"{self.result / HISTORY} is damaged ({error})", "Run `dvc repro` again.") from None
        return {
            "seed": self.seed,
            "steps": record.steps,
            "loss_first": first,
            "loss_last": last,
            "effective_rank": rank,
            "videos": len(record.trained_on),
            "finite": finite(encoder),
            "weights_sha256": record.weights_sha256,
        }
