"""The training rows of a fit as arrays: classes, patients, inner folds and weights.

Dimension letters: V videos, U units of decision, G configurations, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Cohort:
    """Videos to train on (V,)."""

    sample_ids: list[str]
    y: np.ndarray
    """Class indices, int64."""
    patient: np.ndarray
    """Patients as numbers 0..P-1."""
    inner: np.ndarray
    """The inner fold that holds a video out; negative: it always trains."""
    by_patient: bool
    """The unit of decision is the patient."""

    @classmethod
    def of(cls, training: pd.DataFrame, unit: str) -> Cohort:
        """From the training rows of `Method.fit`."""
        return cls(
            sample_ids=[str(name) for name in training["sample_id"]],
            y=training["y"].to_numpy(np.int64),
            patient=pd.factorize(training["patient_id"], sort=True)[0],
            inner=training["inner"].to_numpy(np.int64),
            by_patient=unit == "patient",
        )

    @property
    def folds(self) -> np.ndarray:
        """The inner folds that are held out in turn."""
        return np.unique(self.inner[self.inner >= 0])

    def weights(self, held_out: int | None = None) -> np.ndarray:
        """How much each video counts in training (V,), with mean 1; none of the inner fold `held_out` does.

        Every patient counts the same where the unit is the patient, every video where it is the video.
        """
        counts = np.bincount(self.patient)[self.patient] if self.by_patient else np.ones(len(self.y))
        weights = np.where(self.inner == held_out, 0.0, 1.0 / counts)
        return weights * (len(weights) / weights.sum())

    def frequencies(self, classes: int) -> np.ndarray:
        """Class frequencies (C,) under the weights."""
        counts = np.bincount(self.y, weights=self.weights(), minlength=classes)
        return np.asarray(counts / counts.sum())

    def log_loss(self, fold: int, p_VGC: np.ndarray) -> np.ndarray:
        """Mean log-loss (G,) of probabilities of the videos that an inner fold holds out, on the unit of decision."""
        held_out = np.flatnonzero(self.inner == fold)
        unit = self.patient[held_out] if self.by_patient else held_out
        return unit_log_loss(p_VGC, self.y[held_out], unit)


def unit_log_loss(p_VGC: np.ndarray, y_V: np.ndarray, unit_V: np.ndarray) -> np.ndarray:
    """Mean log-loss (G,) over units of decision, each answering with the mean probability of its videos."""
    _, first, of_video = np.unique(unit_V, return_index=True, return_inverse=True)
    p_UGC = np.zeros((len(first), *p_VGC.shape[1:]))
    np.add.at(p_UGC, of_video, p_VGC)
    p_UGC /= np.bincount(of_video)[:, None, None]
    p_UG = p_UGC[np.arange(len(first)), :, y_V[first]]
    return -np.log(np.maximum(p_UG, np.finfo(np.float64).tiny)).mean(axis=0)
