"""The training rows of a fit as arrays: classes, units of decision, inner folds and weights. Dimension letters: V
videos, U units of decision, G configurations, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Cohort:
    """Videos to train on (V,)."""

    sample_ids: list[str]
    y: np.ndarray  # class indices, int64
    unit: np.ndarray  # units of decision as numbers 0..U-1: the videos, or their patients
    inner: np.ndarray  # the inner fold that holds a video out; negative: it always trains

    @classmethod
    def of(cls, training: pd.DataFrame, unit: str) -> Cohort:
        """From the training rows of `Method.fit`."""
        return cls(
            sample_ids=[str(name) for name in training["sample_id"]],
            y=training["y"].to_numpy(np.int64),
            unit=pd.factorize(training["patient_id"], sort=True)[0] if unit == "patient" else np.arange(len(training)),
            inner=training["inner"].to_numpy(np.int64),
        )

    @property
    def folds(self) -> np.ndarray:
        """The inner folds that are held out in turn."""
        return np.unique(self.inner[self.inner >= 0])

    def weights(self, held_out: int | None = None) -> np.ndarray:
        """How much each video counts in training (V,), with mean 1; none of the inner fold `held_out` does. Every unit
        counts the same."""
        weights = np.where(self.inner == held_out, 0.0, 1.0 / np.bincount(self.unit)[self.unit])
        return weights * (len(weights) / weights.sum())

    def frequencies(self, classes: int) -> np.ndarray:
        """Class frequencies (C,) under the weights."""
        counts = np.bincount(self.y, weights=self.weights(), minlength=classes)
        return np.asarray(counts / counts.sum())

    def log_loss(self, fold: int, p_VGC: np.ndarray) -> np.ndarray:
        """Mean log-loss (G,) of probabilities of the videos that an inner fold holds out, on the unit of decision."""
        held_out = self.inner == fold
        return unit_log_loss(p_VGC, self.y[held_out], self.unit[held_out])


def of_units(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The mean of `values` (V, ...) over the rows of each unit, (V,) numbers: (U, ...)."""
    _, of_row = np.unique(unit, return_inverse=True)
    sums = np.zeros((of_row.max() + 1, *values.shape[1:]))
    np.add.at(sums, of_row, values)
    return np.asarray(sums / np.bincount(of_row).reshape(-1, *[1] * (values.ndim - 1)))


def unit_log_loss(p_VGC: np.ndarray, y_V: np.ndarray, unit_V: np.ndarray) -> np.ndarray:
    """Mean log-loss (G,) over units of decision, each answering with the mean probability of its videos."""
    first = np.unique(unit_V, return_index=True)[1]
    p_UG = of_units(p_VGC, unit_V)[np.arange(len(first)), :, y_V[first]]
    return -np.log(np.maximum(p_UG, np.finfo(np.float64).tiny)).mean(axis=0)
