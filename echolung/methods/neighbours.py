"""Methods that compare a recording with a bank of training recordings, one vector each.

`knn`: the vote of the nearest (Wu et al. 2018, arXiv 1805.01978), nothing fitted. A recording is its mean token, near
is a large cosine, and a neighbour's vote is exp(cosine / temperature). The votes are given as they are, not calibrated.

`anomaly`: the distance from the normal recordings, which alone are read in training. Either 1 - the mean cosine with
the nearest `k` of them, or the Mahalanobis distance (PCA coordinates, Ledoit-Wolf covariance) that flags unusual
recordings when a model is asked (`echolung.methods.novelty`). What is far is learnt from the normals, too: their
distances from the normals of the other inner folds.

Dimension letters: n recordings, m of the bank, F numbers of a vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pydantic
from safetensors.numpy import load_file, save_file

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings, refuse_not_finite
from echolung.embedding.summary import STATISTICS
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort
from echolung.methods.method import Method, Rows
from echolung.methods.novelty import Usual


class BankSettings(Parameters):
    """What is read of a recording."""

    reads: tuple[Literal["mean", "std", "change"], ...] = pydantic.Field(("mean",), min_length=1)
    """Statistics of every channel over the tokens (`echolung.embedding.summary`)."""
    k: int = pydantic.Field(10, gt=0)  # neighbours


class Bank(Method):
    """Arrays `held` of which `bank`, float32 (m, F), is one."""

    reads_tokens = True
    code: ClassVar[tuple[str, ...]] = ("echolung.embedding.summary",)

    def __init__(self, settings: Any, held: dict[str, np.ndarray]) -> None:
        self.settings, self.held = settings, held

    def save(self, directory: Path) -> None:
        write_json(directory / "bank.json", self.settings.model_dump(mode="json"))
        save_file(self.held, directory / "bank.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        settings = cls.Settings.parse(read_json(directory / "bank.json"), str(directory / "bank.json"))
        return cls(settings, load_file(directory / "bank.safetensors"))


def pooled(settings: BankSettings, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
    """float32 (n, F); raises DataError naming the recordings whose tokens are not finite."""
    places = [STATISTICS.index(name) for name in settings.reads]
    found = recordings.summaries(sample_ids)[:, 0][:, places].reshape(len(sample_ids), -1)
    refuse_not_finite(sample_ids, np.isfinite(found).all(axis=1))
    return found


def nearest(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (n, k) with the nearest rows of the bank, the nearest first, and their places: of (n, F) and (m, F).
    Raises DataError if the bank has fewer than k rows."""
    if k > len(bank):
        raise DataError(
            f"{k} nearest neighbours are asked for, and the bank has {len(bank)} recordings",
            "Lower `k` in fit.methods, or add recordings.",
        )
    ours, theirs = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, bank))
    cosines = np.clip(ours @ theirs.T, -1, 1).astype(float)
    places = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, places, axis=1), places


class KnnSettings(BankSettings):
    """As DISCOVR is judged."""

    temperature: float = pydantic.Field(0.07, gt=0)


class Knn(Bank):
    """`bank`, and `votes` (m, K): 1 for the class of each row."""

    kinds = ("classification",)
    Settings = KnnSettings

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        bank = pooled(settings, recordings, [str(one) for one in training["sample_id"]])
        nearest(bank[:1], bank, settings.k)  # too small a bank is said before any question
        return cls(settings, {"bank": bank, "votes": np.eye(len(classes_of(task)))[training["y"].astype(int)]})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        cosines, places = nearest(pooled(self.settings, recordings, sample_ids), self.held["bank"], self.settings.k)
        weights = np.exp((cosines - 1) / self.settings.temperature)
        votes = (weights[..., None] * self.held["votes"][places]).sum(axis=1)
        return np.asarray(votes / votes.sum(axis=1, keepdims=True))


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
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
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
            raise none_left_out(rows)
        weights = normals.weights()[known]
        return cls(settings, {"bank": bank, "distances": distances[known], "weights": weights / weights.sum()})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        found = _distances(self.settings, self.held["bank"], pooled(self.settings, recordings, sample_ids))
        return with_share(found, self.held["distances"], self.held["weights"])


class Indifferent(Bank):
    """The baseline: every recording is as far as every other."""

    kinds = ("anomaly",)
    reads_tokens = False

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        return cls(settings, {})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return np.tile([0.0, 0.5], (len(sample_ids), 1))


def none_left_out(normals: Rows) -> DataError:
    """The error where no training row can be left out of the `normals`."""
    return DataError(
        f"the normal recordings to train on, of {normals['patient_id'].nunique()} patient(s), are in one inner"
        " fold: none can be left out to learn how far a normal one lies",
        "Add normal recordings of other patients, lower split.outer or raise split.inner.",
    )


def with_share(found: np.ndarray, distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distances (n,) with the share of normals (l,) that lie no farther, by weights whose sum is 1: (n, 2)."""
    return np.column_stack([found, np.minimum((distances <= found[:, None]) @ weights, 1)])


def _distances(settings: AnomalySettings, bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of queries (n, F) from a bank (m, F): (n,), not negative."""
    if settings.distance == "neighbours":
        return np.asarray(1 - nearest(queries, bank, settings.k)[0].mean(axis=1))
    usual = Usual.axes("tokens", bank.astype(float))
    return usual.fitted(usual.coordinates(bank)).distances(usual.coordinates(queries))
