"""Kind `anomaly`: how unlike the normal ones a recording is, by methods that see normal ones alone.

A prediction is a distance, and the share of the training normals that lie no farther, each measured while its inner
fold was left out. A *ranking* is made of the distances within each fold of each repeat. A *decision* is made once per
unit: it is flagged if its mean share over repeats exceeds the task's `specificity`. No anomaly, and nothing of the test
fold, has a part in that threshold.

Dimension letters: B resamples, S seeds, R repeats, U units, P patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.kinds import metrics
from echolung.kinds.classification import one_against_rest
from echolung.kinds.kind import Captioned, Kind, Scores
from echolung.kinds.metrics import Metric
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, one_label_per_patient, selected, spelled, yaml_word


class AnomalyTask(Task):
    """A label of which one value is normal."""

    normal: str
    """Its value for normal recordings; every other one is an anomaly."""
    exclude: list[str] = []
    """Label values that are left out."""
    specificity: float = pydantic.Field(0.9, gt=0, lt=1)
    """The share of normals that must not be flagged."""

    @pydantic.field_validator("normal", "exclude", mode="before")
    @classmethod
    def _words(cls, values: Any) -> Any:
        return [yaml_word(one) for one in values] if isinstance(values, list) else yaml_word(values)


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
        y, weights, repeats = units.y.astype(int), counts[:, units.patient], len(units.folds)
        folds = (units.folds + (units.folds.max() + 1) * np.arange(repeats)[:, None]).ravel()
        every_y, all_folds = np.tile(y, repeats), (folds, np.tile(weights, repeats))
        values: dict[str, list[np.ndarray]] = {name: [] for name in self.metrics}
        undefined = 0
        for of_seed in units.values[key]:
            flagged = _flagged(units.task, of_seed.mean(axis=0)).astype(int)
            recall = metrics.sensitivity(metrics.confusion_matrix(y, flagged, 2, weights))
            values["specificity"].append(recall[:, 0])
            values["sensitivity"].append(recall[:, 1])
            of_patient = units.per_patient(self.losses(units.task, units.y, of_seed).mean(axis=0))
            values["rank_error"].append(counts @ of_patient / counts.sum(axis=1))
            distance = of_seed[..., 0].ravel()
            for name, ranking in metrics.RANKINGS.items():
                value, undefined = metrics.within_folds(
                    ranking, every_y, np.column_stack([-distance, distance]), *all_folds
                )
                values[name].append(value)
        note = f"{undefined} of {len(np.unique(folds))} folds lack normals or anomalies and are left out"
        notes = dict.fromkeys(metrics.RANKINGS, note) if undefined else {}
        return Scores({name: np.stack(seeds) for name, seeds in values.items()}, notes)

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

    def answer_columns(self, task: Task) -> dict[str, str]:
        return {"predicted": "string", "share_of_normals_closer": "double", "distance": "double"}

    def figures(self) -> Mapping[str, Captioned]:
        from echolung.kinds.classification_figures import roc_curves

        caption = "Of the distance from the normals. A curve is the mean of the curves within folds."
        return {"roc": Captioned(roc_curves, "ROC curves of anomalies", caption)}


def _flagged(task: Task, values: np.ndarray) -> np.ndarray:
    assert isinstance(task, AnomalyTask)
    return np.asarray(values[..., 1] > task.specificity)
