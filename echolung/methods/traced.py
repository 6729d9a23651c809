"""Traced frames as arrays, and a network trained on them.

Dimension letters: N traced frames, S side of the store's frames, C classes (background first).
"""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pydantic
import torch
from torch import Tensor, nn

from echolung.core.errors import DataError, listed
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed, digest
from echolung.data.masks import STRUCTURES
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask, phases_of
from echolung.methods.method import device_of
from echolung.models.segmentation import augmented, dice_and_entropy, in_bf16
from echolung.pretraining import checkpoint

CHUNK = 32
"""Frames that are drawn at a time."""
CLASSES = 1 + len(STRUCTURES)

Inputs = Callable[[str], np.ndarray]
"""What a network sees of a recording's traced frames: (T, ...)."""


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


@dataclass(frozen=True)
class Traced:
    """Traced frames as arrays."""

    x: Tensor
    """What the network sees (N, ...)."""
    labels: Tensor
    """uint8 (N, S, S)."""
    known: Tensor
    """bool (N, C): the structures that are traced there."""
    patient: np.ndarray
    inner: np.ndarray
    """The inner fold that holds a frame out; negative: none."""

    @classmethod
    def of(cls, task: SegmentationTask, recordings: Recordings, training: pd.DataFrame, inputs: Inputs) -> Self:
        """Of the training rows of `Method.fit`: ED and ES, or every traced frame of a recording that has neither.

        Raises DataError naming recordings without a traced frame.
        """
        x, labels, known, rows = [], [], [], []
        wanted = [True, *(structure in task.structures for structure in STRUCTURES)]
        if bare := [name for name in training["sample_id"] if recordings.masks(name) is None]:
            raise DataError(
                f"no frame of {len(bare)} recordings is traced: {listed(bare)}", "Leave them out (`where`)."
            )
        for place, name in enumerate(map(str, training["sample_id"])):
            store = recordings.masks(name)
            assert store is not None
            between = phases_of(store, name) == "between"
            used = ~between | between.all()
            x.append(torch.from_numpy(inputs(name)[used]))
            labels.append(torch.from_numpy(store.masks(name)[used]))
            traced = [True, *(structure in store.structures(name) for structure in STRUCTURES)]
            known += [np.array(wanted) & traced] * len(labels[-1])
            rows += [place] * len(labels[-1])
        chosen = training.iloc[rows]
        patient, inner = chosen["patient_id"].to_numpy(str), chosen["inner"].to_numpy(np.int64)
        keep = torch.tensor(np.array(known))
        every = torch.cat(labels)
        every = torch.where(keep[torch.arange(len(every))[:, None, None], every.long()], every, 0)
        return cls(torch.cat(x), every, keep, patient, inner)

    def fingerprint(self) -> str:
        """A digest of everything in it that training depends on."""
        parts = (self.x.numpy(), self.labels.numpy(), self.known.numpy(), self.held_out())
        return digest([hashlib.sha256(part.tobytes()).hexdigest() for part in parts])

    def held_out(self) -> np.ndarray:
        """Frames of the first inner fold: bool (N,)."""
        folds = self.inner[self.inner >= 0]
        return self.inner == (folds.min() if len(folds) else -1)


def train(
    net: nn.Module, traced: Traced, rows: np.ndarray, held_out: np.ndarray, settings: Any, seed: int,
    directory: Path | None,
) -> pd.DataFrame:  # fmt: skip
    """Train `net` in place on the frames `rows` bool (N,); returns the Dice of `held_out` at each look, if it has any.

    With frames held out, the weights of the best look stay. What is drawn at a step depends on seed and step alone: a
    run that goes on from `directory` ends, on a CPU, with the same bits.
    """
    device = device_of()
    net.to(device).train()
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=settings.weight_decay, fused=True)
    run = _Run(net, optimiser, directory)
    bf16, places, looks = in_bf16(settings.precision, device.type), np.flatnonzero(rows), held_out.any()
    every = settings.validate_every if looks else settings.steps
    for step in range(run.progress.step, settings.steps):
        if looks and run.since_best >= settings.patience:
            break
        random = np.random.default_rng([seed, step // max(1, len(places) // settings.batch)])
        order, at = random.permutation(places), step % max(1, len(places) // settings.batch) * settings.batch
        chosen = order[at : at + settings.batch]
        x, labels = traced.x[chosen].to(device), traced.labels[chosen].to(device).long()
        drawn = derived_seed(seed, "step", step)
        if getattr(settings, "augment", False):
            x, labels = augmented(x, labels, torch.Generator().manual_seed(drawn))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        torch.manual_seed(drawn)  # of dropped paths
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            told = net(x)
        known = traced.known[chosen].to(device)
        stages = [told] if isinstance(told, Tensor) else told  # the coarser, the less it counts
        losses = [dice_and_entropy(logits.float(), labels, known) / 2**at for at, logits in enumerate(stages)]
        torch.stack(losses).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if looks and ((step + 1) % every == 0 or step + 1 == settings.steps):
            run.look(step + 1, mean_dice(net, traced, held_out))
    run.finish()
    return pd.DataFrame(run.history)


@torch.no_grad()
def mean_dice(net: nn.Module, traced: Traced, rows: np.ndarray) -> float:
    """Mean Dice over the frames `rows` bool (N,) and their known structures, by the network as it would answer."""
    net.eval()
    found: list[Tensor] = []
    for chosen in np.array_split(np.flatnonzero(rows), max(1, -(-int(rows.sum()) // CHUNK))):
        told = net(traced.x[chosen].to(device_of())).argmax(dim=1).cpu()
        for label in range(1, CLASSES):
            a, b = told == label, traced.labels[chosen] == label
            dice = (2.0 * (a & b).sum(dim=(1, 2)) + 1e-9) / (a.sum(dim=(1, 2)) + b.sum(dim=(1, 2)) + 1e-9)
            found.append(dice[traced.known[chosen, label]])
    net.train()
    return float(torch.cat(found).mean())


class _Run:
    """Where a run is: its looks, the best weights, and a checkpoint of both."""

    def __init__(self, net: nn.Module, optimiser: torch.optim.Optimizer, directory: Path | None) -> None:
        self.parts, self.optimiser, self.directory = nn.ModuleList([net, copy.deepcopy(net)]), optimiser, directory
        self.progress = checkpoint.Progress({})
        kept = checkpoint.read_progress(directory) if directory else None
        if directory and kept:
            checkpoint.restore(directory, self.parts, optimiser)
            self.progress = kept

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.progress.history

    @property
    def since_best(self) -> int:
        """Looks since the best one."""
        dice = [row["dice"] for row in self.history]
        return len(dice) - 1 - int(np.argmax(dice)) if dice else 0

    def look(self, step: int, dice: float) -> None:
        self.progress.step = step
        self.history.append({"step": step, "dice": dice})
        if not self.since_best:
            self.parts[1].load_state_dict(self.parts[0].state_dict())
        if self.directory:
            checkpoint.save(self.directory, self.progress, self.parts, self.optimiser)

    def finish(self) -> None:
        if self.history:
            self.parts[0].load_state_dict(self.parts[1].state_dict())
        self.parts[0].eval()
