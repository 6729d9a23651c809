"""Kind `classification`: one class of two or more, by class probabilities.

One convention for all arms. A *decision* (confusion matrix and what follows from it) is taken once per unit, on its
mean probability over repeats. A *loss* is averaged over a unit's repeats, then over a patient's units, then over
patients: it is the quantity that the paired test compares. A *ranking* (AUROC, AUPRC) is taken within each fold of each
repeat, because every fold has its own fitted model. All are averaged over the arm's seeds last.

Dimension letters: B resamples, S seeds, R repeats, U units, P patients, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError, listed
from echolung.evaluation import statistics
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds import metrics
from echolung.kinds.kind import Captioned, Kind, Scores
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, Word, one_label_per_patient, parted, selected, spelled

ROC = ["false_positive_rate", "true_positive_rate"]
TOLERANCE = 1e-3  # how far probabilities may sum from 1: half-precision softmax


class ClassificationTask(Task):
    """A label with two or more values."""

    classes: list[Word] = pydantic.Field(min_length=2)
    """Label values in the order of the class indices 0..K-1; with two, the second is the positive one."""
    exclude: list[Word] = []  # label values that are left out; a value neither here nor in `classes` is an error
    below: float | None = None
    """Of a label that is a number: what lies below is of the second class (an ejection fraction below 50: abnormal)."""

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Self:
        named = [*self.classes, *self.exclude]
        if len(set(named)) != len(named):
            raise ValueError(f"a label value is named twice in classes and exclude: {', '.join(named)}")
        if self.below is not None and len(self.classes) != 2:
            raise ValueError("`below` parts two classes")
        return self


class Classification(Kind):
    """Class probabilities p_0..p_{K-1}."""

    Settings = ClassificationTask
    metrics = metrics.METRICS
    paired = ("balanced_accuracy", "auroc", "macro_f1", "brier")
    loss = "brier"
    baseline = "majority"
    valid = "probabilities are finite, not negative and sum to 1"

    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        assert isinstance(task, ClassificationTask)
        rows = selected(task, manifest)
        known = [*task.classes, *task.exclude]
        rows["label"] = spelled(rows["label"], known)
        if task.below is not None:
            rows["label"] = parted(rows["label"], task.below, task.classes)
        strange = rows[~rows["label"].isin(known)]
        if len(strange):
            named = [f"{row.sample_id} ({row.label})" for row in strange.itertuples()]
            raise DataError(
                f"{len(strange)} videos have a '{task.label}' other than {', '.join(task.classes)}: {listed(named)}",
                "Correct the label, or add the value to the task's `classes` or `exclude`.",
            )
        rows = rows[~rows["label"].isin(task.exclude)].reset_index(drop=True)
        rows["stratum"] = rows["label"].map({name: k for k, name in enumerate(task.classes)}).astype("int64")
        rows["y"] = rows["stratum"].astype(float)
        for source in task.sources:
            present = set(rows.loc[rows["source"] == source, "label"])
            if absent := [name for name in task.classes if name not in present]:
                raise DataError(
                    f"no video of source '{source}' has {task.label} = {' or '.join(absent)}"
                    f" ({len(rows)} videos have one of {', '.join(task.classes)})",
                    "Add such videos, or take the class out of the task.",
                )
        return one_label_per_patient(task, rows)

    def columns(self, task: Task) -> list[str]:
        return [f"p_{k}" for k in range(len(classes_of(task)))]

    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1)
        return np.asarray(bad | (abs(values.sum(axis=1) - 1) > TOLERANCE))

    def strata(self, task: Task, y: np.ndarray) -> np.ndarray:
        return y.astype(np.int64)

    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        return metrics.brier_scores(y.astype(np.int64), values)

    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        y, p = units.y.astype(np.int64), units.values[key]
        confusion = np.stack([_confusion(units, of_seed, counts[:, units.patient]) for of_seed in p])
        found = {name: decision(confusion) for name, decision in metrics.DECISIONS.items()}
        found |= {name: units.means(loss(y, p), counts) for name, loss in metrics.LOSSES.items()}
        sides = [(y == k, p[..., k]) for k in _ranked(units)]
        rankings, notes = ranked(units, sides, counts, "fold-class pairs lack a class")
        found |= rankings
        return Scores({name: found[name] for name in metrics.METRICS}, notes)

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        return {"classes": by_class(units, key, counts), "confusion": confusions(units, key), "roc": roc(units, key)}

    def secondary(self, units: Units, key: Key, reference: Key) -> dict[str, statistics.Estimate]:
        """DeLong, where a patient has one of two labels and no two patients share a split group. Not against the
        baseline, whose scores differ between folds but never within one."""
        of_patient = units.per_patient(units.y)
        one_of_two = len(classes_of(units.task)) == 2 and set(of_patient) <= {0.0, 1.0}
        if not one_of_two or units.groups < len(units.group) or reference[1] == self.baseline:
            return {}
        of_units = (units.values[one][..., 1].mean(axis=(0, 1)) for one in (key, reference))
        both = (np.round(units.per_patient(p), 12) for p in of_units)
        return {"DeLong, AUROC of patients pooled over folds": statistics.delong(of_patient == 1, *both)}

    def bar(self, task: Task) -> dict[str, float]:
        return {"balanced_accuracy": 1 / len(classes_of(task))}

    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        classes = classes_of(task)
        answers = {"predicted": [classes[k] for k in values.argmax(axis=1)]}
        return pd.DataFrame(answers | {f"p_{name}": values[:, k] for k, name in enumerate(classes)})

    def figures(self) -> Mapping[str, Captioned]:
        from echolung.kinds.figures import CLASSIFICATION

        return CLASSIFICATION

    def plots(self, comparison: Comparison) -> dict[str, pd.DataFrame]:
        """confusion/<task>-<arm>: one row per unit and seed. roc/<task>-<class>: one column per arm."""
        found: dict[str, pd.DataFrame] = {}
        for (task, arm), table in judged_only(comparison, "confusion").groupby(["task", "arm"], sort=True):
            rows = table.loc[table.index.repeat(table["count"]), ["actual", "predicted"]]
            found[f"confusion/{task}-{arm}"] = rows
        for (task, label), table in judged_only(comparison, "roc").groupby(["task", "class"], sort=True):
            point = ["point", "false_positive_rate"]
            table = table.assign(point=table.groupby("arm").cumcount())
            curves = table.pivot(index=point, columns="arm", values="true_positive_rate")
            found[f"roc/{task}-{label}"] = curves.reindex(columns=comparison.order).reset_index(point[1])
        return found


def classes_of(task: Task) -> list[str]:
    """The class names of a classification task."""
    assert isinstance(task, ClassificationTask)
    return task.classes


def by_class(units: Units, key: Key, counts: np.ndarray) -> pd.DataFrame:
    """Sensitivity and specificity of each class with 95% intervals: of patients Wilson's, which does not shrink to a
    point at 100%, with as many trials as there are split groups; of videos by resampling."""
    y, classes = units.y.astype(np.int64), classes_of(units.task)
    confusion = np.stack([_confusion(units, p, counts[:, units.patient]) for p in units.values[key]])
    rows = []
    for name, function in (("sensitivity", metrics.sensitivity), ("specificity", metrics.specificity)):
        values = function(confusion).mean(axis=0)
        for k, label in enumerate(classes):
            of_class = y == k if name == "sensitivity" else y != k
            groups = len(np.unique(units.group[units.patient[of_class]]))
            estimate = float(values[0, k])
            if units.task.unit == "patient":
                low, high = statistics.wilson_interval(estimate * groups, groups)
            else:
                low, high = statistics.percentile_interval(values[1:, k])
            rows.append((label, name, estimate, low, high, int(of_class.sum())))
    return pd.DataFrame(rows, columns=["class", "metric", "estimate", "low", "high", "n_units"])


def confusions(units: Units, key: Key) -> pd.DataFrame:
    """Units per (actual, predicted) class, added up over the arm's seeds."""
    classes = classes_of(units.task)
    total = np.sum([_confusion(units, p, np.ones((1, len(units.y))))[0] for p in units.values[key]], axis=0)
    return pd.DataFrame(
        {"actual": actual, "predicted": predicted, "count": int(total[i, j]), "seeds": len(units.values[key])}
        for i, actual in enumerate(classes)
        for j, predicted in enumerate(classes)
    )


def roc(units: Units, key: Key) -> pd.DataFrame:
    """One-vs-rest ROC of each ranked class."""
    y, classes = units.y.astype(np.int64), classes_of(units.task)
    curves = [
        one_against_rest(units, y == k, units.values[key][..., k]).assign(**{"class": classes[k]})
        for k in _ranked(units)
    ]
    return pd.concat(curves, ignore_index=True)[["class", *ROC]]


def ranked(
    units: Units, sides: Sequence[tuple[np.ndarray, np.ndarray]], counts: np.ndarray, lacking: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """RANKINGS (S, B) within folds, the mean over `sides`: positive bool (U,), scores (S, R, U). With a note on the
    folds that lack one of the two, if there are any: "<n> of <m> <lacking> and are left out"."""
    found = {
        name: metrics.mean_defined(np.stack([units.within_folds(ranking, *side, counts) for side in sides], -1))
        for name, ranking in metrics.RANKINGS.items()
    }
    both = [0 < positive[mine].sum() < mine.sum() for positive, _ in sides for _, mine in units.outer_folds]
    note = f"{both.count(False)} of {len(both)} {lacking} and are left out"
    return found, {} if all(both) else dict.fromkeys(found, note)


def one_against_rest(units: Units, positive: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The vertical mean of ROC curves over seeds, repeats and folds: positive bool (U,), scores (S, R, U). Folds that
    lack a side are left out; no rows where all do."""
    from sklearn.metrics import roc_curve  # a second to import, which `predict` does without

    curves = [
        roc_curve(positive[mine], of_seed[repeat, mine], drop_intermediate=False)[:2]
        for of_seed in scores
        for repeat, mine in units.outer_folds
        if 0 < positive[mine].sum() < mine.sum()
    ]
    return pd.DataFrame(dict(zip(ROC, metrics.mean_roc(curves), strict=True)) if curves else None, columns=ROC)


def _ranked(units: Units) -> range:
    """The classes a ranking is made of: the second of two (the positive one), or each of three or more."""
    classes = len(classes_of(units.task))
    return range(1, 2) if classes == 2 else range(classes)


def _confusion(units: Units, of_seed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices (B, K, K) of the decisions on the mean probability over repeats; of_seed (R, U, K)."""
    predicted = of_seed.mean(axis=0).argmax(axis=-1)
    return metrics.confusion_matrix(units.y.astype(np.int64), predicted, of_seed.shape[-1], weights)
