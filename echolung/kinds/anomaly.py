"""Kind `anomaly`: how unlike the normal ones a recording is, by methods that see normal ones alone.

A prediction is a distance, and the share of the training normals that lie no farther, each measured while its inner
fold was left out. A *ranking* is made of the distances within each fold of each repeat. A *decision* is made once per
unit: it is flagged if its mean share over repeats exceeds the task's `specificity`. No anomaly, and nothing of the test
fold, has a part in that threshold.

Dimension letters: B resamples, S seeds, R repeats, U units, P patients.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError, listed
from echolung.kinds import metrics
from echolung.kinds.classification import one_against_rest, ranked
from echolung.kinds.kind import Captioned, Kind, Scores
from echolung.kinds.metrics import Metric
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, Word, one_label_per_patient, parted, selected, spelled


class AnomalyTask(Task):
    """A label of which one value is normal."""

    normal: Word  # its value for normal recordings; every other one is an anomaly
    exclude: list[Word] = []  # label values that are left out
    below: float | None = None
    """Of a label that is a number: what lies below is an anomaly, every other value is `normal`."""
    specificity: float = pydantic.Field(0.9, gt=0, lt=1)  # the share of normals that must not be flagged


class Anomaly(Kind):
    """Columns: distance, share."""

    Settings = AnomalyTask
    metrics: ClassVar[Mapping[str, Metric]] = {
        "auroc": Metric("AUROC", True),
        "auprc": Metric("AUPRC", True),
        "sensitivity": Metric("sensitivity", True),
        "specificity": Metric("specificity", True),
        "rank_error": Metric("rank error", False),
    }
    paired = ("auroc", "auprc", "sensitivity", "rank_error")
    loss = "rank_error"
    baseline = "indifferent"
    valid = "distance and share are finite, not negative, and a share is at most 1"

    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        assert isinstance(task, AnomalyTask)
        rows = selected(task, manifest)
        if task.below is not None:
            names = [task.normal, f"not {task.normal}"]
            rows["label"] = parted(rows["label"], task.below, names)
            if strange := sorted(set(rows["label"]) - {*names, *task.exclude}):
                problem = f"some videos have a '{task.label}' that is no number: {listed(strange)}"
                raise DataError(problem, "Correct the label, or add the value to the task's `exclude`.")
        rows["label"] = spelled(rows["label"], [task.normal, *task.exclude])
        rows = rows[~rows["label"].isin(task.exclude)].reset_index(drop=True)
        rows["stratum"] = (rows["label"] != task.normal).astype("int64")
        rows["y"] = rows["stratum"].astype(float)
        for source in task.sources:
            sides = set(rows.loc[rows["source"] == source, "stratum"])
            if 0 not in sides or (source == task.source and 1 not in sides):
                what = "other than" if 0 in sides else "="
                raise DataError(
                    f"no video of source '{source}' has {task.label} {what} '{task.normal}'",
                    "Correct the task's `normal` or `exclude`, or add such videos.",
                )
        return one_label_per_patient(task, rows)

    def columns(self, task: Task) -> list[str]:
        return ["distance", "share"]

    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        return np.asarray(~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (values[:, 1] > 1))

    def strata(self, task: Task, y: np.ndarray) -> np.ndarray:
        return y.astype(np.int64)

    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        """|share - y|: for an anomaly, how many of the training normals lie farther; .5 on average for a normal."""
        return np.abs(values[..., 1] - y)

    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        values, weights = units.values[key], counts[:, units.patient]
        flagged = _flagged(units.task, values.mean(axis=1)).astype(int)
        confusion = [metrics.confusion_matrix(units.y.astype(int), of_seed, 2, weights) for of_seed in flagged]
        recall = metrics.sensitivity(np.stack(confusion))
        sides = [(units.y == 1, values[..., 0])]
        found, notes = ranked(units, sides, counts, "folds lack normals or anomalies")
        found |= {"specificity": recall[..., 0], "sensitivity": recall[..., 1]}
        found["rank_error"] = units.means(self.losses(units.task, units.y, values), counts)
        return Scores({name: found[name] for name in self.metrics}, notes)

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        assert isinstance(units.task, AnomalyTask)
        curve = one_against_rest(units, units.y == 1, units.values[key][..., 0])
        curve.insert(0, "class", f"not {units.task.normal}")
        return {"roc": curve}

    def bar(self, task: Task) -> dict[str, float]:
        return {"auroc": 0.5}

    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        assert isinstance(task, AnomalyTask)
        words = np.where(_flagged(task, values), f"not {task.normal}", task.normal)
        return pd.DataFrame({"predicted": words, "share_of_normals_closer": values[:, 1], "distance": values[:, 0]})

    def figures(self) -> Mapping[str, Captioned]:
        from echolung.kinds.figures import roc_curves

        caption = "Of the distance from the normals. A curve is the mean of the curves within folds."
        return {"roc": Captioned(roc_curves, "ROC curves of anomalies", caption)}


def _flagged(task: Task, values: np.ndarray) -> np.ndarray:
    assert isinstance(task, AnomalyTask)
    return np.asarray(values[..., 1] > task.specificity)
