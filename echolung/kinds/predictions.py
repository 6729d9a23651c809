"""Out-of-fold predictions: the one table that every score is made from, validated and brought to arrays.

Columns: task, arm, arm_seed, method, repeat, fold, sample_id, patient_id, split_group, y_true, the kind's own,
seen_in_pretraining, split_digest. Every scored video appears exactly once per (arm, arm_seed, method, repeat).

Patients of one split group share near-duplicate videos. They are not independent, and statistics keep them together.

Dimension letters: S seeds of an arm, R repeats, U units (videos or patients), P patients, G split groups, K columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from echolung.core.errors import DataError
from echolung.kinds.task import Task, listed

if TYPE_CHECKING:
    from echolung.kinds.kind import Kind

Key = tuple[str, str]
"""(arm, method)"""
FIT = ["arm", "arm_seed", "method", "repeat"]
COLUMNS = ["task", *FIT, "fold", "sample_id", "patient_id", "split_group", "y_true"]
MARKS = ["seen_in_pretraining", "split_digest"]
REMEDY = "Run the fit stage of this task again: `dvc repro`."


@dataclass(frozen=True)
class Units:
    """One task's predictions on its unit of decision; every arm on the same units in the same order."""

    name: str
    task: Task
    y: np.ndarray
    """Label of each unit (U,)."""
    patient: np.ndarray
    """Index of each unit's patient (U,), 0..P-1."""
    patients: list[str]
    group: np.ndarray
    """Index of each patient's split group (P,), 0..G-1."""
    videos: int
    folds: np.ndarray
    """Outer fold of each unit in each repeat (R, U)."""
    values: Mapping[Key, np.ndarray]
    """(arm, method) -> (S, R, U, K): the mean over a unit's videos."""
    seeds: Mapping[Key, list[int]]
    seen: Mapping[Key, int]
    """Videos that an encoder of the arm was pretrained on."""

    @property
    def groups(self) -> int:
        return len(np.unique(self.group))

    def per_patient(self, values: np.ndarray) -> np.ndarray:
        """Mean of each patient's units: (U,) -> (P,)."""
        return np.bincount(self.patient, values) / np.bincount(self.patient)

    def per_group(self, values: np.ndarray) -> np.ndarray:
        """What each split group contributes to the mean over patients: (P,) -> (G,), with the same mean."""
        sums = np.bincount(self.group, values)
        return sums * (len(sums) / len(values))


def units_of(predictions: pd.DataFrame, name: str, task: Task, kind: Kind) -> Units:
    """Validate one task's rows and bring them to arrays.

    Raises DataError, naming arm, repeat and fold or rows, when a column is missing, a value is invalid, a fold or a
    video is missing or doubled, arms disagree about the split or the truth, a patient has two split groups, or a
    patient or group is in two folds.
    """
    columns = kind.columns(task)
    _check_rows(predictions, name, task, kind)
    _check_agreement(predictions, name)
    _check_complete(predictions, name)
    rows = predictions.sort_values([*FIT, "sample_id"], kind="stable")
    videos = rows.drop_duplicates("sample_id").sort_values("sample_id", kind="stable")
    patients, one, patient = np.unique(videos["patient_id"].astype(str), return_index=True, return_inverse=True)
    y = videos["y_true"].to_numpy(dtype=float)
    of_video = np.arange(len(videos)) if task.unit == "video" else patient
    first = np.unique(of_video, return_index=True)[1]
    both = patients[np.unique(patient[y != y[first][of_video]])]
    if len(both):
        raise DataError(
            f"'{name}' decides per patient, but {listed(both)} has videos with different labels",
            "Correct the labels, or set the task's unit to video.",
        )
    split = rows.drop_duplicates(["repeat", "sample_id"]).sort_values(["repeat", "sample_id"], kind="stable")
    folds = split["fold"].to_numpy(dtype=np.int64).reshape(-1, len(videos))
    values: dict[Key, np.ndarray] = {}
    seeds: dict[Key, list[int]] = {}
    seen: dict[Key, int] = {}
    for (arm, method), mine in rows.groupby(["arm", "method"], sort=True):
        key = (str(arm), str(method))
        seen[key] = mine.loc[mine["seen_in_pretraining"], "sample_id"].nunique()
        seeds[key] = sorted(int(seed) for seed in mine["arm_seed"].unique())
        mine = mine.sort_values(["arm_seed", "repeat", "sample_id"], kind="stable")
        numbers = mine[columns].to_numpy(dtype=float).reshape(-1, len(folds), len(videos), len(columns))
        values[key] = _mean_per_unit(numbers, of_video)
    return Units(
        name=name,
        task=task,
        y=y[first],
        patient=patient[first],
        patients=[str(one) for one in patients],
        group=np.unique(videos["split_group"].astype(str).to_numpy()[one], return_inverse=True)[1],
        videos=len(videos),
        folds=folds[:, first],
        values=values,
        seeds=seeds,
        seen=seen,
    )


def _check_rows(rows: pd.DataFrame, name: str, task: Task, kind: Kind) -> None:
    columns = kind.columns(task)
    missing = [column for column in [*COLUMNS, *columns, *MARKS] if column not in rows]
    if missing:
        raise DataError(f"the predictions of '{name}' have no column {', '.join(missing)}", REMEDY)
    if rows.empty:
        raise DataError(f"there are no predictions of task '{name}'", REMEDY)
    empty = [column for column in [*COLUMNS, *MARKS] if rows[column].isna().any()]
    if empty:
        raise DataError(f"the predictions of '{name}' have empty cells in {', '.join(empty)}", REMEDY)
    wrong = kind.wrong(task, rows[columns].to_numpy(dtype=float))
    if wrong.any():
        named = (f"{row.arm} seed {row.arm_seed} {row.sample_id}" for row in rows[wrong].itertuples())
        raise DataError(f"{wrong.sum()} predictions of '{name}' are invalid ({kind.valid}): {listed(named)}", REMEDY)


def _check_agreement(rows: pd.DataFrame, name: str) -> None:
    """All arms share one split and one truth, and no patient or split group is in two folds."""
    if rows["split_digest"].nunique() > 1:
        found = rows.groupby("split_digest")["arm"].unique()
        raise DataError(
            f"the arms of '{name}' were fitted on different splits: "
            + "; ".join(f"{', '.join(sorted(set(arms)))} on {digest}" for digest, arms in found.items()),
            REMEDY,
        )
    for keys, column, what in (
        (["sample_id"], "y_true", "more than one y_true"),
        (["sample_id"], "patient_id", "more than one patient"),
        (["patient_id"], "split_group", "more than one split group"),
        (["repeat", "patient_id"], "fold", "more than one outer fold in a repeat"),
        (["repeat", "split_group"], "fold", "more than one outer fold in a repeat"),
    ):
        counts = rows.groupby(keys)[column].nunique()
        several = counts.index[counts > 1]
        if len(several):
            raise DataError(f"'{name}' has {what} for {listed(several)}", REMEDY)


def _check_complete(rows: pd.DataFrame, name: str) -> None:
    """Every video once per (arm, arm_seed, method, repeat), in the same repeats, and folds without a gap."""
    doubled = rows[rows.duplicated([*FIT, "sample_id"])]
    if len(doubled):
        named = (f"{row.arm} seed {row.arm_seed} repeat {row.repeat} {row.sample_id}" for row in doubled.itertuples())
        raise DataError(f"'{name}' has {len(doubled)} predictions twice: {listed(named)}", REMEDY)
    split = rows[["repeat", "fold", "sample_id"]].drop_duplicates()
    videos, folds = split["sample_id"].nunique(), range(int(split["fold"].max()) + 1)
    for repeat, mine in split.groupby("repeat"):
        gone = sorted(set(folds) - set(mine["fold"]))
        if gone:
            raise DataError(f"'{name}' has no predictions for repeat {repeat} fold {listed(gone)}", REMEDY)
        if len(mine) != videos:
            unseen = sorted(set(split["sample_id"]) - set(mine["sample_id"]))
            raise DataError(f"'{name}' lacks videos in every arm of repeat {repeat}: {listed(unseen)}", REMEDY)
    fits = rows.groupby(FIT)["sample_id"].agg(set)
    for arm, seed, method in rows[FIT[:3]].drop_duplicates().itertuples(index=False):
        for repeat, expected in split.groupby("repeat"):
            absent = expected[~expected["sample_id"].isin(fits.get((arm, seed, method, repeat), set()))]
            if len(absent):
                raise DataError(
                    f"'{name}', {arm} seed {seed} {method}: repeat {repeat} fold "
                    f"{listed(sorted(absent['fold'].unique()))} is missing ({len(absent)} videos)",
                    REMEDY,
                )


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
    names = list(columns)
    table = test[["sample_id", "patient_id", "split_group"]].assign(**heading, y_true=test["y"].astype(float))
    table[names] = values
    table = table.assign(seen_in_pretraining=seen, split_digest=split_digest)
    return table[[*heading, "sample_id", "patient_id", "split_group", "y_true", *names, *MARKS]]
