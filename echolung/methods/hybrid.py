"""The local-global temporal hybrid: what a clip shows frame by frame, mixed over time, to a class.

`hybrid` trains a timm backbone on frames and the temporal part end to end; `hybrid-tokens` trains the temporal part
alone, on the mean token of every frame of an arm's frozen encoder. The first inner fold decides when training stops,
and where answers are cut in two; the others train. With `cut: validation` the threshold that was best there is frozen:
the log-odds of every answer are shifted so that it lies at one half. That moves decisions and no ranking; the Brier
score pays for it. Dimension letters: n recordings, V views, T frames (time steps), C classes, S pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pydantic
import torch
from safetensors.torch import load_model, save_model
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from echolung.core.errors import DataError, listed
from echolung.core.runtime import derived_seed, digest, read_json, write_json
from echolung.data.clips import clip_indices, evaluation_starts
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort, of_units
from echolung.methods.method import Method, Rows, device_of
from echolung.methods.training import Run, TrainingSettings, batch_of
from echolung.models.encoders import drawn_encoder, initial_encoder
from echolung.models.frames import FramesSettings
from echolung.models.temporal import Temporal, TemporalShape, augmented_clips

RECORD, WEIGHTS = "hybrid.json", "hybrid.safetensors"
EQUAL = 2e-3  # tokens that differ by less, relative to their size, are of the same frame: half precision

Clip = tuple[np.ndarray, np.ndarray]
Read = Callable[[str, np.random.Generator | None], Clip]
"""Every view of a recording, or a random one: (V, T, ...), and which steps are frames of it, bool (V, T)."""


class TemporalSettings(TrainingSettings, TemporalShape):
    """The temporal part, and its training."""

    learning_rate: float = pydantic.Field(3e-4, gt=0)
    weight_decay: float = pydantic.Field(0.05, ge=0)
    balance: Literal["sampler", "weights", "none"] = "none"
    """Classes are drawn equally often, or count the same in the loss."""
    cut: Literal["validation", "half"] = "validation"
    """Of two classes: where the inner fold's balanced accuracy is best, or a probability of one half."""
    validate_every: int = pydantic.Field(20, ge=1)
    patience: int = pydantic.Field(8, ge=1)
    """Steps between two looks at the inner fold, each a checkpoint; looks without a better log-loss before it stops."""


class HybridSettings(TemporalSettings):
    """The backbone, what it sees, and the rest."""

    spatial: FramesSettings = FramesSettings(model="resnet18", image_size=112, frames=32, clip_fps=25.0)
    """Any model of timm, the clip that it sees, and `weights`: a file."""
    views: int = pydantic.Field(1, ge=1)  # clips by which a recording is answered
    augment: bool = True


class EndToEnd(Method):
    """On frames."""

    kinds = ("classification",)
    gpus = 1.0
    Settings: ClassVar[type[TemporalSettings]] = HybridSettings
    code = ("echolung.models", "echolung.methods.cohort", "echolung.methods.training")

    def __init__(self, settings: Any, facts: dict[str, Any], net: Temporal, search: pd.DataFrame) -> None:
        """`facts`: number of classes, and shift of the log-odds; width of tokens and frames of a clip where read."""
        self.settings, self.facts, self.net, self._search = settings, facts, net.eval(), search

    @classmethod
    def build(cls, settings: Any, facts: dict[str, Any], seed: int | None) -> Temporal:
        """Untrained; `seed` None: its weights will be replaced."""
        frames: Any = drawn_encoder(settings.spatial, 0) if seed is None else initial_encoder(settings.spatial, seed)
        return Temporal(frames.width, frames.grid[0], facts["classes"], settings, frames)

    def reader(self, recordings: Recordings) -> Read:
        """Frames uint8 (V, T, S, S); those after the end of a short video are not valid."""
        frames, rate = self.settings.spatial.frames, self.settings.spatial.clip_fps

        def read(name: str, random: np.random.Generator | None) -> Clip:
            video = recordings.frames(name)
            known = len(video), recordings.fps(name), frames, rate
            starts = evaluation_starts(*known, 2 if random else self.settings.views)
            starts = random.uniform(0, starts[-1:]) if random else starts
            valid = (starts[:, None] + np.arange(frames) / rate) * known[1] + 1e-6 < len(video)
            return np.stack([video[clip_indices(*known, start)] for start in starts]), valid

        return read

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        cohort, labels = Cohort.of(training, task.unit), classes_of(task)
        held_out = np.flatnonzero(cohort.inner == cohort.folds[0])
        for rows, what in ((np.delete(cohort.y, held_out), "train on"), (cohort.y[held_out], "stop on")):
            if absent := [name for k, name in enumerate(labels) if k not in rows]:
                problem = f"a fold has no recording of {listed(absent)} to {what}"
                raise DataError(problem, "Lower split.outer or split.inner, add patients, or leave the class out.")
        facts: dict[str, Any] = {"classes": len(labels), "shift": 0.0}
        if cls.reads_tokens:
            record = recordings.features[0].record
            facts |= {"width": record.shape[-1], "frames": record.grid[0]}
        torch.manual_seed(derived_seed(seed, "net"))
        one = cls(settings, facts, cls.build(settings, facts, seed), pd.DataFrame())
        read = one.reader(recordings)
        one._search = one._train(read, cohort, seed, directory)
        if len(labels) == 2 and settings.cut == "validation":
            told = one._probabilities(read, [cohort.sample_ids[at] for at in held_out])
            y, p = (of_units(values, cohort.unit[held_out]) for values in (cohort.y[held_out], told))
            facts["shift"] = threshold(y > 0.5, np.diff(np.log(p))[:, 0])
        return one

    def _train(self, read: Read, cohort: Cohort, seed: int, directory: Path) -> pd.DataFrame:
        """Returns the looks at the inner fold's log-loss; the best one's weights stay."""
        settings, fold = self.settings, int(cohort.folds[0])
        identity = {"settings": settings.model_dump(mode="json"), "seed": seed}
        identity["rows"] = digest([cohort.sample_ids, cohort.y.tolist(), cohort.inner.tolist()])
        run = Run(self.net, settings, directory, "log_loss", identity)
        weights, held_out = cohort.weights(fold), [cohort.sample_ids[at] for at in np.flatnonzero(cohort.inner == fold)]
        if settings.balance != "none":  # every class has the same sum
            weights = weights / np.bincount(cohort.y, weights=weights)[cohort.y]
        for step in run.steps():
            chosen, counts = drawn(settings, weights, seed, step)
            random = np.random.default_rng([seed, step, 1])
            x, valid = stacked([read(cohort.sample_ids[at], random) for at in chosen])
            generator = torch.manual_seed(derived_seed(seed, "step", step))  # of dropout, too
            if getattr(settings, "augment", False):
                x = augmented_clips(x, generator)
            with run.autocast():
                logits = self.net(x, valid)
            y, count = (torch.from_numpy(part).to(device_of()) for part in (cohort.y[chosen], counts))
            run.descend((F.cross_entropy(logits.float(), y, reduction="none") * count).mean())
            if run.looks_after(step):
                run.look(step, float(cohort.log_loss(fold, self._probabilities(read, held_out)[:, None])[0]))
        return run.finish()

    @torch.no_grad()
    def _probabilities(self, read: Read, names: Sequence[str]) -> np.ndarray:
        """(n, C), the mean over the views, before any shift."""
        self.net.eval()
        found = []
        for few in (names[at : at + self.settings.batch] for at in range(0, len(names), self.settings.batch)):
            logits = self.net(*stacked([read(name, None) for name in few]))
            found.append(logits.double().softmax(dim=-1).unflatten(0, (len(few), -1)).mean(dim=1).cpu())
        return torch.cat(found).numpy()

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        values = self._probabilities(self.reader(recordings), sample_ids)
        if not self.facts["shift"]:
            return values
        odds = np.diff(np.log(values))[:, 0] - self.facts["shift"]
        return np.stack([expit(-odds), expit(odds)], axis=1)

    def search(self) -> pd.DataFrame:
        return self._search.assign(threshold=float(expit(self.facts["shift"])))

    def save(self, directory: Path) -> None:
        write_json(directory / RECORD, {"settings": self.settings.model_dump(mode="json"), "facts": self.facts})
        save_model(self.net, str(directory / WEIGHTS))

    @classmethod
    def load(cls, directory: Path) -> Self:
        found = read_json(directory / RECORD)
        settings = cls.Settings.parse(found["settings"], str(directory / RECORD))
        net = cls.build(settings, found["facts"], None)
        load_model(net, directory / WEIGHTS)
        return cls(settings, found["facts"], net.to(device_of()), pd.DataFrame())


class OnTokens(EndToEnd):
    """On the mean token of every step of an encoder's frozen views; meant for encoders of single frames. Steps at the
    end that only repeat are not valid: a video that is shorter than the clip shows its last frame again."""

    reads_tokens = True
    Settings = TemporalSettings

    @classmethod
    def build(cls, settings: Any, facts: dict[str, Any], seed: int | None) -> Temporal:
        return Temporal(facts["width"], facts["frames"], facts["classes"], settings)

    def reader(self, recordings: Recordings) -> Read:
        @functools.cache
        def views(name: str) -> Clip:
            tokens = recordings.tokens([name])[0].astype(np.float32)
            tokens = tokens.reshape(len(tokens), self.facts["frames"], -1, tokens.shape[-1])
            same = np.isclose(tokens[:, 1:], tokens[:, :-1], EQUAL, EQUAL * tokens.std()).all(axis=(2, 3))
            changes = np.pad(~same, ((0, 0), (1, 0)), constant_values=True)
            return tokens.mean(axis=2), np.logical_or.accumulate(changes[:, ::-1], axis=1)[:, ::-1].copy()

        def read(name: str, random: np.random.Generator | None) -> Clip:
            x, valid = views(name)
            chosen = np.arange(len(x)) if random is None else random.integers(len(x), size=1)
            return x[chosen], valid[chosen]

        return read


def stacked(clips: Sequence[Clip]) -> list[Tensor]:
    """The views of several recordings, one after another, and their valid steps, where networks run."""
    return [torch.from_numpy(np.concatenate(part)).to(device_of()) for part in zip(*clips, strict=True)]


def drawn(settings: Any, weights: np.ndarray, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a step and how much each counts, from the weights (n,) of all; a row of weight 0 is never drawn."""
    places = np.flatnonzero(weights)
    if settings.balance == "sampler":
        share = weights[places] / weights[places].sum()
        return np.random.default_rng([seed, step]).choice(places, settings.batch, p=share), np.ones(settings.batch)
    chosen = batch_of(places, settings.batch, seed, step)
    return chosen, weights[chosen] * len(places) / weights.sum()


def threshold(positive: np.ndarray, odds: np.ndarray) -> float:
    """The cut through log-odds (n,) of the best balanced accuracy; of equally good ones that nearest to 0."""
    cuts = np.convolve(np.unique(odds), [0.5, 0.5], "valid")
    above = odds[:, None] > cuts
    balanced = above[positive].mean(axis=0) - above[~positive].mean(axis=0)
    return float(min(cuts[balanced >= balanced.max(initial=-1) - 1e-12], key=abs, default=0.0))
