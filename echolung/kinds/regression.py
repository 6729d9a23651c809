"""Kind `regression`: a number, with an interval that is meant to hold it (an ejection fraction, say).

The paired test's loss is the absolute error: it is in the units of the label, and a few large misses do not decide it.
Errors are averaged over a unit's repeats, then over a patient's units, then over patients. A *ranking* (AUROC of "below
a cut-off", Pearson's r) is taken within each fold, as in classification: constants that differ between folds would
otherwise correlate with what they were fitted without.

Dimension letters: B resamples, S seeds, R repeats, U units, P patients.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError, listed
from echolung.evaluation import statistics
from echolung.kinds import metrics
from echolung.kinds.kind import Captioned, Kind, Scores
from echolung.kinds.metrics import Metric
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, one_label_per_patient, selected

Z = 1.96  # limits of agreement lie this many standard deviations from the bias (Bland & Altman 1986)


class RegressionTask(Task):
    """A label that is a number."""

    cutoffs: tuple[float, ...] = (50.0, 40.0)
    """How well "below this value" is ranked is told for each; percent of an ejection fraction."""
    coverage: float = pydantic.Field(0.9, gt=0, lt=1)  # share of the units whose label an answer's interval should hold
    quantiles: int = pydantic.Field(4, ge=1)  # folds are kept even in this many groups of the label

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.cutoffs)) != len(self.cutoffs):
            raise ValueError("a cut-off is named twice")
        return self


class Regression(Kind):
    """A prediction and the ends of its interval."""

    Settings = RegressionTask
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mae": Metric("absolute error", False),
        "rmse": Metric("RMSE", False),
        "r2": Metric("R²", True),
        "auroc": Metric("AUROC below the cut-offs", True),
        "pearson": Metric("Pearson's r", True),
        "coverage": Metric("labels in their interval", True),
        "width": Metric("width of the interval", False),
    }
    paired = ("mae", "rmse", "r2", "auroc")
    loss = "mae"
    baseline = "constant"
    valid = "the prediction is finite and lies in its interval"

    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        settings = regression_of(task)
        rows = selected(task, manifest)
        rows["y"] = pd.to_numeric(rows["label"], errors="coerce").astype(float)
        strange = rows[~np.isfinite(rows["y"])]
        if len(strange):
            named = [f"{row.sample_id} ({row.label})" for row in strange.itertuples()]
            problem = f"{len(strange)} videos have a '{task.label}' that is no finite number: {listed(named)}"
            raise DataError(problem, "Correct the label.")
        edges = np.quantile(rows["y"], np.arange(1, settings.quantiles) / settings.quantiles)
        rows["stratum"] = np.searchsorted(np.unique(edges), rows["y"], side="right").astype("int64")
        return one_label_per_patient(task, rows)

    def columns(self, task: Task) -> list[str]:
        return ["prediction", "low", "high"]

    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        prediction, low, high = values.T
        return np.asarray(~(np.isfinite(prediction) & (low <= prediction) & (prediction <= high)))

    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.abs(values[..., 0] - y)

    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        y, (predicted, low, high) = units.y, np.moveaxis(units.values[key], -1, 0)
        wide = np.isinf(low) | np.isinf(high)  # too few training units to bound an error
        squares = units.means((predicted - y) ** 2, counts)
        mean, square = (units.means(part[None, None], counts) for part in (y, y**2))
        spread = square - mean**2
        known = np.where(spread > 1e-12, spread, np.nan)
        found = {
            "mae": units.means(np.abs(predicted - y), counts),
            "rmse": np.sqrt(squares),
            "r2": 1 - squares / known,
            "pearson": units.within_folds(correlation, y, predicted, counts),
            "coverage": units.means((low <= y) & (y <= high), counts),
            "width": units.means(np.where(wide, np.nan, high - np.where(wide, 0, low)), counts),
        }
        areas = [of_cutoff(units, key, counts, cutoff) for cutoff in regression_of(units.task).cutoffs]
        every = np.stack([*areas, np.full_like(found["mae"], np.nan)])  # no cut-offs: undefined
        found["auroc"] = metrics.mean_defined(np.moveaxis(every, 0, -1))
        return Scores({name: found[name] for name in self.metrics})

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        """agreement: bias, standard deviation and limits of the errors; cutoffs: an AUROC each; points: each unit."""
        predicted = units.values[key][..., 0].mean(axis=(0, 1))
        errors = predicted - units.y
        bias, square = (units.means(part[None, None], counts)[0] for part in (errors, errors**2))
        sd = np.sqrt(np.maximum(square - bias**2, 0))
        parts = {"bias": bias, "SD": sd, "lower limit": bias - Z * sd, "upper limit": bias + Z * sd}
        cutoffs = {
            f"AUROC of {units.task.label} < {cutoff:g}": of_cutoff(units, key, counts, cutoff).mean(axis=0)
            for cutoff in regression_of(units.task).cutoffs
        }
        return {
            "agreement": _estimates(parts),
            "cutoffs": _estimates(cutoffs),
            "points": pd.DataFrame({"true": units.y, "predicted": predicted}),
        }

    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, columns=["predicted", "low", "high"])

    def figures(self) -> Mapping[str, Captioned]:
        from echolung.kinds.figures import REGRESSION

        return REGRESSION


def regression_of(task: Task) -> RegressionTask:
    """A task of this kind."""
    assert isinstance(task, RegressionTask)
    return task


def of_cutoff(units: Units, key: Key, counts: np.ndarray, cutoff: float) -> np.ndarray:
    """AUROC (S, B) of "the label is below `cutoff`" by the prediction, as the mean over folds."""

    def area(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return metrics.auroc(y < cutoff, -predicted, weights)

    return units.within_folds(area, units.y, units.values[key][..., 0], counts)


def correlation(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r (B,) of y (n,) and predicted (n,) under weights (B, n); NaN where either does not vary."""
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)
    mean_y, mean_p = share @ y, share @ predicted
    spreads = [share @ part**2 - mean**2 for part, mean in ((y, mean_y), (predicted, mean_p))]
    spread = np.sqrt(np.maximum(spreads[0], 0) * np.maximum(spreads[1], 0))
    return np.where(spread > 1e-9, (share @ (y * predicted) - mean_y * mean_p) / np.maximum(spread, 1e-9), np.nan)


def _estimates(parts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Rows of metric, estimate, low and high from values (B,), the first of which counts every patient once."""
    rows = [(name, float(one[0]), *statistics.percentile_interval(one[1:])) for name, one in parts.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate", "low", "high"])
