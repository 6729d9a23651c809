"""The method `anomaly`: the distance of a recording from the normal ones, which alone are read in training.

Either 1 - the mean cosine with the nearest `k` of them, or the Mahalanobis distance (PCA coordinates, Ledoit-Wolf
covariance) that flags unusual recordings when a model is asked (`echolung.methods.novelty`). What is far is learnt from
the normals, too: their distances from the normals of the other inner folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pydantic
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from echolung.core.errors import CheckpointError, DataError, EcholungError
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort
from echolung.methods.method import Method
from echolung.methods.novelty import Usual
from echolung.methods.pooled import CODE, PooledSettings, nearest, pooled


class AnomalySettings(PooledSettings):
    """How far is measured."""

    distance: Literal["neighbours", "mahalanobis"] = "neighbours"
    k: int = pydantic.Field(5, gt=0)
    """Neighbours; not for `mahalanobis`."""


class AnomalyBank(Method):
    """The normal training recordings, and the distances that are usual among them."""

    kinds = ("anomaly",)
    reads_tokens = True
    Settings = AnomalySettings
    code = (*CODE, "echolung.methods.novelty", "echolung.methods.cohort")

    def __init__(self, settings: AnomalySettings, held: dict[str, np.ndarray]) -> None:
        """`held`: bank float32 (m, F); of those left out in turn, distances (l,) and weights (l,) with sum 1."""
        self.settings, self.held = settings, held

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        normals = Cohort.of(training[training["y"] == 0], task.unit)
        if len(np.unique(normals.patient)) < 2:
            raise DataError(
                f"the normal recordings to train on are of {len(np.unique(normals.patient))} patient",
                "A threshold needs normals of two patients at least: add recordings, or lower split.outer.",
            )
        bank = pooled(settings, recordings, normals.sample_ids)
        distances = np.full(len(bank), np.nan)
        for fold in normals.folds:
            out = normals.inner == fold
            if not out.all():
                distances[out] = _distances(settings, bank[~out], bank[out])
        known = np.isfinite(distances)
        if not known.any():
            raise DataError(
                "all normal recordings to train on are in one inner fold: none is left to measure them from",
                "Add normal recordings, or raise split.inner.",
            )
        weights = normals.weights()[known]
        return cls(settings, {"bank": bank, "distances": distances[known], "weights": weights / weights.sum()})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        found = _distances(self.settings, self.held["bank"], pooled(self.settings, recordings, sample_ids))
        share = (self.held["distances"] <= found[:, None]) @ self.held["weights"]
        return np.column_stack([found, np.clip(share, 0, 1)])

    def save(self, directory: Path) -> None:
        write_json(directory / "anomaly.json", self.settings.model_dump(mode="json"))
        save_file(self.held, directory / "bank.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        try:
            held = load_file(directory / "bank.safetensors")
            settings = cls.Settings.parse(read_json(directory / "anomaly.json"), "")
            return cls(settings, {name: held[name] for name in ("bank", "distances", "weights")})
        except (EcholungError, SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{directory} does not hold a bank of normals ({error})",
                "Promote a model again: `echolung promote TASK`.",
            ) from None


def _distances(settings: AnomalySettings, bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of queries (n, F) from a bank (m, F): (n,), not negative."""
    if settings.distance == "neighbours":
        return np.asarray(1 - nearest(queries, bank, settings.k)[0].mean(axis=1, dtype=float))
    bank, queries = bank.astype(float), queries.astype(float)
    usual = Usual.axes("tokens", bank)
    return usual.fitted(usual.coordinates(bank)).distances(usual.coordinates(queries))


class Indifferent(Method):
    """The baseline: every recording is as far as every other."""

    kinds = ("anomaly",)

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        return cls()

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return np.tile([0.0, 0.5], (len(sample_ids), 1))

    def save(self, directory: Path) -> None:
        """Nothing is fitted."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls()
