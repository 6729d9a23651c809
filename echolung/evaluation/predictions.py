"""Out-of-fold predictions: the one table that every score is made from, checked and brought to arrays.

Columns: task, arm, arm_seed, probe, repeat, fold, sample_id, patient_id, split_group, y_true, p_0..p_{K-1},
seen_in_pretraining, split_digest. Every video stands in it exactly once per (arm, arm_seed, probe, repeat).

Patients of one split group share near-duplicate videos: they are not independent, and statistics take them together.

Dimensions: S seeds of an arm, R repeats, U units (videos or patients), P patients, G split groups, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from echolung.core.errors import DataError
from echolung.kinds.task import Task

KEYS = ["arm", "arm_seed", "probe", "repeat"]
COLUMNS = ["task", *KEYS, "fold", "sample_id", "patient_id", "split_group", "y_true", "seen_in_pretraining"]
COLUMNS += ["split_digest"]
TOLERANCE = 1e-3
"""How far probabilities may sum from 1: half-precision softmax."""
REMEDY = "Run the probe stage of this task again: `dvc repro`."


@dataclass(frozen=True)
class TaskPredictions:
    """One task's predictions on its unit of decision, every arm on the same units in the same order."""

    task: str
    unit: str
    classes: list[str]
    y: np.ndarray
    """Class of each unit (U,)."""
    patient: np.ndarray
    """Index of each unit's patient (U,), 0..P-1."""
    patients: list[str]
    group: np.ndarray
    """Index of each patient's split group (P,), 0..G-1."""
    videos: int
    folds: np.ndarray
    """Outer fold of each unit in each repeat (R, U)."""
    probabilities: Mapping[tuple[str, str], np.ndarray]
    """(arm, probe) -> (S, R, U, K)."""
    seeds: Mapping[tuple[str, str], list[int]]
    seen: Mapping[tuple[str, str], int]
    """Videos that an encoder of the arm was pretrained on."""


def task_predictions(predictions: pd.DataFrame, name: str, task: Task) -> TaskPredictions:
    """Check one task's rows against the contract and bring them to arrays.

    Raises DataError, naming arm, repeat and fold or rows, when a column is missing, a probability is not one, a fold or
    a video is missing or doubled, arms disagree about the split or the truth, a patient has two
    split groups, or a patient or group stands in two folds.
    """
    rows = predictions[predictions["task"] == name] if "task" in predictions else predictions
    columns = [f"p_{k}" for k in range(len(task.classes))]
    _check_rows(rows, name, columns)
    _check_agreement(rows, name)
    _check_complete(rows, name)
    rows = rows.sort_values([*KEYS, "sample_id"], kind="stable")
    units = _units(rows, name, task.unit)
    repeats = rows["repeat"].nunique()
    probabilities: dict[tuple[str, str], np.ndarray] = {}
    seeds: dict[tuple[str, str], list[int]] = {}
    seen: dict[tuple[str, str], int] = {}
    for (arm, probe), mine in rows.groupby(["arm", "probe"], sort=True):
        seen[str(arm), str(probe)] = mine.loc[mine["seen_in_pretraining"], "sample_id"].nunique()
        seeds[str(arm), str(probe)] = sorted(int(seed) for seed in mine["arm_seed"].unique())
        mine = mine.sort_values(["arm_seed", "repeat", "sample_id"], kind="stable")
        values = mine[columns].to_numpy(dtype=float).reshape(-1, repeats, len(units.of_video), len(columns))
        probabilities[str(arm), str(probe)] = _mean_per_unit(values, units.of_video)
    return TaskPredictions(
        task=name,
        unit=task.unit,
        classes=list(task.classes),
        y=units.y,
        patient=units.patient,
        patients=units.patients,
        group=units.group,
        videos=len(units.of_video),
        folds=units.folds,
        probabilities=probabilities,
        seeds=seeds,
        seen=seen,
    )


def _check_rows(rows: pd.DataFrame, name: str, columns: list[str]) -> None:
    """Columns present, rows present, probabilities and classes in range."""
    missing = [column for column in [*COLUMNS, *columns] if column not in rows]
    if missing:
        raise DataError(f"the predictions of '{name}' have no column {', '.join(missing)}", REMEDY)
    if rows.empty:
        raise DataError(f"there are no predictions of task '{name}'", REMEDY)
    if rows[COLUMNS].isna().any(axis=None):
        empty = [column for column in COLUMNS if rows[column].isna().any()]
        raise DataError(f"the predictions of '{name}' have empty cells in {', '.join(empty)}", REMEDY)
    values = rows[columns].to_numpy(dtype=float)
    wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (abs(values.sum(axis=1) - 1) > TOLERANCE)
    if wrong.any():
        raise DataError(
            f"{wrong.sum()} rows of '{name}' hold no probabilities (finite, not negative, summing to 1): "
            + _listed(f"{row.arm} seed {row.arm_seed} {row.sample_id}" for row in rows[wrong].itertuples()),
            REMEDY,
        )
    if not rows["y_true"].isin(range(len(columns))).all():
        raise DataError(f"'{name}' has y_true outside 0..{len(columns) - 1}", "Correct the task's classes.")


def _check_agreement(rows: pd.DataFrame, name: str) -> None:
    """All arms speak of one split and one truth, and no patient or split group stands in two folds."""
    if rows["split_digest"].nunique() > 1:
        found = rows.groupby("split_digest")["arm"].unique()
        raise DataError(
            f"the arms of '{name}' were probed on different splits: "
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
        values = rows.groupby(keys)[column].nunique()
        several = values.index[values > 1]
        if len(several):
            raise DataError(f"'{name}' has {what} for {_listed(several)}", REMEDY)


def _check_complete(rows: pd.DataFrame, name: str) -> None:
    """Every video once per (arm, arm_seed, probe, repeat), for the same repeats, and folds numbered without a gap."""
    doubled = rows[rows.duplicated([*KEYS, "sample_id"])]
    if len(doubled):
        named = (f"{row.arm} seed {row.arm_seed} repeat {row.repeat} {row.sample_id}" for row in doubled.itertuples())
        raise DataError(f"'{name}' has {len(doubled)} predictions twice: {_listed(named)}", REMEDY)
    split = rows[["repeat", "fold", "sample_id"]].drop_duplicates()
    videos, folds = split["sample_id"].nunique(), range(int(split["fold"].max()) + 1)
    for repeat, mine in split.groupby("repeat"):
        gone = sorted(set(folds) - set(mine["fold"]))
        if gone:
            raise DataError(f"'{name}' has no predictions at all for repeat {repeat} fold {_listed(gone)}", REMEDY)
        if len(mine) != videos:
            unseen = sorted(set(split["sample_id"]) - set(mine["sample_id"]))
            raise DataError(f"'{name}' lacks videos in every arm of repeat {repeat}: {_listed(unseen)}", REMEDY)
    fits = rows.groupby(KEYS)["sample_id"].agg(set)
    for arm, seed, probe in rows[KEYS[:3]].drop_duplicates().itertuples(index=False):
        for repeat, expected in split.groupby("repeat"):
            present = fits.get((arm, seed, probe, repeat), set())
            absent = expected[~expected["sample_id"].isin(present)]
            if len(absent):
                raise DataError(
                    f"'{name}', {arm} seed {seed} probe {probe}: repeat {repeat} fold "
                    f"{_listed(sorted(absent['fold'].unique()))} is missing ({len(absent)} videos)",
                    REMEDY,
                )


@dataclass(frozen=True)
class _Units:
    y: np.ndarray
    patient: np.ndarray
    patients: list[str]
    group: np.ndarray
    folds: np.ndarray
    of_video: np.ndarray
    """Index of each video's unit, videos sorted by sample_id."""


def _units(rows: pd.DataFrame, name: str, unit: str) -> _Units:
    """The units of decision, from rows sorted by (arm, arm_seed, probe, repeat, sample_id)."""
    videos = rows.drop_duplicates("sample_id").sort_values("sample_id", kind="stable")
    patients, one, patient = np.unique(videos["patient_id"].astype(str), return_index=True, return_inverse=True)
    group = np.unique(videos["split_group"].astype(str).to_numpy()[one], return_inverse=True)[1]
    y = videos["y_true"].to_numpy(dtype=np.int64)
    split = rows.drop_duplicates(["repeat", "sample_id"]).sort_values(["repeat", "sample_id"], kind="stable")
    folds = split["fold"].to_numpy(dtype=np.int64).reshape(-1, len(videos))
    of_video = np.arange(len(videos)) if unit == "video" else patient
    first = np.unique(of_video, return_index=True)[1]
    both = patients[np.unique(patient[y != y[first][of_video]])]
    if len(both):
        raise DataError(
            f"'{name}' decides per patient, but {_listed(both)} has videos of more than one class",
            "Correct the labels, or set the task's unit to video.",
        )
    return _Units(y[first], patient[first], [str(name) for name in patients], group, folds[:, first], of_video)


def _mean_per_unit(values: np.ndarray, of_video: np.ndarray) -> np.ndarray:
    """Mean over each unit's videos: (S, R, videos, K) -> (S, R, U, K)."""
    sizes = np.bincount(of_video)
    sums = np.zeros((len(sizes), *values.shape[:2], values.shape[3]))
    np.add.at(sums, of_video, np.moveaxis(values, 2, 0))
    # Equal videos must give equal units: the last digits of a mean depend on how many there are, and would rank them.
    return np.round(np.moveaxis(sums, 0, 2) / sizes[:, None], 12)


def _listed(names: Iterable[object], most: int = 5) -> str:
    """The first few, and how many more there are."""
    every = [str(one) for one in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
