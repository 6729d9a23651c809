"""Penalised regression on numbers of each video, logistic for classes and ridge for a number: linear probe and
controls.

The penalty is chosen on the inner folds by log-loss, all folds and penalties in one solve. Probabilities are calibrated
on the same folds by one number: the logits' distance from the class frequencies is multiplied by `sharpness`.
"""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pydantic
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings, refuse_not_finite
from echolung.kinds.classification import classes_of
from echolung.kinds.regression import RegressionTask
from echolung.kinds.task import Task
from echolung.methods import ridge
from echolung.methods.cohort import Cohort, unit_log_loss
from echolung.methods.logistic import solve
from echolung.methods.method import Method, Rows

SHARPEST = 4.0


class LogisticSettings(Parameters):
    """The search."""

    penalties: tuple[pydantic.PositiveFloat, ...] = pydantic.Field((1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    """C of the regressions: the smaller, the nearer to the class frequencies or the mean."""


class Tabular(Method):
    """Multinomial logistic or ridge regression; a subclass says on which numbers."""

    kinds: ClassVar[tuple[str, ...]] = ("classification", "regression")
    Settings: ClassVar[type[Parameters]] = LogisticSettings
    code: ClassVar[tuple[str, ...]] = (
        "echolung.methods.tabular",
        "echolung.methods.logistic",
        "echolung.methods.ridge",
        "echolung.methods.cohort",
    )

    def __init__(self, columns: list[str], weights: dict[str, np.ndarray], search: pd.DataFrame) -> None:
        """`weights`: coefficients (C, F), intercepts (C,); of a number C is 1, and `half` (1,) is half its interval."""
        self.columns, self.weights, self._search = columns, weights, search

    @classmethod
    @abc.abstractmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        """One row of numbers per video, index sample_id."""

    @classmethod
    def choices(cls, settings: Any, table: pd.DataFrame) -> dict[str, list[str]]:
        """Sets of columns by name; the inner folds choose one together with the penalty."""
        return {"all": [str(name) for name in table]}

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        cohort = Cohort.of(training, task.unit)
        table = cls.table(recordings, cohort.sample_ids)
        refuse_not_finite(cohort.sample_ids, np.isfinite(table.to_numpy(float)).all(axis=1))
        choices = cls.choices(settings, table)
        inputs = {name: table[columns].to_numpy(float, copy=True) for name, columns in choices.items()}
        if isinstance(task, RegressionTask):
            y, score = training["y"].to_numpy(float), "absolute_error"
            found = (ridge.choose(x, y, cohort, settings.penalties, task.coverage) for x in inputs.values())
        else:
            classes, score = len(classes_of(task)), "log_loss"
            found = (_choose(x, cohort, classes, settings.penalties) for x in inputs.values())
        fits = dict(zip(inputs, found, strict=True))
        best = min(fits, key=lambda name: fits[name][1][score].min())
        searches = [
            search.assign(reads=name, chosen=search["chosen"] & (name == best)) for name, (_, search) in fits.items()
        ]
        return cls(choices[best], fits[best][0], pd.concat(searches, ignore_index=True))

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        table = self.table(recordings, sample_ids).reindex(columns=self.columns, fill_value=0.0)
        told = table.to_numpy(float) @ self.weights["coefficients"].T + self.weights["intercepts"]
        if "half" in self.weights:
            return ridge.with_interval(told[:, 0], float(self.weights["half"][0]))
        return softmax(told, axis=-1)

    def save(self, directory: Path) -> None:
        write_json(directory / "columns.json", self.columns)
        weights = {name: np.ascontiguousarray(value) for name, value in self.weights.items()}
        save_file(weights, directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls(read_json(directory / "columns.json"), load_file(directory / "weights.safetensors"), pd.DataFrame())


def _choose(
    x: np.ndarray, cohort: Cohort, classes: int, penalties: Sequence[float]
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The penalty with the lowest mean log-loss on the inner folds, of equal ones the stronger; fitted on all rows."""
    folds, penalties = list(cohort.folds), sorted(penalties)
    weights_JV = np.stack([*(cohort.weights(fold) for fold in folds), cohort.weights()])  # the last: all rows
    solved = solve(x, cohort.y, weights_JV, penalties, classes)
    logits_JGVC = solved.logits(x)
    losses = [
        cohort.log_loss(fold, softmax(logits_JGVC[j][:, cohort.inner == fold], axis=-1).swapaxes(0, 1))
        for j, fold in enumerate(folds)
    ]
    mean_G = np.mean(losses, axis=0)
    best = int(np.argmin(mean_G))
    prior = np.log(np.maximum(cohort.frequencies(classes), np.finfo(float).tiny))
    held_out = np.concatenate([np.flatnonzero(cohort.inner == fold) for fold in folds])
    apart = np.concatenate([logits_JGVC[j, best, cohort.inner == fold] for j, fold in enumerate(folds)]) - prior
    sharpness = _sharpness(apart, prior, cohort, held_out)
    search = pd.DataFrame({"penalty": penalties, "log_loss": mean_G})
    search = search.assign(**{f"log_loss_{fold}": loss_G for fold, loss_G in zip(folds, losses, strict=True)})
    search["chosen"] = search.index == best
    search["sharpness"] = np.where(search["chosen"], sharpness, np.nan)
    coefficients, intercepts = solved.coefficients[-1, best], solved.intercepts[-1, best]
    return {"coefficients": sharpness * coefficients, "intercepts": prior + sharpness * (intercepts - prior)}, search


def _sharpness(apart: np.ndarray, prior: np.ndarray, cohort: Cohort, rows: np.ndarray) -> float:
    """The factor, 0 to SHARPEST, on the logits' distance from the prior: the lowest log-loss of held-out rows."""

    def loss(factor: float) -> float:
        p_V1C = softmax(prior + factor * apart, axis=-1)[:, None]
        return float(unit_log_loss(p_V1C, cohort.y[rows], cohort.unit[rows])[0])

    return float(minimize_scalar(loss, bounds=(0, SHARPEST), method="bounded").x)
