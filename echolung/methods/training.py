"""The training loop of the methods that are networks: early stopping on held-out rows, and exact resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from torch import Tensor, nn

from echolung.core import progress
from echolung.core.errors import CheckpointError, listed
from echolung.core.parameters import Parameters
from echolung.methods.method import device_of
from echolung.models.encoder import in_bf16
from echolung.pretraining import checkpoint

SIGNS = {"dice": 1, "log_loss": -1, "error": -1}  # what a look measures: 1 where more of it is better


class TrainingSettings(Parameters):
    """One run: AdamW, 5% warm-up, then a cosine to zero."""

    steps: int = pydantic.Field(600, ge=1)
    batch: int = pydantic.Field(16, ge=1)
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    weight_decay: float = pydantic.Field(1e-4, ge=0)
    precision: Literal["auto", "bf16", "float32"] = "auto"

    def rate(self, step: int) -> float:
        """As a share of the learning rate."""
        return min((step + 1) / max(1, 0.05 * self.steps), 0.5 + 0.5 * math.cos(math.pi * step / self.steps))


class Run:
    """A run of `net`, trained in place. What is drawn at a step must depend on seed and step alone: a run that goes on
    from `directory` then ends, on a CPU, with the same bits."""

    def __init__(
        self, net: nn.Module, settings: Any, directory: Path | None, measure: str, identity: dict[str, Any]
    ) -> None:
        """`measure`: a key of SIGNS; `identity`: what the run depends on. Raises CheckpointError if a run of something
        else is in `directory`."""
        self.net, self.settings, self.directory = net.to(device_of()), settings, directory
        self.measure = measure
        self.parts = nn.ModuleList([net, copy.deepcopy(net)])  # as it is, and at its best
        self.optimiser = torch.optim.AdamW(net.parameters(), weight_decay=settings.weight_decay, fused=True)
        self.progress = (directory and checkpoint.read_progress(directory)) or checkpoint.Progress(identity)
        if other := checkpoint.differences(identity, self.progress.fingerprint):
            raise CheckpointError(f"{directory} holds a fit of something else ({listed(other)})", "Delete the folder.")
        if directory and self.progress.step:
            checkpoint.restore(directory, self.parts, self.optimiser)

    @property
    def since_best(self) -> int:
        """Looks since the best one."""
        values = [SIGNS[self.measure] * row[self.measure] for row in self.progress.history]
        found = [-math.inf if math.isnan(value) else value for value in values]
        return len(found) - 1 - int(np.argmax(found)) if found else 0

    def steps(self) -> Iterator[int]:
        """The steps that are left, until `patience` looks were no better than the best."""
        for step in range(self.progress.step, self.settings.steps):
            if self.progress.history and self.since_best >= self.settings.patience:
                return
            self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * self.settings.rate(step)
            self.net.train()
            yield step
            progress.report(step + 1, self.settings.steps)

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        device = device_of().type
        return torch.autocast(device, torch.bfloat16, enabled=in_bf16(self.settings.precision, device))

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser."""
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def looks_after(self, step: int) -> bool:
        """Whether what is held out is looked at after this step: each `validate_every`, and the last."""
        return (step + 1) % self.settings.validate_every == 0 or step + 1 == self.settings.steps

    def look(self, step: int, value: float) -> None:
        """Note what was measured after a step, keep the weights if they are the best, and write a checkpoint."""
        self.progress.step = step + 1
        self.progress.history.append({"step": step + 1, self.measure: value})
        if not self.since_best:
            self.parts[1].load_state_dict(self.net.state_dict())
        if self.directory:
            checkpoint.save(self.directory, self.progress, self.parts, self.optimiser)

    def finish(self) -> pd.DataFrame:
        """Back to the weights of the best look, if there was one; returns the looks."""
        if self.progress.history:
            self.net.load_state_dict(self.parts[1].state_dict())
        self.net.eval()
        return pd.DataFrame(self.progress.history)


def batch_of(places: np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """Those of a step: all `places` once an epoch, in another order each."""
    epoch, at = divmod(step, max(1, len(places) // size))
    return np.random.default_rng([seed, epoch]).permutation(places)[at * size :][:size]
