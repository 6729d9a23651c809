"""The method `ejection-fraction-class`: which side of a cut an ejection fraction lies on, from masks and volumes.

A logistic curve makes a probability of the fraction. It never rises with the fraction, and rests on the patients of the
inner fold that stopped the network: few, and often parted, so its targets are (n + 1) / (n + 2) and 1 / (n + 2), not 1
and 0 (Platt 1999).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from echolung.core.errors import SettingsError
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.regression import RegressionTask
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort, of_units
from echolung.methods.ejection_fraction import EjectionFraction

POINTS = 10.0  # percent of ejection fraction that are one step of the curve


class EjectionClass(EjectionFraction):
    """Its `facts` also hold the curve: cut, in percent; odds at the cut; slope, not negative."""

    kinds = ("classification",)
    code = (*EjectionFraction.code, "echolung.methods.ejection_fraction", "echolung.methods.cohort")

    @classmethod
    def fit(
        cls, settings: Any, task: Task, recordings: Recordings, training: pd.DataFrame, seed: int, directory: Path
    ) -> Self:
        if not isinstance(task, ClassificationTask) or task.below is None:
            raise SettingsError(
                f"ejection-fraction-class tells on which side of a cut a number lies, no classes of '{task.label}'",
                "Give the task two classes and `below`, or leave the method out of the study.",
            )
        shared = task.model_dump(include={"source", "label", "unit", "folds", "train"})
        number = RegressionTask.parse({"kind": "regression", **shared}, "the ejection fraction")
        percent = recordings.manifest(list(training["sample_id"]))[task.label].astype(float).to_numpy()
        one = super().fit(settings, number, recordings, training.assign(y=percent), seed, directory)
        cohort = Cohort.of(training, task.unit)
        rows = np.flatnonzero(cohort.inner == min(cohort.folds, default=-2))
        told = one.percent(recordings, [cohort.sample_ids[at] for at in rows])
        known = np.stack([(task.below - told) / POINTS, cohort.y[rows]], axis=1)
        odds, slope = curve(*of_units(known, cohort.unit[rows]).T)
        one.facts |= {"cut": task.below, "odds": odds, "slope": slope}
        return one

    def percent(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        """Ejection fractions (n,)."""
        return super().predict(recordings, sample_ids)[:, 0]

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        below = (self.facts["cut"] - self.percent(recordings, sample_ids)) / POINTS
        p = expit(self.facts["odds"] + self.facts["slope"] * below)
        return np.stack([1 - p, p], axis=1)


def curve(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Log-odds at x = 0 and slope, at least 0, of the logistic curve that is likeliest for x (n,) of classes y (n,)."""
    positive, negative = y.sum(), len(y) - y.sum()
    target = np.where(y > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[0] + at[1] * x
        error = expit(z) - target
        return float((np.logaddexp(0, z) - target * z).sum()), np.array([error.sum(), (error * x).sum()])

    found = minimize(loss, np.array([0.0, 1.0]), jac=True, bounds=[(None, None), (0, None)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])
