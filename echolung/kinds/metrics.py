"""Scores of class probabilities: plain numpy, vectorised over resamples.

Scores of decisions are functions of a confusion matrix, so a thousand bootstrap resamples are one matrix product that
gives a thousand confusion matrices. Scores of rankings take a weight per unit, so a resample is a row of weights.

Dimensions: n units (videos or patients), B resamples, K classes, F folds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST_PROBABILITY = 1e-7
"""Log-loss clips the true class's probability here (single precision's resolution): one unit costs at most 16.1."""

Ranking = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(positive (n,) bool, score (n,), weights (B, n)) -> value per resample (B,)."""


@dataclass(frozen=True)
class Metric:
    """How a metric is named for people and which way is better."""

    label: str
    higher_is_better: bool


METRICS = {
    "balanced_accuracy": Metric("balanced accuracy", True),
    "auroc": Metric("AUROC", True),
    "macro_f1": Metric("macro-F1", True),
    "log_loss": Metric("log-loss", False),
    "auprc": Metric("AUPRC", True),
    "mcc": Metric("MCC", True),
    "brier": Metric("Brier score", False),
}


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Counts (B, actual, predicted) under each row of `weights` (B, n)."""
    cells = np.zeros((len(y), classes * classes))
    cells[np.arange(len(y)), y * classes + predicted] = 1
    return (weights @ cells).reshape(-1, classes, classes)


def sensitivity(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class [..., K]: TP / (TP + FN); NaN for a class without units."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def specificity(confusion: np.ndarray) -> np.ndarray:
    """Of each class against the rest [..., K]: TN / (TN + FP); NaN where every unit is of the class."""
    total = confusion.sum(axis=(-2, -1))[..., None]
    negatives = total - confusion.sum(axis=-1)
    false_positives = confusion.sum(axis=-2) - _diagonal(confusion)
    return _ratio(negatives - false_positives, negatives)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that have units (Brodersen et al. 2010, doi 10.1109/ICPR.2010.764)."""
    return mean_defined(sensitivity(confusion))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean over classes of 2 TP / (2 TP + FP + FN); a class neither present nor predicted is left out."""
    return mean_defined(_ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2)))


def mcc(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation for K classes, R_K of Gorodkin 2004 (doi 10.1016/j.compbiolchem.2004.09.006). 0 where one
    class takes every prediction or every unit."""
    total = confusion.sum(axis=(-2, -1))
    actual, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    covariance = _diagonal(confusion).sum(axis=-1) * total - (actual * predicted).sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (actual**2).sum(axis=-1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


DECISIONS = {"balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1, "mcc": mcc}
"""Metrics of a confusion matrix [..., K, K] -> [...]."""


def log_losses(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-log p(true class) of each unit: y (n,), probabilities (..., n, K) -> (..., n); clipped, in nats."""
    chosen = np.take_along_axis(probabilities, np.broadcast_to(y, probabilities.shape[:-1])[..., None], axis=-1)[..., 0]
    return -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))


def brier_scores(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared distance of each unit's probabilities from the truth: (n,), (..., n, K) -> (..., n). Of two classes
    (p - y)^2, from 0 to 1; of more Brier's sum over classes, from 0 to 2 (Brier 1950, Monthly Weather Review 78)."""
    classes = probabilities.shape[-1]
    distances = ((probabilities - np.eye(classes)[y]) ** 2).sum(axis=-1)
    return distances / 2 if classes == 2 else distances


LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"log_loss": log_losses, "brier": brier_scores}
"""Metrics that are a mean of one value per unit."""


def auroc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (Hanley & McNeil 1982, doi 10.1148/radiology.143.1.7063747), shapes as in `Ranking`:
    P(score of a positive > of a negative) + half of P(equal); NaN where a resample lacks either side."""
    first, second = score[positive][:, None], score[~positive][None, :]
    concordant = (first > second) + 0.5 * (first == second)
    of_positive, of_negative = weights[:, positive], weights[:, ~positive]
    wins = ((of_positive @ concordant) * of_negative).sum(axis=1)
    return _ratio(wins, of_positive.sum(axis=1) * of_negative.sum(axis=1))


def average_precision(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUPRC as average precision per resample: sum over distinct thresholds of (gain in recall) x precision. Shapes as
    `auroc`; NaN where a resample lacks either side."""
    order = np.argsort(-score, kind="stable")
    ranked, chosen = score[order], weights[:, order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    taken = np.cumsum(chosen, axis=1)[:, last_of_tie]
    found = np.cumsum(chosen * positive[order], axis=1)[:, last_of_tie]
    area = (np.diff(found, axis=1, prepend=0) * found / np.where(taken > 0, taken, 1)).sum(axis=1)
    return np.where(taken[:, -1] > found[:, -1], _ratio(area, found[:, -1]), np.nan)


RANKINGS: dict[str, Ranking] = {"auroc": auroc, "auprc": average_precision}
"""Metrics of an order of scores; scores of different fitted models must never be mixed in them."""


def mean_roc(curves: list[tuple[np.ndarray, np.ndarray]], points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """Vertical average of ROC curves (Fawcett 2006, doi 10.1016/j.patrec.2005.10.010). Returns (0, 0) and then `points`
    evenly spaced false-positive rates with the mean true-positive rate at each."""
    grid = np.linspace(0, 1, points)
    # On a vertical rise np.interp answers with its top, and between rises it starts there: the curve itself.
    heights = [np.interp(grid, false_rate, true_rate) for false_rate, true_rate in curves]
    return np.append(0.0, grid), np.append(0.0, np.mean(heights, axis=0))


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
