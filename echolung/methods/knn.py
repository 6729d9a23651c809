"""The method `knn`: the vote of the nearest training recordings (Wu et al. 2018, arXiv 1805.01978), nothing fitted.

A recording is its mean token, near is a large cosine, and a neighbour's vote is exp(cosine / temperature). The votes
are given as they are, not calibrated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pydantic

from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.bank import Bank, BankSettings, nearest, pooled


class KnnSettings(BankSettings):
    """As DISCOVR is judged."""

    temperature: float = pydantic.Field(0.07, gt=0)


class Knn(Bank):
    """`bank`, and `votes` (m, K): 1 for the class of each row."""

    kinds = ("classification",)
    Settings = KnnSettings

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        bank = pooled(settings, recordings, [str(one) for one in training["sample_id"]])
        nearest(bank[:1], bank, settings.k)  # too small a bank is said before any question
        return cls(settings, {"bank": bank, "votes": np.eye(len(classes_of(task)))[training["y"].astype(int)]})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        cosines, places = nearest(pooled(self.settings, recordings, sample_ids), self.held["bank"], self.settings.k)
        weights = np.exp((cosines - 1) / self.settings.temperature)
        votes = (weights[..., None] * self.held["votes"][places]).sum(axis=1)
        return np.asarray(votes / votes.sum(axis=1, keepdims=True))
