"""The method `anomaly`: the distance of a recording from the normal ones, which alone are read in training.

Either 1 - the mean cosine with the nearest `k` of them, or the Mahalanobis distance (PCA coordinates, Ledoit-Wolf
covariance) that flags unusual recordings when a model is asked (`echolung.methods.novelty`). What is far is learnt from
the normals, too: their distances from the normals of the other inner folds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.embedding.recordings import Recordings
from echolung.kinds.task import Task
from echolung.methods.bank import Bank, BankSettings, nearest, pooled
from echolung.methods.cohort import Cohort
from echolung.methods.novelty import Usual


class AnomalySettings(BankSettings):
    """How far is measured."""

    distance: Literal["neighbours", "mahalanobis"] = "neighbours"
    k: int = pydantic.Field(5, gt=0)  # neighbours; not for `mahalanobis`


class AnomalyBank(Bank):
    """`bank`: the normals; of those left out in turn, `distances` (l,) and `weights` (l,), whose sum is 1."""

    kinds = ("anomaly",)
    Settings = AnomalySettings
    code = (*Bank.code, "echolung.methods.novelty", "echolung.methods.cohort")

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        rows = training[training["y"] == 0]
        normals = Cohort.of(rows, task.unit)
        bank = pooled(settings, recordings, normals.sample_ids)
        distances = np.full(len(bank), np.nan)
        for fold in normals.folds:
            out = normals.inner == fold
            if (~out).sum() > 1:
                distances[out] = _distances(settings, bank[~out], bank[out])
        known = np.isfinite(distances)
        if not known.any():
            raise DataError(
                f"the normal recordings to train on, of {rows['patient_id'].nunique()} patient(s), are in one inner"
                " fold: none can be left out to learn how far a normal one lies",
                "Add normal recordings of other patients, lower split.outer or raise split.inner.",
            )
        weights = normals.weights()[known]
        return cls(settings, {"bank": bank, "distances": distances[known], "weights": weights / weights.sum()})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        found = _distances(self.settings, self.held["bank"], pooled(self.settings, recordings, sample_ids))
        share = (self.held["distances"] <= found[:, None]) @ self.held["weights"]
        return np.column_stack([found, np.minimum(share, 1)])


class Indifferent(Bank):
    """The baseline: every recording is as far as every other."""

    kinds = ("anomaly",)
    reads_tokens = False

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        return cls(settings, {})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return np.tile([0.0, 0.5], (len(sample_ids), 1))


def _distances(settings: AnomalySettings, bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of queries (n, F) from a bank (m, F): (n,), not negative."""
    if settings.distance == "neighbours":
        return np.asarray(1 - nearest(queries, bank, settings.k)[0].mean(axis=1))
    usual = Usual.axes("tokens", bank.astype(float))
    return usual.fitted(usual.coordinates(bank)).distances(usual.coordinates(queries))
