"""Traced frames as arrays, and a network trained on them. Dimension letters: N traced frames, S side of the store's
frames, C classes (background first)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from echolung.core.errors import DataError, listed
from echolung.core.runtime import derived_seed, digest
from echolung.data.masks import STRUCTURES
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask, phases_of
from echolung.methods.method import device_of
from echolung.methods.training import Run, batch_of
from echolung.models.segmentation import augmented, dice_and_entropy

CHUNK = 32  # frames that are drawn at a time
CLASSES = 1 + len(STRUCTURES)

Inputs = Callable[[str], np.ndarray]  # what a network sees of a recording's traced frames: (T, ...)


@dataclass(frozen=True)
class Traced:
    """Traced frames as arrays."""

    x: Tensor  # what the network sees (N, ...)
    labels: Tensor  # uint8 (N, S, S)
    known: Tensor  # bool (N, C): the structures that are traced there
    patient: np.ndarray
    inner: np.ndarray  # the inner fold that holds a frame out; negative: none

    @classmethod
    def of(cls, task: SegmentationTask, recordings: Recordings, training: pd.DataFrame, inputs: Inputs) -> Self:
        """Of the training rows of `Method.fit`: ED and ES, or every traced frame of a recording that has neither.
        Raises DataError naming recordings without a traced frame."""
        x, labels, known, rows = [], [], [], []
        wanted = [True, *(structure in task.structures for structure in STRUCTURES)]
        if bare := [name for name in training["sample_id"] if recordings.masks(name) is None]:
            raise DataError(
                f"no frame of {len(bare)} recordings is traced: {listed(bare)}", "Leave them out (`where`)."
            )
        for place, name in enumerate(map(str, training["sample_id"])):
            masks = recordings.masks(name)
            assert masks is not None
            between = phases_of(masks) == "between"
            used = ~between | between.all()
            x.append(torch.from_numpy(inputs(name)[used]))
            labels.append(torch.from_numpy(masks.maps[used]))
            traced = [True, *(structure in masks.structures for structure in STRUCTURES)]
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
    With frames held out, the weights of the best look stay. `directory` is for this run alone (None: not resumed)."""
    run, device, places = Run(net, settings, directory, "dice", {}), device_of(), np.flatnonzero(rows)
    for step in run.steps():
        chosen = batch_of(places, settings.batch, seed, step)
        x, labels = traced.x[chosen].to(device), traced.labels[chosen].to(device).long()
        drawn = derived_seed(seed, "step", step)
        if getattr(settings, "augment", False):
            x, labels = augmented(x, labels, torch.Generator().manual_seed(drawn))
        torch.manual_seed(drawn)  # of dropped paths
        with run.autocast():
            told = net(x)
        known = traced.known[chosen].to(device)
        stages = [told] if isinstance(told, Tensor) else told  # the coarser, the less it counts
        losses = [dice_and_entropy(logits.float(), labels, known) / 2**at for at, logits in enumerate(stages)]
        run.descend(torch.stack(losses).sum())
        if held_out.any() and run.looks_after(step):
            run.look(step, mean_dice(net, traced, held_out))
    return run.finish()


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
    return float(torch.cat(found).mean())
