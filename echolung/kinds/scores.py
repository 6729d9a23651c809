"""Every metric of one arm on one task: resampled, by fold, by class, and as curves.

One convention for all arms. A *decision* (confusion matrix and what follows from it) is taken once per unit, on its
mean probability over repeats. A *loss* is averaged over a unit's repeats, then over a patient's units, then over
patients, so that it is the very quantity the paired test compares. A *ranking* (AUROC, AUPRC) is taken within each fold
of each repeat, because every fold has its own fitted model. All are averaged over the arm's seeds last.

Dimensions: B resamples, S seeds, R repeats, U units, P patients, G split groups, K
classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from echolung.evaluation import statistics
from echolung.evaluation.predictions import TaskPredictions
from echolung.kinds import metrics

Key = tuple[str, str]
"""(arm, probe)"""


@dataclass(frozen=True)
class Scores:
    """An arm's metrics: `values[metric]` is (S, B), one row per seed, the first column the patients as they are."""

    values: dict[str, np.ndarray]
    undefined: int
    """(repeat, fold, class) triples that no ranking exists for, because the fold lacks the class or its rest."""
    rankings: int
    """How many such triples there are altogether."""


def counts_of(task: TaskPredictions, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each patient counts (1 + B, P): first the patients as they are, then the stratified resamples.

    Split groups are drawn: patients who share videos come and go together.
    """
    strata = statistics.patient_strata(task.group[task.patient], task.y)
    drawn = statistics.resample_counts(strata, resamples, generator)
    return np.vstack([np.ones(len(task.group)), drawn[:, task.group]])


def resampled(task: TaskPredictions, key: Key, counts: np.ndarray) -> Scores:
    """All metrics under every row of `counts` (B, P)."""
    probabilities = task.probabilities[key]
    weights = counts[:, task.patient]
    repeats = len(task.folds)
    # A fold of another repeat is another fold: all stand side by side, (R * U) units long.
    y, of_repeats = np.tile(task.y, repeats), np.tile(weights, repeats)
    folds = (task.folds + (task.folds.max() + 1) * np.arange(repeats)[:, None]).ravel()
    values: dict[str, list[np.ndarray]] = {name: [] for name in metrics.METRICS}
    undefined = 0
    for of_seed in probabilities:
        confusion = _confusion(task, of_seed, weights)
        for name, decision in metrics.DECISIONS.items():
            values[name].append(decision(confusion))
        for name, loss in metrics.LOSSES.items():
            values[name].append(counts @ _per_patient(task, loss(task.y, of_seed).mean(axis=0)) / counts.sum(axis=1))
        for name, ranking in metrics.RANKINGS.items():
            value, undefined = metrics.within_folds(ranking, y, of_seed.reshape(len(y), -1), folds, of_repeats)
            values[name].append(value)
    rankings = len(np.unique(folds)) * len(_ranked(task))
    return Scores({name: np.stack(seeds) for name, seeds in values.items()}, undefined, rankings)


def patient_log_losses(task: TaskPredictions, key: Key) -> np.ndarray:
    """Each patient's mean log-loss over his units and over all repeats and seeds (P,)."""
    return _per_patient(task, metrics.log_losses(task.y, task.probabilities[key]).mean(axis=(0, 1)))


def per_group(task: TaskPredictions, values: np.ndarray) -> np.ndarray:
    """What each split group contributes to the mean over patients: (P,) -> (G,), with the same mean."""
    sums = np.bincount(task.group, values)
    return sums * (len(sums) / len(values))


def patient_scores(task: TaskPredictions, key: Key) -> np.ndarray:
    """Each patient's mean probability of class 1 over his units and over all repeats and seeds (P,)."""
    return np.round(_per_patient(task, task.probabilities[key][..., 1].mean(axis=(0, 1))), 12)  # as in predictions


def by_fold(task: TaskPredictions, key: Key) -> pd.DataFrame:
    """One row per (repeat, fold, metric): the mean over seeds on that fold alone; `step` numbers the folds.

    A class absent from a fold is left out of its means; a ranking that no class allows is NaN.
    """
    rows = []
    for repeat, folds in enumerate(task.folds):
        for fold in np.unique(folds):
            held_out = folds == fold
            for name, value in _on_fold(task, task.probabilities[key][:, repeat, held_out], held_out).items():
                step = repeat * (int(task.folds.max()) + 1) + int(fold)
                rows.append(
                    {
                        "repeat": repeat,
                        "fold": int(fold),
                        "step": step,
                        "metric": name,
                        "value": value,
                        "n_patients": len(np.unique(task.patient[held_out])),
                        "n_units": int(held_out.sum()),
                    }
                )
    return pd.DataFrame(rows)


def _on_fold(task: TaskPredictions, probabilities: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Every metric of the units `held_out`, mean over seeds; probabilities (S, units, K)."""
    y, patient = task.y[held_out], task.patient[held_out]
    even = 1 / np.bincount(patient)[patient]
    found: dict[str, list[float]] = {name: [] for name in metrics.METRICS}
    for p in probabilities:
        confusion = metrics.confusion_matrix(y, p.argmax(axis=-1), len(task.classes))
        for name, decision in metrics.DECISIONS.items():
            found[name].append(float(decision(confusion)))
        for name, loss in metrics.LOSSES.items():
            found[name].append(float(np.average(loss(y, p), weights=even)))
        for name, ranking in metrics.RANKINGS.items():
            areas = np.array([ranking(y == k, p[:, k], np.ones((1, len(y))))[0] for k in _ranked(task)])
            found[name].append(float(np.mean(areas[~np.isnan(areas)])) if (~np.isnan(areas)).any() else float("nan"))
    return {name: float(np.mean(values)) for name, values in found.items()}


def by_class(task: TaskPredictions, key: Key, counts: np.ndarray) -> pd.DataFrame:
    """Sensitivity and specificity of each class with 95% intervals.

    Where the unit is the patient these are proportions of patients and the interval is Wilson's, which does not shrink
    to a point at 100%, with as many trials as there are split groups; where it is the video, these are resampled.
    """
    confusion = np.stack([_confusion(task, p, counts[:, task.patient]) for p in task.probabilities[key]])
    rows = []
    for name, function in (("sensitivity", metrics.sensitivity), ("specificity", metrics.specificity)):
        values = function(confusion).mean(axis=0)
        for k, label in enumerate(task.classes):
            of_class = task.y == k if name == "sensitivity" else task.y != k
            units, groups = int(of_class.sum()), len(np.unique(task.group[task.patient[of_class]]))
            estimate = float(values[0, k])
            if task.unit == "patient":
                low, high = statistics.wilson_interval(estimate * groups, groups)
            else:
                low, high = statistics.percentile_interval(values[1:, k])
            row = {"class": label, "metric": name, "estimate": estimate, "low": low, "high": high, "n_units": units}
            rows.append(row)
    return pd.DataFrame(rows)


def confusions(task: TaskPredictions, key: Key) -> pd.DataFrame:
    """Units per (actual, predicted) class, added up over the arm's seeds."""
    total = sum(_confusion(task, p, np.ones((1, len(task.y))))[0] for p in task.probabilities[key])
    return pd.DataFrame(
        {"actual": actual, "predicted": predicted, "count": int(np.asarray(total)[i, j]), "seeds": len(task.seeds[key])}
        for i, actual in enumerate(task.classes)
        for j, predicted in enumerate(task.classes)
    )


def roc(task: TaskPredictions, key: Key) -> pd.DataFrame:
    """One-vs-rest ROC of each ranked class: the vertical mean of its curves over seeds, repeats and folds."""
    frames = []
    for k in _ranked(task):
        curves = []
        for of_seed in task.probabilities[key]:
            for p, folds in zip(of_seed, task.folds, strict=True):
                for fold in np.unique(folds):
                    positive = task.y[folds == fold] == k
                    if positive.any() and not positive.all():
                        curves.append(metrics.roc_points(positive, p[folds == fold, k]))
        if curves:
            false_rate, true_rate = metrics.mean_roc(curves)
            curve = {"class": task.classes[k], "false_positive_rate": false_rate, "true_positive_rate": true_rate}
            frames.append(pd.DataFrame(curve))
    columns = ["class", "false_positive_rate", "true_positive_rate"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _ranked(task: TaskPredictions) -> range:
    return metrics.ranked_classes(len(task.classes))


def _confusion(task: TaskPredictions, of_seed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices (B, K, K) of the decisions on the mean probability over repeats; of_seed (R, U, K)."""
    predicted = of_seed.mean(axis=0).argmax(axis=-1)
    return metrics.confusion_matrix(task.y, predicted, len(task.classes), weights)


def _per_patient(task: TaskPredictions, values: np.ndarray) -> np.ndarray:
    """Mean of each patient's units: (U,) -> (P,)."""
    return np.bincount(task.patient, values) / np.bincount(task.patient)
