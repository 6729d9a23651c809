"""Repeated outer x inner folds: stratified by class, grouped so that no patient is on both sides of a line.

Few patients carry many videos each, and a group can hold two classes, so which patients share a fold decides how even
the classes are. Groups with the same content are interchangeable: the folds are found on a small table of counts
(kinds of group x folds), by exact descent on the unevenness, and groups are then dealt to it in a seeded random order.
All arithmetic is on integers and all order comes from hashes, so that a seed means the same folds on every machine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_path

# Dimension letters: G groups, K kinds of group, F folds, M counts that are kept even, C classes.

TABLE_COLUMNS = ("sample_id", "patient_id", "split_group", "y")
SHARE = 10**12
"""Integer unit of squared shares of a class."""
PATIENT_WEIGHT = 16
"""How much more an uneven number of patients per class counts than an uneven number of videos per class."""


class SplitSettings(Parameters):
    """How labelled videos are divided. `near_duplicate` is the similarity above which two videos are the same."""

    outer: int = pydantic.Field(5, ge=2)
    inner: int = pydantic.Field(3, ge=2)
    repeats: int = pydantic.Field(1, ge=1)
    seed: int = 0
    near_duplicate: float = pydantic.Field(0.66, gt=0, le=1)


def make_folds(table: pd.DataFrame, settings: SplitSettings) -> pd.DataFrame:
    """Folds of the labelled videos in `table` (sample_id, patient_id, split_group, y, and `label` where it has names).

    Returns one row per video and repeat: those columns, `repeat`, `fold` (the outer fold that holds the video
    out, 0..outer-1) and, for each outer fold j, `inner_j`: the video's inner fold while j is held out, -1 where j is
    its own. Rows are sorted; the result depends on the set of rows and the settings alone.
    Raises DataError, with the numbers, where a class has fewer groups than folds or would miss from a training set.
    """
    rows = _checked(table)
    groups = _group_counts(rows)
    _require_groups(rows, settings)
    repeats = []
    for repeat in range(settings.repeats):
        outer = _assign(groups, settings.outer, settings.seed, repeat, "outer")
        frame = rows.assign(repeat=repeat, fold=rows["split_group"].map(outer).astype("int64"))
        for held_out in range(settings.outer):
            training = groups[outer != held_out]
            if len(training) < settings.inner:
                raise DataError(
                    f"fewer patients than folds: {len(training)} independent patients are in the training set of outer"
                    f" fold {held_out}, and there are {settings.inner} inner folds",
                    f"Set split.inner to at most {len(training)}, or add patients.",
                )
            inner = _assign(training, settings.inner, settings.seed, repeat, held_out)
            column = rows["split_group"].map(inner).fillna(-1).astype("int64")
            frame[f"inner_{held_out}"] = column
            _require_classes(frame[frame["fold"] != held_out], f"inner_{held_out}", rows, repeat, held_out)
        repeats.append(frame)
    folds = pd.concat(repeats, ignore_index=True)
    return folds.sort_values(["repeat", "fold", "patient_id", "sample_id"], ignore_index=True)


def _assign(groups: pd.DataFrame, folds: int, *seed: object) -> pd.Series:
    """A fold for every group. `groups` (G, M): index = group name, columns = the counts to keep even over the folds."""
    keys = pd.Series({name: _hash(*seed, name) for name in groups.index}, dtype="object")
    kinds_KM, kind_of_group = np.unique(groups.to_numpy("int64"), axis=0, return_inverse=True)
    size_K = np.bincount(kind_of_group, minlength=len(kinds_KM))
    placed_KF = _even_counts(kinds_KM, size_K, folds, seed)
    fold = pd.Series(0, index=groups.index, dtype="int64")
    for kind, places_F in enumerate(placed_KF):
        members = groups.index[kind_of_group == kind]
        fold.loc[sorted(members, key=keys.__getitem__)] = np.repeat(np.arange(folds), places_F)
    return fold


def _even_counts(kinds_KM: np.ndarray, size_K: np.ndarray, folds: int, seed: tuple[object, ...]) -> np.ndarray:
    """How many groups of each kind go to each fold, (K, F), so that every count is as even as descent can make it.

    The unevenness is the sum over counts and folds of weight * (the fold's share of the count)^2.
    """
    total_M = (kinds_KM * size_K[:, None]).sum(axis=0)
    half = kinds_KM.shape[1] // 2
    weight_M = np.array([SHARE // max(1, int(total)) ** 2 for total in total_M], dtype="int64")
    weight_M[:half] *= PATIENT_WEIGHT
    cost_KM = kinds_KM * weight_M
    placed_KF = np.repeat((size_K // folds)[:, None], folds, axis=1)
    # What does not divide evenly: in random order, large before small, each where it adds least.
    order_F = np.array(sorted(range(folds), key=lambda fold: _hash(*seed, "fold", fold)))
    rest = [kind for kind in range(len(size_K)) for _ in range(size_K[kind] % folds)]
    ranks = [_hash(*seed, "rest", place) for place in range(len(rest))]
    for _, _, kind in sorted(
        (-int((cost_KM[kind] * kinds_KM[kind]).sum()), rank, kind) for kind, rank in zip(rest, ranks, strict=True)
    ):
        sums_FM = placed_KF.T @ kinds_KM
        added_F = sums_FM @ cost_KM[kind]
        placed_KF[kind, order_F[np.argmin(added_F[order_F])]] += 1
    return _descend(placed_KF, kinds_KM, cost_KM)


def _descend(placed_KF: np.ndarray, kinds_KM: np.ndarray, cost_KM: np.ndarray) -> np.ndarray:
    """Move one group, or swap two, between two folds while that lowers the unevenness; the best step first."""
    # A last kind, "nothing", makes a move the swap of a group with nothing.
    kinds_KM = np.vstack([kinds_KM, np.zeros_like(kinds_KM[:1])])
    cost_KM = np.vstack([cost_KM, np.zeros_like(cost_KM[:1])])
    placed_KF = np.vstack([placed_KF, np.ones_like(placed_KF[:1])])
    gram_KK = cost_KM @ kinds_KM.T
    own_K = np.diagonal(gram_KK)
    square_KK = own_K[:, None] + own_K[None, :] - 2 * gram_KK
    folds = placed_KF.shape[1]
    while True:
        sums_FM = placed_KF.T @ kinds_KM
        best, step = 0, None
        for giver in range(folds):
            for taker in range(folds):
                if giver == taker:
                    continue
                gain_K = cost_KM @ (sums_FM[taker] - sums_FM[giver])
                change_KK = gain_K[:, None] - gain_K[None, :] + square_KK  # half the change of the unevenness
                change_KK = np.where((placed_KF[:, giver] > 0)[:, None] & (placed_KF[:, taker] > 0), change_KK, 0)
                given, taken = np.unravel_index(np.argmin(change_KK), change_KK.shape)
                if change_KK[given, taken] < best:
                    best, step = int(change_KK[given, taken]), (given, taken, giver, taker)
        if step is None:
            return placed_KF[:-1]
        given, taken, giver, taker = step
        placed_KF[given, [giver, taker]] += [-1, 1]
        placed_KF[taken, [giver, taker]] += [1, -1]
        placed_KF[-1] = 1


def _group_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Per group: patients of each class and overall, then videos of each class and overall."""
    videos = pd.crosstab(rows["split_group"], rows["y"])
    patients = (videos > 0).astype("int64")
    videos["all"], patients["all"] = videos.sum(axis=1), 1
    return pd.concat([patients, videos], axis=1, keys=["patients", "videos"])


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in TABLE_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"the table to split has no column {', '.join(missing)}", "Split what `labelled` returns.")
    rows = table[list(TABLE_COLUMNS)].reset_index(drop=True)
    rows["label"] = table["label"].astype(str).to_numpy() if "label" in table.columns else rows["y"].astype(str)
    unknown = rows["sample_id"][rows[["patient_id", "split_group", "y"]].isna().any(axis=1)]
    if len(unknown):
        raise DataError(
            f"{len(unknown)} videos have no patient, group or class: {', '.join(map(str, unknown[:10]))}",
            "Name the patient of every video: without it, one patient could be on both sides of a split.",
        )
    repeated = rows["sample_id"][rows["sample_id"].duplicated()].unique()
    if len(repeated):
        raise DataError(
            f"{len(repeated)} sample ids stand in more than one row: {', '.join(map(str, repeated[:10]))}",
            "Give every video its own file name.",
        )
    return rows.astype({"sample_id": str, "patient_id": str, "split_group": str, "y": "int64"}).sort_values(
        "sample_id", ignore_index=True
    )


def _require_groups(rows: pd.DataFrame, settings: SplitSettings) -> None:
    """Every class must reach every outer fold: a fold without it has no AUROC and no sensitivity."""
    groups = rows.groupby("label")["split_group"].nunique()
    scarce = groups[groups < settings.outer]
    if len(scarce):
        counted = ", ".join(f"'{label}' has {count}" for label, count in scarce.items())
        total = rows["split_group"].nunique()
        least = int(scarce.min())
        remedy = f"Set split.outer to at most {least}" if least >= 2 else "Leave the class out of the task"
        raise DataError(
            f"fewer patients than folds: {counted} independent patients (of {total} in all)"
            f" and {settings.outer} outer folds need {settings.outer} in every class",
            f"{remedy}, or add patients.",
        )


def _require_classes(training: pd.DataFrame, inner: str, rows: pd.DataFrame, repeat: int, held_out: int) -> None:
    """Every class in every inner training set of this outer fold (and so in the outer training set)."""
    for fold in sorted(training[inner].unique()):
        absent = set(rows["label"]) - set(training.loc[training[inner] != fold, "label"])
        if absent:
            label = sorted(absent)[0]
            count = training.loc[training["label"] == label, "split_group"].nunique()
            raise DataError(
                f"no video of class '{label}' is left to train on in repeat {repeat}, outer fold {held_out}, inner fold"
                f" {fold}: {count} of its {rows.loc[rows['label'] == label, 'split_group'].nunique()} independent"
                " patients are in that outer training set, and at least 2 are needed",
                "Set split.outer higher, add patients, or leave the class out of the task.",
            )


def _hash(*parts: object) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()


def fold_columns(outer: int) -> list[str]:
    """The columns of a table of folds with `outer` outer folds, in order."""
    return [*TABLE_COLUMNS, "label", "repeat", "fold", *(f"inner_{fold}" for fold in range(outer))]


def write_folds(path: Path, folds: pd.DataFrame) -> None:
    """Write folds atomically as a csv that `read_folds` gives back exactly."""
    with atomic_path(path) as temporary:
        temporary.write_text(_csv(folds), newline="")


def read_folds(path: Path) -> pd.DataFrame:
    """Folds as `make_folds` returned them; raises DataError if the file is missing or is not such a table."""
    try:
        # As text first: patient "007" and a patient named "NA" are not numbers and not missing.
        folds = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "Run `dvc repro split` to make it.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a table of folds ({error})", "Delete it and run `dvc repro split`.") from None
    outer = sum(str(name).startswith("inner_") for name in folds.columns)
    if list(folds.columns) != fold_columns(outer) or folds.empty:
        raise DataError(f"{path} is not a table of folds", "Delete it and run `dvc repro split`.")
    try:
        return folds.astype({name: "int64" for name in folds.columns[3:] if name != "label"})
    except ValueError as error:
        raise DataError(f"{path}: {error}", "Delete it and run `dvc repro split`.") from None


def folds_digest(folds: pd.DataFrame) -> str:
    """16 hexadecimal digits that two tables share only if they divide the same videos in the same way."""
    ordered = folds.sort_values(["repeat", "sample_id"], ignore_index=True)
    return hashlib.sha256(_csv(ordered).encode()).hexdigest()[:16]


def _csv(folds: pd.DataFrame) -> str:
    return folds.to_csv(index=False, lineterminator="\n")
