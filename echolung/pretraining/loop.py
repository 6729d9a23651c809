"""The training loop: every self-supervised objective, on one process or many, goes through `train`. It knows neither
Ray nor MLflow: it calls back with metrics, and uses torch.distributed if that is initialised."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from echolung.core.errors import DataError, Stopped, TrialError, listed
from echolung.core.runtime import derived_seed, stop_asked
from echolung.data.clips import ClipStore
from echolung.models.encoder import Encoder, effective_rank
from echolung.models.vit import Block
from echolung.pretraining import checkpoint
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.sampling import fixed_clips

if TYPE_CHECKING:
    from echolung.pretraining.run import SeedRun

HELD_OUT_BATCHES = 8

Measure = Callable[[Encoder], dict[str, float]]
OnMetrics = Callable[[int, dict[str, float | None]], None]
"""Called as `on_metrics(step, values)` at each logged step, in every worker at the same steps."""


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    encoder: Encoder
    choice: str  # which of the objective's encoders it is
    history: pd.DataFrame
    """One row per logged step: step, clips (seen so far), seconds (spent so far), loss, learning_rate, gradient_norm,
    diagnostics of the objective, effective_rank and loss_held_out (where measured), clips_per_second, eta_seconds."""


def train(
    run: SeedRun, on_metrics: OnMetrics, device: torch.device | str = "cpu", measure: Measure | None = None
) -> Trained:
    """Train a run, or resume it from the checkpoint in its directory.

    On a CPU the result of a resumed run is bit-identical to that of an uninterrupted one. A checkpoint of other
    parameters, code or data is ignored and replaced. Only the first worker measures the effective rank and writes. What
    `measure` finds in the encoder at the steps of the rank joins the history. Raises TrialError if the loss stops being
    finite, DataError if the pool is empty, Stopped, with a checkpoint of the current step, when `run.stop` asks for it.
    """
    return _Loop(run, on_metrics, torch.device(device), measure).finish()


def compile_blocks(objective: nn.Module) -> None:
    """torch.compile every block of a video ViT or predictor, in place: names and weights stay as they are."""
    torch._dynamo.config.recompile_limit = 64  # teacher, student and predictor, trained and measured, share the code
    for part in objective.modules():
        if isinstance(part, Block):
            part.compile()


def stopped(run: SeedRun, step: int) -> Stopped:
    """What a run that was asked to stop says."""
    return Stopped(f"{run.title} stopped after step {step} of {run.training.steps}", f"It goes on from step {step}.")


class _Loop:
    """A run in one worker."""

    def __init__(self, run: SeedRun, on_metrics: OnMetrics, device: torch.device, measure: Measure | None) -> None:
        self.settings, self.store, self.seed = run.training, ClipStore.open(*run.pool), run.seed
        self.directory, self.on_metrics, self.device, self.measure = run.directory, on_metrics, device, measure
        self.run, self.stopping = run, False
        if not len(self.store):
            raise DataError(f"the pool {listed(run.pool)} holds no videos to train on", "Choose another pool.")
        names = sorted(self.store.sample_ids, key=lambda name: derived_seed("held out", name))
        held_out = set(names[: int(self.settings.held_out * len(names))])
        self.held_out = self.store.subset(name for name in self.store.sample_ids if name in held_out)
        self.store = self.store.subset(name for name in self.store.sample_ids if name not in held_out)
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.workers = torch.distributed.get_world_size() if together else 1
        share = self.settings.batch // self.workers
        self.rows = slice(self.rank * share, (self.rank + 1) * share)

        torch.manual_seed(derived_seed(run.seed, "parts"))
        build, settings = OBJECTIVES[run.objective], run.settings.objective(run.name)
        self.objective = build(run.start, settings, run.seed, run.training.steps).to(device)
        if run.settings.compute.compile:
            compile_blocks(self.objective)
        groups = self.objective.parameter_groups(self.settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.settings.betas, fused=True)
        self.bf16 = self.settings.precision_on(device.type) == "bf16"
        self.progress = checkpoint.Progress(run.fingerprint(device.type))
        kept = checkpoint.read_progress(self.directory)
        if kept is not None and not checkpoint.differences(self.progress.fingerprint, kept.fingerprint):
            checkpoint.restore(self.directory, self.objective, self.optimizer)
            self.progress = kept
        self.parallel: nn.Module = self.objective
        if self.workers > 1:
            self.parallel = DistributedDataParallel(self.objective, find_unused_parameters=self.objective.idle)

    def finish(self) -> Trained:
        """All steps that are left."""
        progress, steps = self.progress, range(self.progress.step, self.settings.steps)
        self.clips = self.objective.dataset(self.store, self.seed, self.settings.batch, self.rows)
        loader = DataLoader(
            self.clips,
            batch_size=None,
            sampler=cast(Sequence[int], steps),
            num_workers=self.settings.loaders,
            pin_memory=self.device.type == "cuda",
        )
        self.logged = (progress.step, time.monotonic())
        for step, views in zip(steps, loader, strict=True):
            try:
                diagnostics = self._advance(step, views)
            except RuntimeError as error:  # torch.OutOfMemoryError is one, the CPU's allocator has none of its own
                if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
                    raise
                raise TrialError(
                    f"pretraining ran out of memory at step {step + 1}, with batches of {self.settings.batch} clips",
                    "Lower pretrain.training.batch, or the encoder's frames, image_size or width.",
                ) from error
            progress.step = step + 1
            last = progress.step == self.settings.steps
            if last or progress.step % self.settings.log_every == 0:
                self._log(diagnostics, self.rank == 0 and (last or progress.step % self.settings.rank_every == 0))
            if self.rank == 0 and (last or self.stopping or progress.step % self.settings.checkpoint_every == 0):
                checkpoint.save(self.directory, progress, self.objective, self.optimizer)
            if self.stopping and not last:
                raise stopped(self.run, progress.step)
        choices = self.objective.choices
        choice = next(iter(choices))
        if self.rank == 0 and len(self.held_out) and len(choices) > 1:
            choice = min(choices, key=lambda name: self._held_out_loss(choices[name]))
        return Trained(choices[choice], choice, pd.DataFrame(progress.history))

    def _advance(self, step: int, views: Any) -> dict[str, float]:
        """One step: forward, backward, optimizer, and what follows it."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "masks", step))
        drawn = self.objective.draw(self.settings.batch, generator)
        torch.manual_seed(derived_seed(self.seed, "step", step, self.rank))  # for dropout: the same after a resume
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step) * self.objective.lr_scale(step, group)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss, diagnostics = self.parallel(views, drawn, self.rows)
        loss.backward()
        total = torch.stack([loss.detach(), torch.full_like(loss.detach(), stop_asked(self.run.stop))])
        if self.workers > 1:
            torch.distributed.all_reduce(total)  # if one worker has seen that it is asked to stop, all stop
        summed, asked = total.tolist()
        value, self.stopping = summed / self.workers, asked > 0
        if not math.isfinite(value):
            videos = getattr(self.clips, "videos", None)  # where the dataset can tell them
            named = f" (videos {listed(videos(step), 4)})" if videos else ""
            raise TrialError(
                f"pretraining diverged: the loss of seed {self.seed} is {value} at step {step + 1}{named}",
                "Lower pretrain.training.learning_rate, lengthen warmup_steps, or set clip_gradient (1.0, say).",
            )
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.clip_gradient or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        diagnostics |= self.objective.after_step(step)
        self.progress.losses.append(value)
        return {"gradient_norm": float(norm)} | {name: float(number) for name, number in diagnostics.items()}

    def _log(self, diagnostics: dict[str, float], ranked: bool) -> None:
        progress, (since, then) = self.progress, self.logged
        seconds = max(time.monotonic() - then, 1e-9)
        row: dict[str, Any] = {
            "step": progress.step,
            "clips": progress.step * self.settings.batch,
            "seconds": seconds + (progress.history[-1]["seconds"] if progress.history else 0.0),
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self.settings.rate(progress.step - 1),
            **diagnostics,
            "effective_rank": self._effective_rank() if ranked else None,
            "loss_held_out": self._held_out_loss() if ranked and len(self.held_out) else None,
            **(self.measure(self.objective.handed_on) if ranked and self.measure else {}),
            "clips_per_second": (progress.step - since) * self.settings.batch / seconds,
            "eta_seconds": (self.settings.steps - progress.step) * seconds / (progress.step - since),
        }
        progress.losses = []
        progress.history.append(row)
        self.on_metrics(progress.step, {name: value for name, value in row.items() if name != "step"})
        self.logged = (progress.step, time.monotonic())

    @torch.no_grad()
    def _held_out_loss(self, *context: Encoder) -> float:
        """Mean loss on clips and masks of held-out videos, the same at every step and for every seed."""
        batch = self.settings.batch
        rows, losses = slice(0, batch), []
        clips = self.objective.dataset(self.held_out, 0, batch, rows)
        for step in range(min(HELD_OUT_BATCHES, -(-len(self.held_out) // batch))):
            drawn = self.objective.draw(batch, torch.Generator().manual_seed(derived_seed("held out", step)))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                losses.append(float(self.objective(clips[step], drawn, rows, *context)[0]))
        return sum(losses) / len(losses)

    def _effective_rank(self) -> float:
        """RankMe of the mean tokens of the fixed clips."""
        encoder = self.objective.handed_on
        clips = fixed_clips(self.store, encoder.settings, self.settings.rank_clips)
        pooled = torch.cat([encoder.encode(part).mean(dim=1) for part in clips.split(self.settings.batch)])
        return effective_rank(pooled.cpu().numpy())
