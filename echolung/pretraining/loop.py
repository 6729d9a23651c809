"""The training loop: every self-supervised objective, on one process or many, goes through `train`.

It knows neither Ray nor MLflow: it calls back with metrics, and uses torch.distributed if that is initialised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from echolung.core.errors import DataError, TrialError
from echolung.core.runtime import atomic_path, code_digest, derived_seed, digest, used_modules
from echolung.data.clips import ClipStore
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.encoders import ENCODERS
from echolung.models.rank import effective_rank
from echolung.pretraining import checkpoint
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.precision import resolve
from echolung.pretraining.sampling import fixed_clips
from echolung.pretraining.settings import UNCHANGING, PretrainSettings

OnMetrics = Callable[[int, dict[str, float | None]], None]
"""Called as `on_metrics(step, values)` at each logged step, in every worker at the same steps."""

HISTORY = "history.csv"
NEUTRAL = {
    "echolung.models.encoders",
    "echolung.pretraining.checkpoint",
    "echolung.pretraining.objectives",
    "echolung.pretraining.settings",
}
"""Modules that cannot change a result: files and parameters, and the dicts that import every encoder and objective."""


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    encoder: Encoder
    history: pd.DataFrame
    """One row per logged step: step, clips (seen so far), seconds (spent so far), loss, learning_rate, gradient_norm,
    the diagnostics of the objective, effective_rank (where measured), clips_per_second, eta_seconds."""


def train(
    name: str,
    encoder: ClipSettings,
    settings: PretrainSettings,
    store: ClipStore,
    seed: int,
    directory: Path,
    on_metrics: OnMetrics,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train `settings.encoders[name]`, or continue from the checkpoint in `directory`.

    On a CPU the result of a resumed run is bit-identical to that of an uninterrupted one. A checkpoint of other
    parameters, code or data is ignored and replaced. Only the first worker measures the effective rank and writes.
    Raises TrialError if the loss stops being finite, DataError if the store is empty.
    """
    if not len(store):
        raise DataError(f"the clip store {store.directory} holds no videos to train on", "Choose another pool.")
    return _Run(name, encoder, settings, store, seed, directory, on_metrics, torch.device(device)).finish()


def fingerprint(
    name: str, encoder: ClipSettings, settings: PretrainSettings, store: ClipStore, seed: int, device: str
) -> dict[str, Any]:
    """Everything that decides the result of a run on a `device` of type cuda or cpu.

    A run continues from a checkpoint only if this is unchanged.
    """
    training, objective = settings.of(name), settings.encoders[name].objective
    classes = OBJECTIVES[objective].__module__, ENCODERS[encoder.kind].__module__
    parts = ("echolung.models.", "echolung.pretraining.", "echolung.data.clips")
    return {
        "objective": {"name": objective, **settings.objective(name).model_dump(mode="json")},
        "seed": seed,
        "encoder": encoder.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude=UNCHANGING)
        | {"precision": resolve(training.precision, device)},
        "code": code_digest(*used_modules(*classes, __name__, within=parts, without=NEUTRAL)),
        "frames": {"size": store.size, "fingerprint": store.fingerprint},
        "videos": digest([(sample_id, store.sha256(sample_id)) for sample_id in store.sample_ids]),
    }


class _Run:
    """One run in one worker."""

    def __init__(
        self,
        name: str,
        encoder: ClipSettings,
        settings: PretrainSettings,
        store: ClipStore,
        seed: int,
        directory: Path,
        on_metrics: OnMetrics,
        device: torch.device,
    ) -> None:
        self.settings, self.store, self.seed = settings.of(name), store, seed
        self.directory, self.on_metrics, self.device = directory, on_metrics, device
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.workers = torch.distributed.get_world_size() if together else 1
        share = self.settings.batch // self.workers
        assert share * self.workers == self.settings.batch, "PretrainSettings checks that the batch divides"
        self.rows = slice(self.rank * share, (self.rank + 1) * share)

        objective = OBJECTIVES[settings.encoders[name].objective]
        torch.manual_seed(derived_seed(seed, "parts"))
        self.objective = objective(encoder, settings.objective(name), seed, self.settings.steps).to(device)
        groups = self.objective.parameter_groups(self.settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.settings.betas, fused=True)
        self.bf16 = resolve(self.settings.precision, device.type) == "bf16"
        self.fingerprint = fingerprint(name, encoder, settings, store, seed, device.type)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self._resume()
        self.parallel: nn.Module = self.objective
        if self.workers > 1:
            self.parallel = DistributedDataParallel(self.objective)

    def _resume(self) -> None:
        progress = checkpoint.read_progress(self.directory)
        if progress is None or checkpoint.differences(self.fingerprint, progress.fingerprint):
            return
        checkpoint.restore(self.directory, self.objective, self.optimizer)
        self.step, self.history, self.losses = progress.step, progress.history, progress.losses
        self.seconds = self.history[-1]["seconds"] if self.history else 0.0

    def finish(self) -> Trained:
        """All steps that are left."""
        steps = range(self.step, self.settings.steps)
        loader = DataLoader(
            self.objective.dataset(self.store, self.seed, self.settings.batch, self.rows),
            batch_size=None,
            sampler=cast(Sequence[int], steps),
            num_workers=self.settings.loaders,
            pin_memory=self.device.type == "cuda",
        )
        self.logged = (self.step, time.monotonic())
        for step, views in zip(steps, loader, strict=True):
            diagnostics = self._advance(step, views)
            self.step = step + 1
            last = self.step == self.settings.steps
            if last or self.step % self.settings.log_every == 0:
                self._log(diagnostics, ranked=last or self.step % self.settings.rank_every == 0)
            if last or self.step % self.settings.checkpoint_every == 0:
                self._save()
        return Trained(self.objective.handed_on, pd.DataFrame(self.history))

    def _advance(self, step: int, views: Any) -> dict[str, float]:
        """One step: forward, backward, optimizer, and what follows it."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "masks", step))
        drawn = self.objective.draw(self.settings.batch, generator)
        torch.manual_seed(derived_seed(self.seed, "step", step, self.rank))  # for dropout: the same after a resume
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step) * group.get("lr_scale", 1.0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss, diagnostics = self.parallel(views, drawn, self.rows)
        loss.backward()
        value = self._mean_over_workers(loss)
        if not math.isfinite(value):
            raise TrialError(
                f"pretraining diverged: the loss of seed {self.seed} is {value} at step {step + 1}",
                "Lower pretrain.training.learning_rate, lengthen warmup_steps, or set clip_gradient (1.0, say).",
            )
        limit = self.settings.clip_gradient or math.inf
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_step(step)
        self.losses.append(value)
        return {"gradient_norm": float(norm)} | {name: float(number) for name, number in diagnostics.items()}

    def _mean_over_workers(self, loss: torch.Tensor) -> float:
        total = loss.detach().clone()
        if self.workers > 1:
            torch.distributed.all_reduce(total)
        return float(total) / self.workers

    def _log(self, diagnostics: dict[str, float], ranked: bool) -> None:
        since, then = self.logged
        seconds = max(time.monotonic() - then, 1e-9)
        self.seconds += seconds
        row: dict[str, Any] = {
            "step": self.step,
            "clips": self.step * self.settings.batch,
            "seconds": self.seconds,
            "loss": sum(self.losses) / len(self.losses),
            "learning_rate": self.settings.rate(self.step - 1),
            **diagnostics,
            "effective_rank": self._effective_rank() if ranked and self.rank == 0 else None,
            "clips_per_second": (self.step - since) * self.settings.batch / seconds,
            "eta_seconds": (self.settings.steps - self.step) * seconds / (self.step - since),
        }
        self.losses = []
        self.history.append(row)
        self.on_metrics(self.step, {name: value for name, value in row.items() if name != "step"})
        self.logged = (self.step, time.monotonic())

    def _effective_rank(self) -> float:
        """RankMe of the mean tokens of the fixed clips."""
        encoder = self.objective.handed_on
        clips = fixed_clips(self.store, encoder.settings, self.settings.rank_clips)
        pooled = torch.cat([encoder.encode(part).mean(dim=1) for part in clips.split(self.settings.batch)])
        return effective_rank(pooled.cpu().numpy())

    def _save(self) -> None:
        if self.rank:
            return
        progress = checkpoint.Progress(self.step, self.fingerprint, self.history, self.losses)
        checkpoint.save(self.directory, progress, self.objective, self.optimizer)
        with atomic_path(self.directory / HISTORY) as temporary:
            pd.DataFrame(self.history).to_csv(temporary, index=False, lineterminator="\n")
