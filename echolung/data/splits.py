"""Folds: which videos a model is trained on and which it is tested on, with no patient on both sides.

cv: repeated nested cross-validation by scikit-learn's StratifiedGroupKFold. official: the data set's own split.
external: train on one source, test on another. The result depends on the set of rows and the settings alone, and is the
same on every machine with the versions in requirements.lock.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError, listed
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_path, derived_seed

How = Literal["cv", "official", "external"]

TEXT_COLUMNS = ("sample_id", "source", "patient_id", "split_group", "label")
TABLE_COLUMNS = ("sample_id", "source", "patient_id", "split_group", "y", "stratum", "label")
UNUSED, ALWAYS_TRAINED = -1, -2  # of `inner_j`: not trained on in outer fold j; trained on, in no inner fold
NOT_TESTED = -1  # value of `fold`: a row that is only trained on
DRAWS = 5  # divisions that are tried at most; the most even one is kept
MANY = 500  # with more groups than this the first division that lacks nothing is kept: it is even enough


class SplitSettings(Parameters):
    """How labelled videos are divided into folds."""

    outer: int = pydantic.Field(5, ge=2)
    inner: int = pydantic.Field(3, ge=2)
    repeats: int = pydantic.Field(1, ge=1)
    seed: int = 0
    near_duplicate: float = pydantic.Field(0.66, gt=0, le=1)
    """Similarity above which two videos count as the same recording. Drawn by the study itself: only the same file."""


def make_folds(table: pd.DataFrame, settings: SplitSettings, how: How = "cv", tested: str = "") -> pd.DataFrame:
    """Folds of the labelled videos in `table` (TABLE_COLUMNS; for `official` also split_official).

    cv: every video is tested once per repeat. official: TEST is tested, VAL is the only inner fold; without VAL, inner
    folds divide TRAIN. external: the videos of source `tested` are tested, inner folds divide the others.

    Returns a row per video and repeat: TABLE_COLUMNS, `repeat`, `fold` (the outer fold that tests the video, or
    NOT_TESTED) and per outer fold j `inner_j` (the inner fold that holds the video out while j is tested, or UNUSED or
    ALWAYS_TRAINED). A video to train on is UNUSED if another one of its split_group is tested.

    Raises DataError with the numbers if a class has too few groups, or with what is missing from an official split.
    """
    rows = _checked(table)
    if how == "cv":
        repeats = [_cross_validation(rows, settings, repeat) for repeat in range(settings.repeats)]
    elif how == "official":
        sides = _official_sides(table, rows)
        repeats = [_one_split(rows, sides == "TEST", sides == "VAL", settings)]
    else:
        repeats = [_one_split(rows, rows["source"] == tested, pd.Series(False, index=rows.index), settings)]
    folds = pd.concat(repeats, ignore_index=True)
    return folds.sort_values(["repeat", "fold", "patient_id", "sample_id"], ignore_index=True)


def fold_counts(table: pd.DataFrame, settings: SplitSettings, how: How = "cv") -> dict[str, int]:
    """How many outer folds, inner folds and repeats `make_folds` returns."""
    if how == "cv":
        return {"outer": settings.outer, "inner": settings.inner, "repeats": settings.repeats}
    validation = how == "official" and "VAL" in set(_as_sides(table["split_official"]))
    return {"outer": 1, "inner": 1 if validation else settings.inner, "repeats": 1}


def _cross_validation(rows: pd.DataFrame, settings: SplitSettings, repeat: int) -> pd.DataFrame:
    fold = _assign(rows, settings.outer, "split.outer", settings.outer, settings.seed, repeat, "outer")
    frame = rows.assign(repeat=repeat, fold=fold)
    for held_out in range(settings.outer):
        frame[f"inner_{held_out}"] = _inner(rows, fold != held_out, settings, repeat, held_out)
    return frame


def _one_split(rows: pd.DataFrame, tested: pd.Series, held_out: pd.Series, settings: SplitSettings) -> pd.DataFrame:
    """Outer fold 0 is `tested`; `held_out` is the only inner fold, or there are inner folds if it is empty."""
    training = ~rows["split_group"].isin(rows.loc[tested, "split_group"])
    held_out = rows["split_group"].isin(rows.loc[held_out, "split_group"])
    for name, part in (("test", tested), ("train on", training & ~held_out)):
        if absent := sorted(set(rows["stratum"]) - set(rows.loc[part, "stratum"])):
            problem = f"no video of {listed(_named(rows, stratum) for stratum in absent)} to {name}"
            raise DataError(problem, "Leave the class out of the task, or set `folds: cv` without `train`.")
    if held_out.any():
        inner = pd.Series(np.where(held_out, 0, ALWAYS_TRAINED), rows.index).where(training, UNUSED)
    else:
        inner = _inner(rows, training, settings, 0, 0)
    return rows.assign(repeat=0, fold=np.where(tested, 0, NOT_TESTED), inner_0=inner)


def deciding_folds(folds: pd.DataFrame, settings: SplitSettings) -> pd.DataFrame:
    """What champions are chosen on: `folds` themselves, or where a test set is fixed, a split of its training rows.

    There the first inner fold (VAL, where there is one) is tested, and inner folds divide the other training rows.
    """
    if not (folds["fold"] == NOT_TESTED).any():
        return folds
    rows = folds[(folds["fold"] == NOT_TESTED) & (folds["inner_0"] != UNUSED)]
    tested = rows["inner_0"] == rows["inner_0"][rows["inner_0"] >= 0].min()
    deciding = _one_split(rows[list(TABLE_COLUMNS)], tested, pd.Series(False, index=rows.index), settings)
    return deciding.sort_values(["fold", "patient_id", "sample_id"], ignore_index=True)


def _as_sides(names: pd.Series) -> pd.Series:
    return names.astype("string").str.strip().str.upper()


def _official_sides(table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """TRAIN, VAL or TEST of every row."""
    sides = rows["sample_id"].map(_as_sides(table.set_index(table["sample_id"].astype(str))["split_official"]))
    named = set(sides.fillna("nothing"))
    if not {"TRAIN", "TEST"} <= named <= {"TRAIN", "VAL", "TEST"}:
        remedy = "Set `folds: cv` for the task, or name TRAIN, TEST (and VAL) in the source's own split."
        raise DataError(f"the official split of {listed(rows['source'].unique())} says {listed(sorted(named))}", remedy)
    return sides


def _inner(rows: pd.DataFrame, training: pd.Series, settings: SplitSettings, *seed: object) -> pd.Series:
    """The inner folds of a training set; UNUSED elsewhere. A class may miss an inner fold, but no training set."""
    inner = pd.Series(UNUSED, index=rows.index)
    inner[training] = _assign(rows[training], settings.inner, "split.inner", 2, settings.seed, *seed)
    return inner


def _assign(rows: pd.DataFrame, folds: int, parameter: str, least: int, *seed: object) -> pd.Series:
    """A fold for every row: whole groups, every stratum in `least` folds or more, the most even of DRAWS."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import, which `predict` does without

    groups, total = rows.groupby("stratum")["split_group"].nunique(), rows["split_group"].nunique()
    scarce = groups[groups < least]
    if len(scarce) or total < folds:
        counted = ", ".join(f"{_named(rows, stratum)} has {count}" for stratum, count in scarce.items())
        counted = f"{counted or 'all classes have few'} independent patients (of {total} in all)"
        problem = f"fewer patients than folds: {counted} for {folds} folds of {parameter}"
        raise DataError(problem, f"Set {parameter} lower, leave the class out of the task, or add patients.")
    drawn: list[tuple[tuple[int, int, int, int], pd.Series]] = []
    units = rows.drop_duplicates(["split_group", "stratum"])
    for draw in range(DRAWS):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=derived_seed(*seed, draw))
        fold = pd.Series(0, index=rows.index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # fewer videos of a class than folds
            for number, (_, held_out) in enumerate(splitter.split(rows, rows["stratum"], rows["split_group"])):
                fold.iloc[held_out] = number
        patients, videos = (pd.crosstab(part["stratum"], fold[part.index]).to_numpy() for part in (units, rows))
        lacking = int(((patients > 0).sum(axis=1) < least).sum()) + folds - patients.shape[1]
        uneven = int(np.ptp(patients, axis=1).max()), int(np.ptp(videos, axis=1).max())
        drawn.append(((lacking, *uneven, draw), fold))
        if not lacking and (max(uneven) <= 1 or total > MANY):
            break
    (lacking, *_), fold = min(drawn, key=lambda one: one[0])
    if lacking:
        problem = f"no class may miss a fold, and {len(drawn)} divisions into {folds} folds of {parameter} all do that"
        remedy = f"Set {parameter} lower, add patients, or leave a class with few patients out of the task."
        raise DataError(problem, remedy)
    return fold


def _named(rows: pd.DataFrame, stratum: object) -> str:
    """A stratum for a message: its label if all its videos have the same."""
    labels = rows.loc[rows["stratum"] == stratum, "label"].unique()
    return f"'{labels[0]}'" if len(labels) == 1 else f"the group of labels from {min(labels)} to {max(labels)}"


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """TABLE_COLUMNS, typed and in the order of the sample ids."""
    rows = table[list(TABLE_COLUMNS)].reset_index(drop=True)
    unknown = rows["sample_id"][rows[["patient_id", "split_group", "y", "stratum"]].isna().any(axis=1)]
    if len(unknown):
        problem = f"{len(unknown)} videos have no patient, group or label: {listed(unknown)}"
        remedy = "Name the patient of every video: without it, a patient could be on both sides of a split."
        raise DataError(problem, remedy)
    kinds = dict.fromkeys(TEXT_COLUMNS, "str") | {"y": "float64", "stratum": "int64"}
    return rows.astype(kinds).sort_values("sample_id", ignore_index=True)


def fold_columns(outer: int) -> list[str]:
    """The columns of a table of folds with `outer` outer folds, in order."""
    return [*TABLE_COLUMNS, "repeat", "fold", *(f"inner_{fold}" for fold in range(outer))]


def write_folds(path: Path, folds: pd.DataFrame) -> None:
    """Write folds atomically as a csv from which `read_folds` restores them exactly."""
    with atomic_path(path) as temporary:
        folds.to_csv(temporary, index=False, lineterminator="\n")


def read_folds(path: Path) -> pd.DataFrame:
    """Folds as `make_folds` returned them; raises DataError if the file is missing or is not such a table."""
    try:
        # As text first: patient "007" is not a number and a patient named "NA" is not missing.
        folds = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        outer = sum(str(name).startswith("inner_") for name in folds.columns)
        numbers = [name for name in fold_columns(outer) if name not in (*TEXT_COLUMNS, "y")]
        return folds[fold_columns(outer)].astype({"y": "float64"} | dict.fromkeys(numbers, "int64"))
    except (FileNotFoundError, KeyError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path} is not a table of folds ({error})", "Delete it and run `dvc repro split`.") from None


def folds_digest(folds: pd.DataFrame) -> str:
    """16 hexadecimal digits that two tables share only if they divide the same videos in the same way."""
    ordered = folds.sort_values(["repeat", "sample_id"], ignore_index=True)
    return hashlib.sha256(ordered.to_csv(index=False, lineterminator="\n").encode()).hexdigest()[:16]
