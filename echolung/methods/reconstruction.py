"""The method `reconstruction`: how badly a recording's hidden pixels are predicted by a masked autoencoder of normals.

A small one (`echolung.pretraining.mae`) is trained on the normal recordings of the training rows alone. Those of the
first inner fold say when it stops, and from their errors what is far is learnt: as they chose the weights, a few more
new normals are flagged than asked for. An error is the mean over fixed clips and fixed drawings of visible tubes, of
pixels normalised within a tubelet: what is merely bright is not far.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pydantic
import torch
from safetensors.torch import load_model, save_model

from echolung.core.runtime import derived_seed, digest, read_json, write_json
from echolung.data.clips import clip_indices, evaluation_starts
from echolung.embedding.embed import evaluation_clips
from echolung.embedding.recordings import Recordings
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort
from echolung.methods.method import Method, Rows, device_of
from echolung.methods.neighbours import none_left_out, with_share
from echolung.methods.training import Run, TrainingSettings, batch_of
from echolung.models.vit import VideoViTSettings
from echolung.pretraining.mae import Mae, MaeSettings

RECORD, WEIGHTS = "reconstruction.json", "reconstruction.safetensors"


class ReconstructionSettings(TrainingSettings):
    """The autoencoder, its training, and what is measured with it."""

    encoder: VideoViTSettings = VideoViTSettings(
        width=96, depth=4, heads=3, mlp_ratio=4.0, image_size=64, patch=8, frames=8, tubelet=2, clip_fps=12.0
    )
    mae: MaeSettings = MaeSettings()
    views: int = pydantic.Field(2, ge=1)
    """Clips of a recording that are measured."""
    masks: int = pydantic.Field(4, ge=1)
    """Drawings of visible tubes for each of them."""
    validate_every: int = pydantic.Field(50, ge=1)
    patience: int = pydantic.Field(4, ge=1)
    """Steps between two looks at the inner fold, each a checkpoint; looks without a lower error before it stops."""


class Reconstruction(Method):
    """`held`: of the normals of the first inner fold, `distances` and `weights`, whose sum is 1."""

    kinds = ("anomaly",)
    gpus = 1.0
    Settings = ReconstructionSettings
    code = (
        "echolung.models", *(f"echolung.pretraining.{name}" for name in ("mae", "masking", "objective")),
        *(f"echolung.methods.{name}" for name in ("neighbours", "cohort", "training")),
    )  # fmt: skip

    def __init__(self, settings: Any, net: Mae, held: dict[str, list[float]], search: pd.DataFrame) -> None:
        self.settings, self.net, self.held, self._search = settings, net.eval(), held, search

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        rows = training[training["y"] == 0]
        normals = Cohort.of(rows, task.unit)
        out = np.isin(normals.inner, normals.folds[:1])
        if not out.any() or out.all():
            raise none_left_out(rows)
        one = cls(settings, Mae(settings.encoder, settings.mae, seed, settings.steps), {}, pd.DataFrame())
        identity = {"settings": settings.model_dump(mode="json"), "seed": seed}
        identity["rows"] = digest([normals.sample_ids, normals.inner.tolist()])
        run = Run(one.net, settings, directory, "error", identity)
        held_out = [normals.sample_ids[at] for at in np.flatnonzero(out)]
        for step in run.steps():
            chosen = batch_of(np.flatnonzero(~out), settings.batch, seed, step)
            random = np.random.default_rng([seed, step, 1])
            x = torch.from_numpy(np.stack([one._clip(recordings, normals.sample_ids[at], random) for at in chosen]))
            visible = one.net.draw(len(x), torch.Generator().manual_seed(derived_seed(seed, "step", step)))
            with run.autocast():
                loss, _ = one.net(x, visible, slice(None))
            run.descend(loss)
            if run.looks_after(step):
                run.look(step, float(one._errors(recordings, held_out).mean()))
        one._search = run.finish()
        weights = normals.weights()[out]
        errors = one._errors(recordings, held_out)
        one.held = {"distances": errors.tolist(), "weights": (weights / weights.sum()).tolist()}
        return one

    def _clip(self, recordings: Recordings, name: str, random: np.random.Generator) -> np.ndarray:
        """A clip uint8 (T, S, S) that begins anywhere in a recording where it fits."""
        video, shape = recordings.frames(name), self.settings.encoder
        known = len(video), recordings.fps(name), shape.frames, shape.clip_fps
        return video[clip_indices(*known, random.uniform(0, evaluation_starts(*known, 2)[-1]))]

    @torch.no_grad()
    def _errors(self, recordings: Recordings, names: Sequence[str]) -> np.ndarray:
        """Of each recording, (n,)."""
        self.net.eval()
        views, found = self.settings.views, []
        visible = self.net.draw(views * self.settings.masks, torch.Generator().manual_seed(0))
        for name in names:
            clips = evaluation_clips(recordings.frames(name), recordings.fps(name), self.settings.encoder, views)
            x = torch.from_numpy(clips).repeat(self.settings.masks, 1, 1, 1)
            found.append(float(self.net(x, visible, slice(None))[0]))
        return np.array(found)

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        found = self._errors(recordings, sample_ids)
        return with_share(found, np.array(self.held["distances"]), np.array(self.held["weights"]))

    def save(self, directory: Path) -> None:
        write_json(directory / RECORD, {"settings": self.settings.model_dump(mode="json"), "held": self.held})
        save_model(self.net, str(directory / WEIGHTS))

    @classmethod
    def load(cls, directory: Path) -> Self:
        found = read_json(directory / RECORD)
        settings = cls.Settings.parse(found["settings"], str(directory / RECORD))
        shape = settings.encoder.model_copy(update={"weights": ""})
        net = Mae(shape, settings.mae, 0, settings.steps)
        load_model(net, directory / WEIGHTS)
        return cls(settings, net.to(device_of()), found["held"], pd.DataFrame())
