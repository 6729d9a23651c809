"""A toy in every seam, registered when this module is imported: ECHOLUNG_PLUGINS=toys does so in every process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import nn

from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings
from echolung.kinds.kind import Kind, Scores
from echolung.kinds.kinds import KINDS
from echolung.kinds.metrics import Metric
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, one_label_per_patient, selected
from echolung.methods.method import Method
from echolung.methods.methods import METHODS
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.encoders import ENCODERS, initial_encoder
from echolung.pretraining.objective import Objective
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.sampling import CropSettings


class TilesSettings(ClipSettings):
    """Frames are cut into `side` x `side` tiles."""

    side: int = 2
    features: int = 4


class Tiles(Encoder):
    """One token per frame and tile: random Fourier features of its mean and spread."""

    Settings = TilesSettings

    def __init__(self, settings: TilesSettings) -> None:
        super().__init__(settings)
        self.mix = nn.Linear(2, settings.features)

    @property
    def width(self) -> int:
        return self.settings.features

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.settings.frames, self.settings.side, self.settings.side

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = self.settings.side
        tiles = pixels[:, 0].unflatten(-1, (side, -1)).unflatten(-3, (side, -1)).transpose(-3, -2).flatten(-2)
        values = torch.stack([tiles.mean(-1), tiles.std(-1)], dim=-1).flatten(1, 3)
        return torch.sin(10 * self.mix(values))


class BrightnessSettings(Parameters):
    crop: CropSettings = CropSettings()


class Brightness(Objective):
    """The mean token tells a clip's mean brightness: two parts, two learning rates."""

    Settings = BrightnessSettings

    def __init__(self, encoder: ClipSettings, settings: BrightnessSettings, seed: int, steps: int) -> None:
        super().__init__(encoder, settings, seed, steps)
        self.encoder = initial_encoder(encoder, seed)
        torch.manual_seed(seed)
        self.head = nn.Linear(self.encoder.width, 1)

    @property
    def handed_on(self) -> Encoder:
        return self.encoder

    def forward(self, views: torch.Tensor, drawn: Any, rows: slice) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = self.encoder.pixels(views)
        told = self.head(self.encoder(pixels).mean(dim=1))[:, 0]
        return (told - pixels.mean(dim=(1, 2, 3, 4))).square().mean(), {"head_bias": float(self.head.bias.detach())}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.encoder.parameters()), "weight_decay": weight_decay},
            {"params": list(self.head.parameters()), "weight_decay": 0.0, "lr_scale": 10.0},
        ]


class RidgeSettings(Parameters):
    penalty: float = 1.0


class Ridge(Method):
    """A number from the mean token."""

    kinds = ("number",)
    reads_tokens = True
    Settings = RidgeSettings

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        x = cls._x(recordings, list(training["sample_id"]))
        eye = settings.penalty * np.eye(x.shape[1])
        return cls(np.linalg.solve(x.T @ x + eye, x.T @ training["y"].to_numpy()).tolist())

    @staticmethod
    def _x(recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        tokens = recordings.tokens(sample_ids).astype(float).mean(axis=(1, 2))
        return np.column_stack([tokens, np.ones(len(tokens))])

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return self._x(recordings, sample_ids) @ np.array(self.weights)[:, None]

    def save(self, directory: Path) -> None:
        write_json(directory / "ridge.json", self.weights)

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls(read_json(directory / "ridge.json"))


class Mean(Ridge):
    """The training mean: the baseline of the kind."""

    reads_tokens = False

    @staticmethod
    def _x(recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return np.ones((len(sample_ids), 1))


class Number(Kind):
    """A number per video or patient, judged by its absolute error."""

    Settings = Task
    metrics = {"mae": Metric("absolute error", False), "bias": Metric("bias", False)}
    paired = ("mae", "bias")
    loss = "mae"
    baseline = "toy-mean"
    valid = "the number is finite"

    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        rows = selected(task, manifest)
        rows["y"] = rows["label"].astype(float)
        rows["stratum"] = (rows["y"] > rows["y"].median()).astype("int64")
        return one_label_per_patient(task, rows)

    def columns(self, task: Task) -> list[str]:
        return ["number"]

    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        return ~np.isfinite(values).all(axis=1)

    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.abs(values[..., 0] - y)

    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        errors = units.values[key][..., 0] - units.y  # (S, R, U)
        found = {}
        for name, values in (("mae", np.abs(errors)), ("bias", errors)):
            patients = np.stack([units.per_patient(one.mean(axis=0)) for one in values])
            found[name] = patients @ counts.T / counts.sum(axis=1)
        return Scores(found)

    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame({"predicted": values[:, 0]})


ENCODERS["toy-tiles"] = Tiles
OBJECTIVES["toy-brightness"] = Brightness
METHODS["toy-ridge"] = Ridge
METHODS["toy-mean"] = Mean
KINDS["number"] = Number()
