"""Controls: methods without an encoder, through the same folds.

majority      the class frequencies, whatever the recording
source-only   frame size, rate, length, container and codec: what can be predicted without looking at the picture
hand-made     brightness, texture and motion (handmade.py): what needs no network

The last two are multinomial logistic regressions; their penalty is chosen on the inner folds by log-loss.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from echolung.core.errors import CheckpointError, DataError
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort
from echolung.methods.handmade import handmade_table
from echolung.methods.method import Method

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C of the logistic regressions; the smallest is next to the class frequencies."""
WEIGHTS = ("mean", "scale", "coefficients", "intercepts")
REMEDY = "Promote a model again: `echolung promote TASK`."


class Tabular(Method):
    """Penalised multinomial logistic regression on a table of numbers per video."""

    kinds = ("classification",)
    code: ClassVar[tuple[str, ...]] = ("echolung.methods.cohort",)

    def __init__(self, columns: list[str], weights: dict[str, np.ndarray], search: pd.DataFrame) -> None:
        """`weights`: mean and scale (F,) of the features, coefficients (C, F) and intercepts (C,), named as WEIGHTS."""
        self.columns, self.weights, self._search = columns, weights, search

    @staticmethod
    @abc.abstractmethod
    def table(recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        """One row of numbers per video, index sample_id."""

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        cohort = Cohort.of(training, task.unit)
        table = cls.table(recordings, cohort.sample_ids)
        x = table.to_numpy(float)

        def inner_loss(penalty: float, fold: int) -> float:
            kept = cohort.inner != fold
            fitted = _logistic(x[kept], cohort.y[kept], cohort.weights(fold)[kept], penalty)
            return float(cohort.log_loss(fold, _probabilities(fitted, x[~kept])[:, None])[0])

        losses = [np.mean([inner_loss(penalty, fold) for fold in cohort.folds]) for penalty in PENALTIES]
        penalty = PENALTIES[int(np.argmin(losses))]  # of equal ones the stronger
        search = pd.DataFrame({"penalty": PENALTIES, "log_loss": losses})
        search["chosen"] = search["penalty"] == penalty
        return cls([str(name) for name in table], _logistic(x, cohort.y, cohort.weights(), penalty), search)

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        table = self.table(recordings, sample_ids).reindex(columns=self.columns, fill_value=0.0)
        return _probabilities(self.weights, table.to_numpy(float))

    def save(self, directory: Path) -> None:
        write_json(directory / "columns.json", self.columns)
        weights = {name: np.ascontiguousarray(value) for name, value in self.weights.items()}
        save_file(weights, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        try:
            weights = load_file(directory / "weights.safetensors")
            return cls(read_json(directory / "columns.json"), {name: weights[name] for name in WEIGHTS}, pd.DataFrame())
        except (DataError, SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{directory} does not hold a fitted control ({error})", REMEDY) from None

    def search(self) -> pd.DataFrame:
        return self._search


class Majority(Tabular):
    """The class frequencies of the training videos, each patient counting once where patients are the unit."""

    @staticmethod
    def table(recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(index=list(sample_ids))

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        classes = len(classes_of(task))
        frequencies = Cohort.of(training, task.unit).frequencies(classes)
        nothing = {"mean": np.zeros(0), "scale": np.ones(0), "coefficients": np.zeros((classes, 0))}
        with np.errstate(divide="ignore"):  # a class without a video
            return cls([], nothing | {"intercepts": np.log(frequencies)}, pd.DataFrame())


class SourceOnly(Tabular):
    """What the file says about a video, without its frames."""

    @staticmethod
    def table(recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        return source_table(recordings.manifest(sample_ids))


class HandMade(Tabular):
    """What one would compute of the picture without a network."""

    code = ("echolung.methods.cohort", "echolung.methods.handmade")

    @staticmethod
    def table(recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        return handmade_table(recordings, sample_ids)


def source_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """What the file says of a video before a frame is looked at: one row of numbers each, index sample_id."""
    rows = manifest.set_index("sample_id")
    numbers = {f"log_{name}": np.log2(rows[name].astype(float)) for name in ("height", "width", "frames")}
    kinds = {"container": [PurePath(str(path)).suffix.lower() for path in rows["path"]], "codec": rows["codec"]}
    dummies = pd.get_dummies(pd.DataFrame(kinds, index=rows.index).astype(str), dtype=float)
    return pd.concat([pd.DataFrame(numbers).assign(fps=rows["fps"].astype(float)), dummies], axis=1)


def _logistic(x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """Mean, scale (F,), coefficients (C, F) and intercepts (C,) of a fit to features x (V, F); y has every class."""
    from sklearn.linear_model import LogisticRegression  # a second to import, which `predict` does without

    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=penalty, max_iter=2000).fit((x - mean) / scale, y, sample_weight=weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # scikit-learn keeps the logit of the second of two classes alone
        coefficients, intercepts = (np.concatenate([-one / 2, one / 2]) for one in (coefficients, intercepts))
    return {"mean": mean, "scale": scale, "coefficients": coefficients, "intercepts": intercepts}


def _probabilities(fitted: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    logits = (x - fitted["mean"]) / fitted["scale"] @ fitted["coefficients"].T + fitted["intercepts"]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
