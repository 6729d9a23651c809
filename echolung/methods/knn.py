"""The method `knn`: the vote of the nearest training recordings (Wu et al. 2018, arXiv 1805.01978), nothing fitted.

A recording is its mean token, near is a large cosine, and a neighbour's vote is exp(cosine / temperature). The votes
are given as they are, not calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pydantic
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from echolung.core.errors import CheckpointError, EcholungError
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.method import Method
from echolung.methods.pooled import CODE, PooledSettings, nearest, pooled


class KnnSettings(PooledSettings):
    """As DISCOVR is judged."""

    k: int = pydantic.Field(10, gt=0)
    temperature: float = pydantic.Field(0.07, gt=0)


class Knn(Method):
    """The training recordings, and what they are."""

    kinds = ("classification",)
    reads_tokens = True
    Settings = KnnSettings
    code = CODE

    def __init__(self, settings: KnnSettings, bank: np.ndarray, votes: np.ndarray) -> None:
        """`bank` float32 (m, F), `votes` (m, K): 1 for the class of each row."""
        self.settings, self.bank, self.votes = settings, bank, votes

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        bank = pooled(settings, recordings, [str(one) for one in training["sample_id"]])
        nearest(bank[:1], bank, settings.k)  # before any question
        return cls(settings, bank, np.eye(len(classes_of(task)), dtype=np.float32)[training["y"].astype(int)])

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        cosines, places = nearest(pooled(self.settings, recordings, sample_ids), self.bank, self.settings.k)
        weights = np.exp((cosines.astype(float) - 1) / self.settings.temperature)
        shares = weights / weights.sum(axis=1, keepdims=True)
        return np.asarray((shares[..., None] * self.votes[places]).sum(axis=1))

    def save(self, directory: Path) -> None:
        write_json(directory / "knn.json", self.settings.model_dump(mode="json"))
        save_file({"bank": self.bank, "votes": self.votes}, directory / "bank.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        try:
            held = load_file(directory / "bank.safetensors")
            return cls(cls.Settings.parse(read_json(directory / "knn.json"), ""), held["bank"], held["votes"])
        except (EcholungError, SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{directory} does not hold a bank of neighbours ({error})",
                "Promote a model again: `echolung promote TASK`.",
            ) from None
