"""Out-of-fold predictions: the one table that every score is made from, and its arrays.

Columns: task, arm, arm_seed, method, repeat, fold, sample_id, patient_id, split_group, y_true, the kind's own,
seen_in_pretraining, split_digest. Every scored video appears exactly once per (arm, arm_seed, method, repeat).
Patients of one split group share near-duplicate videos: statistics keep them together.

Dimension letters: S seeds of an arm, R repeats, U units (videos or patients), P patients, G split groups, K columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.kinds.metrics import Ranking, mean_defined
from echolung.kinds.task import Task

if TYPE_CHECKING:
    from echolung.kinds.kind import Kind

Key = tuple[str, str]  # (arm, method)
FIT = ["arm", "arm_seed", "method", "repeat"]
REMEDY = "Run the fit stage of this task again: `dvc repro`."


@dataclass(frozen=True)
class Units:
    """One task's predictions on its unit of decision; every arm on the same units in the same order."""

    name: str
    task: Task
    y: np.ndarray  # label of each unit (U,)
    patient: np.ndarray  # index of each unit's patient (U,), 0..P-1
    group: np.ndarray  # index of each patient's split group (P,), 0..G-1
    videos: int
    folds: np.ndarray  # outer fold of each unit in each repeat (R, U)
    values: Mapping[Key, np.ndarray]  # (arm, method) -> (S, R, U, K): the mean over a unit's videos
    seen: Mapping[Key, int]  # videos that an encoder of the arm was pretrained on

    @property
    def groups(self) -> int:
        return len(np.unique(self.group))

    def held_out(self, repeat: int, fold: int) -> Units:
        """The units of one outer fold alone, in one repeat."""
        mine = self.folds[repeat] == fold
        patients, patient = np.unique(self.patient[mine], return_inverse=True)
        return replace(
            self,
            y=self.y[mine],
            patient=patient,
            group=self.group[patients],
            folds=self.folds[repeat : repeat + 1, mine],
            values={key: values[:, repeat : repeat + 1, mine] for key, values in self.values.items()},
        )

    def per_patient(self, values: np.ndarray) -> np.ndarray:
        """Mean of each patient's units: (U,) -> (P,)."""
        return np.bincount(self.patient, values) / np.bincount(self.patient)

    def means(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Means (S, B) over repeats, a patient's units, and patients by each row of counts (B, P), of what is not NaN.
        values (S, R, U)."""
        of_unit = values.mean(axis=1)
        known = ~np.isnan(of_unit)
        sizes, sums = (
            np.stack([np.bincount(self.patient, one, len(self.group)) for one in part])
            for part in (known, np.where(known, of_unit, 0))
        )
        weights = (sizes > 0) @ counts.T
        total = (sums / np.maximum(sizes, 1)) @ counts.T
        return np.where(weights > 0, total / np.maximum(weights, 1), np.nan)

    @property
    def outer_folds(self) -> list[tuple[int, np.ndarray]]:
        """(repeat, whether it holds out each unit: bool (U,)) of every outer fold of every repeat."""
        return [(repeat, folds == fold) for repeat, folds in enumerate(self.folds) for fold in np.unique(folds)]

    def within_folds(self, ranking: Ranking, y: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The mean (S, B) over outer folds of a ranking, where it is defined: y (U,), scores (S, R, U), counts (B, P).
        Every fold has its own fitted model, and pooling would rank one model's scores against another's."""
        weights, found = counts[:, self.patient], []
        for of_seed in scores:
            each = [ranking(y[mine], of_seed[repeat, mine], weights[:, mine]) for repeat, mine in self.outer_folds]
            found.append(mean_defined(np.stack(each, -1)))
        return np.stack(found)

    def per_group(self, values: np.ndarray) -> np.ndarray:
        """What each split group contributes to the mean over patients: (P,) -> (G,), with the same mean."""
        sums = np.bincount(self.group, values)
        return sums * (len(sums) / len(values))


def units_of(predictions: pd.DataFrame, name: str, task: Task, kind: Kind) -> Units:
    """One task's rows, which the fit gate has compared with the split, as arrays. Raises DataError where predictions
    are invalid, of several splits, or not of every video once per fit and repeat."""
    columns = kind.columns(task)
    _check(predictions, name, task, kind)
    rows = predictions.sort_values([*FIT, "sample_id"], kind="stable")
    videos = rows.drop_duplicates("sample_id").sort_values("sample_id", kind="stable")
    one, patient = np.unique(videos["patient_id"].astype(str), return_index=True, return_inverse=True)[1:]
    of_video = np.arange(len(videos)) if task.unit == "video" else patient
    first = np.unique(of_video, return_index=True)[1]
    split = rows.drop_duplicates(["repeat", "sample_id"]).sort_values(["repeat", "sample_id"], kind="stable")
    folds = split["fold"].to_numpy(dtype=np.int64).reshape(-1, len(videos))
    arms = {(str(arm), str(method)): mine for (arm, method), mine in rows.groupby(["arm", "method"])}
    shape = (-1, len(folds), len(videos), len(columns))
    return Units(
        name=name,
        task=task,
        y=videos["y_true"].to_numpy(dtype=float)[first],
        patient=patient[first],
        group=np.unique(videos["split_group"].astype(str).to_numpy()[one], return_inverse=True)[1],
        videos=len(videos),
        folds=folds[:, first],
        values={
            key: _mean_per_unit(mine[columns].to_numpy(dtype=float).reshape(shape), of_video)
            for key, mine in arms.items()
        },
        seen={key: mine.loc[mine["seen_in_pretraining"], "sample_id"].nunique() for key, mine in arms.items()},
    )


def _check(rows: pd.DataFrame, name: str, task: Task, kind: Kind) -> None:
    if rows.empty:
        raise DataError(f"there are no predictions of task '{name}'", REMEDY)
    wrong = kind.wrong(task, rows[kind.columns(task)].to_numpy(dtype=float))
    if wrong.any():
        named = (f"{row.arm} seed {row.arm_seed} {row.sample_id}" for row in rows[wrong].itertuples())
        raise DataError(f"{wrong.sum()} predictions of '{name}' are invalid ({kind.valid}): {listed(named)}", REMEDY)
    if rows["split_digest"].nunique() > 1:
        arms = rows.groupby("split_digest")["arm"].agg(lambda mine: ", ".join(sorted(set(mine))))
        found = "; ".join(f"{names} on {digest}" for digest, names in arms.items())
        raise DataError(f"the arms of '{name}' were fitted on different splits: {found}", REMEDY)
    counts = rows.groupby(FIT)["sample_id"].agg(["size", "nunique"]).unstack("repeat", fill_value=0)
    uneven = (counts.to_numpy() != rows["sample_id"].nunique()).any(axis=1)
    if uneven.any():
        named = (f"{arm} seed {seed} {method}" for arm, seed, method in counts.index[uneven])
        raise DataError(f"'{name}' lacks videos, or has them twice, in a repeat of {listed(named)}", REMEDY)


def _mean_per_unit(values: np.ndarray, of_video: np.ndarray) -> np.ndarray:
    """Mean over each unit's videos: (S, R, videos, K) -> (S, R, U, K)."""
    sizes = np.bincount(of_video)
    sums = np.zeros((len(sizes), *values.shape[:2], values.shape[3]))
    np.add.at(sums, of_video, np.moveaxis(values, 2, 0))
    # Equal videos must give equal units: the last digits of a mean depend on how many there are, and would rank them.
    return np.round(np.moveaxis(sums, 0, 2) / sizes[:, None], 12)


def prediction_rows(
    heading: Mapping[str, Any],
    test: pd.DataFrame,
    columns: Iterable[str],
    values: np.ndarray,
    split_digest: str,
    seen: np.ndarray,
) -> pd.DataFrame:
    """Rows of the predictions table from values (n, K) of the folds' rows `test`; seen (n,) bool."""
    ids = ["sample_id", "patient_id", "split_group"]
    table = test[ids].assign(**heading, y_true=test["y"].astype(float))[[*heading, *ids, "y_true"]]
    table[list(columns)] = values
    return table.assign(seen_in_pretraining=seen, split_digest=split_digest)
