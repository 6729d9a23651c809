"""THE training loop: every self-supervised objective, on one process or many, goes through `train`.

It knows neither Ray nor MLflow: it is handed a callable for metrics, and finds other workers through torch.distributed
if whoever started it has initialised that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pydantic
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from echolung.core.errors import DataError, SettingsError, TrialError
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_path, code_digest, derived_seed, digest
from echolung.data.clips import ClipStore
from echolung.models.encoder import Encoder, EncoderSettings
from echolung.models.rank import effective_rank
from echolung.pretraining import checkpoint
from echolung.pretraining.jepa import Jepa, JepaSettings, weight_groups
from echolung.pretraining.sampling import CropSettings, TrainingClips, fixed_clips
from echolung.pretraining.schedule import ScheduleSettings

OBJECTIVES = {"jepa": Jepa}

OnMetrics = Callable[[int, dict[str, float | None]], None]
"""Called as `on_metrics(step, values)` at each logged step, in every worker at the same steps."""

HISTORY = "history.csv"
CODE = (
    "echolung.models.vit",
    "echolung.models.rope",
    "echolung.models.encoder",
    "echolung.models.predictor",
    "echolung.pretraining.jepa",
    "echolung.pretraining.masking",
    "echolung.pretraining.sampling",
    "echolung.pretraining.schedule",
    "echolung.pretraining.loop",
)
"""Modules whose change makes another run of it; a changed comment does not."""
COLUMNS = [
    "step", "loss", "learning_rate", "ema", "effective_rank", "target_std", "gradient_norm", "clips_per_second",
    "eta_seconds",
]  # fmt: skip


class ArmPretraining(Parameters):
    """One pretrained arm: what it learns, and from which source."""

    objective: str
    pool: str
    """The source whose videos it watches."""

    @pydantic.field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in OBJECTIVES:
            raise ValueError(f"the objectives are {', '.join(OBJECTIVES)}")
        return value


class TrainingSettings(ScheduleSettings):
    """One run of the loop."""

    batch: int = pydantic.Field(gt=0)
    """Clips per step, over all workers."""
    weight_decay: float = pydantic.Field(0.04, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_gradient: float | None = pydantic.Field(None, gt=0)
    """Largest norm of the gradient; null leaves it as it is."""
    crop: CropSettings = CropSettings()
    rank_clips: int = pydantic.Field(64, gt=1)
    """Clips of the fixed batch whose effective rank tells a collapse."""
    # These cannot change the weights that come out:
    log_every: int = pydantic.Field(10, gt=0)
    rank_every: int = pydantic.Field(50, gt=0)
    checkpoint_every: int = pydantic.Field(50, gt=0)
    loaders: int = pydantic.Field(0, ge=0)
    """Processes per worker that prepare clips; 0 prepares them in the worker itself."""


class ComputeSettings(Parameters):
    """Where runs are computed; changes results by no more than rounding."""

    workers: int = pydantic.Field(default=1, gt=0)
    """Workers of one run, each with its own part of the batch."""
    cpus_per_worker: int = pydantic.Field(default=1, gt=0)
    gpu: bool = False
    """One GPU per worker."""


class PretrainSettings(Parameters):
    """The section `pretrain`."""

    arms: dict[str, ArmPretraining]
    seeds: tuple[int, ...] = pydantic.Field((0,), min_length=1)
    """One run of every arm for each."""
    training: TrainingSettings
    jepa: JepaSettings = JepaSettings()
    compute: ComputeSettings = ComputeSettings()


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    encoder: Encoder
    history: pd.DataFrame
    """One row per logged step; columns as in COLUMNS."""


def fingerprint(
    objective: str, encoder: EncoderSettings, settings: PretrainSettings, store: ClipStore, seed: int
) -> dict[str, Any]:
    """All that decides what a run comes to: it may go on from a checkpoint only if this is unchanged."""
    free = {"log_every", "rank_every", "checkpoint_every", "loaders"}
    return {
        "objective": objective,
        "seed": seed,
        "encoder": encoder.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=free),
        objective: getattr(settings, objective).model_dump(mode="json"),
        "code": code_digest(*CODE),
        "frames": {"size": store.size, "fingerprint": store.fingerprint},
        "videos": digest([(sample_id, store.sha256(sample_id)) for sample_id in store.sample_ids]),
    }


def train(
    objective: str,
    encoder: EncoderSettings,
    settings: PretrainSettings,
    store: ClipStore,
    seed: int,
    directory: Path,
    on_metrics: OnMetrics,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train one encoder, or go on from the checkpoint in `directory`; on a CPU bit for bit as if never interrupted.

    A checkpoint of other parameters or data is ignored and replaced. Only the first worker measures the effective rank,
    and only it writes. Raises TrialError if the loss stops being a number.
    """
    if not len(store):
        raise DataError(f"the clip store {store.directory} holds no videos to train on", "Choose another pool.")
    return _Run(objective, encoder, settings, store, seed, directory, on_metrics, torch.device(device)).finish()


class _Run:
    """One run in one worker."""

    def __init__(
        self,
        objective: str,
        encoder: EncoderSettings,
        settings: PretrainSettings,
        store: ClipStore,
        seed: int,
        directory: Path,
        on_metrics: OnMetrics,
        device: torch.device,
    ) -> None:
        self.settings, self.store, self.seed = settings.training, store, seed
        self.directory, self.on_metrics, self.device = directory, on_metrics, device
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.workers = torch.distributed.get_world_size() if together else 1
        if self.settings.batch % self.workers:
            raise SettingsError(
                f"a batch of {self.settings.batch} does not divide among {self.workers} workers",
                "Make pretrain.training.batch a multiple of pretrain.compute.workers.",
            )
        share = self.settings.batch // self.workers
        self.rows = slice(self.rank * share, (self.rank + 1) * share)

        self.module = OBJECTIVES[objective](encoder, getattr(settings, objective), seed).to(device)
        groups = weight_groups(self.module, self.settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.settings.betas, fused=True)
        self.clips = TrainingClips(
            store, encoder, self.settings.crop, seed=seed, batch=self.settings.batch, rows=self.rows
        )
        self.fingerprint = fingerprint(objective, encoder, settings, store, seed)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self._go_on()
        self.parallel: nn.Module = self.module
        if self.workers > 1:
            self.parallel = DistributedDataParallel(self.module)

    def _go_on(self) -> None:
        progress = checkpoint.read_progress(self.directory)
        if progress is None or checkpoint.differences(self.fingerprint, progress.fingerprint):
            return
        checkpoint.restore(self.directory, self.module, self.optimizer)
        self.step, self.history, self.losses = progress.step, progress.history, progress.losses

    def finish(self) -> Trained:
        """All steps that are left."""
        steps = range(self.step, self.settings.steps)
        loader = DataLoader(
            self.clips,
            batch_size=None,
            sampler=cast(Sequence[int], steps),
            num_workers=self.settings.loaders,
            pin_memory=self.device.type == "cuda",
        )
        self.logged = (self.step, time.monotonic())
        for step, clips in zip(steps, loader, strict=True):
            diagnostics = self._advance(step, clips)
            self.step = step + 1
            last = self.step == self.settings.steps
            if last or self.step % self.settings.log_every == 0:
                self._log(diagnostics, ranked=last or self.step % self.settings.rank_every == 0)
            if last or self.step % self.settings.checkpoint_every == 0:
                self._save()
        return Trained(self.module.result, pd.DataFrame(self.history, columns=COLUMNS))

    def _advance(self, step: int, clips: torch.Tensor) -> dict[str, float]:
        """One step: forward, backward, optimizer, teacher."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "masks", step))
        masks = self.module.draw(self.settings.batch, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, diagnostics = self.parallel(clips, masks, self.rows)
        loss.backward()
        value = self._mean_over_workers(loss)
        if not math.isfinite(value):
            raise TrialError(
                f"pretraining diverged: the loss of seed {self.seed} is {value} at step {step + 1}",
                "Lower pretrain.training.learning_rate, lengthen warmup_steps, or set clip_gradient (1.0, say).",
            )
        limit = self.settings.clip_gradient or math.inf
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.module.after_step()
        self.losses.append(value)
        return {"gradient_norm": float(norm)} | {name: float(tensor) for name, tensor in diagnostics.items()}

    def _mean_over_workers(self, loss: torch.Tensor) -> float:
        total = loss.detach().clone()
        if self.workers > 1:
            torch.distributed.all_reduce(total)
        return float(total) / self.workers

    def _log(self, diagnostics: dict[str, float], ranked: bool) -> None:
        since, then = self.logged
        seconds = max(time.monotonic() - then, 1e-9)
        row: dict[str, Any] = {
            "step": self.step,
            "loss": sum(self.losses) / len(self.losses),
            "learning_rate": self.settings.rate(self.step - 1),
            "ema": self.module.settings.ema,
            "effective_rank": self._effective_rank() if ranked and self.rank == 0 else None,
            **diagnostics,
            "clips_per_second": (self.step - since) * self.settings.batch / seconds,
            "eta_seconds": (self.settings.steps - self.step) * seconds / (self.step - since),
        }
        self.losses = []
        self.history.append(row)
        self.on_metrics(self.step, {name: value for name, value in row.items() if name != "step"})
        self.logged = (self.step, time.monotonic())

    def _effective_rank(self) -> float:
        """RankMe of the mean tokens of the fixed clips."""
        encoder = self.module.result
        clips = fixed_clips(self.store, encoder.settings, self.settings.rank_clips)
        pooled = torch.cat([encoder.encode(part).mean(dim=1) for part in clips.split(self.settings.batch)])
        return effective_rank(pooled.cpu().numpy())

    def _save(self) -> None:
        if self.rank:
            return
        progress = checkpoint.Progress(self.step, self.fingerprint, self.history, self.losses)
        checkpoint.save(self.directory, progress, self.module, self.optimizer)
        with atomic_path(self.directory / HISTORY) as temporary:
            pd.DataFrame(self.history, columns=COLUMNS).to_csv(temporary, index=False, lineterminator="\n")
