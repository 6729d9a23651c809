"""A task: which label of which recordings is predicted, and on what unit (video or patient) it is judged."""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError, listed
from echolung.core.parameters import Parameters, nearest

Word = Annotated[str, pydantic.BeforeValidator(lambda one: ("no", "yes")[one] if isinstance(one, bool) else one)]
"""Text; `no` and `yes`, which YAML reads as truth values unless they are quoted, are words again."""
SAME = {"no": {"false", "off", "n"}, "yes": {"true", "on", "y"}}
"""Spellings of the values that YAML reads as false and true."""


class Task(Parameters):
    """What every kind of task has; a kind adds its own fields."""

    model_config = pydantic.ConfigDict(coerce_numbers_to_str=True)  # YAML reads `classes: [0, 1]` as integers

    kind: str  # a key of `KINDS`
    source: str  # the source that is scored
    label: str  # manifest column that holds the label
    unit: Literal["video", "patient"]
    """What a decision is about; where it is the patient, all videos of one share the label, and the mean answers."""
    where: dict[str, Word] = {}
    """Manifest column -> the value it must have, to as many decimals as are given; other rows are not in the task."""
    unlabelled: Literal["refuse", "leave out"] = "refuse"
    """What happens to recordings without the label: an error that names them, or they take no part. Those without masks
    that are left out, `echolung suggest` puts into an order."""
    main: bool = True  # its tests are confirmatory and corrected for their number; false: it is exploratory
    folds: Literal["cv", "official"] = "cv"
    """`cv`: nested cross-validation. `official`: the set's own split (manifest column `split_official`)."""
    train: str | None = None  # external validation: train on this source, score on `source`

    @pydantic.model_validator(mode="after")
    def _one_split(self) -> Self:
        if self.train is not None and self.folds == "official":
            raise ValueError("a task has either `train` or `folds: official`, not both")
        if self.train == self.source:
            raise ValueError("`train` names the source that is scored; leave it out for cross-validation")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source that the task reads: the scored one first."""
        return (self.source,) if self.train is None else (self.source, self.train)

    @property
    def labels_all(self) -> bool:
        """Whether every recording of its sources must have the label."""
        return not self.where and self.unlabelled == "refuse"

    @property
    def split(self) -> Literal["cv", "official", "external"]:
        """How its folds come about."""
        return self.folds if self.train is None else "external"


def selected(task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the task's sources that satisfy `where`, each with its label as text in `label`. Raises DataError naming
    the videos where a label is missing and none may be, or a column that is unknown."""
    rows = manifest[manifest["source"].isin(task.sources)]
    for column, value in task.where.items():
        _require(rows, column, task.source)
        values = rows[column]
        if pd.api.types.is_float_dtype(values):
            values = values.round(len(value.partition(".")[2]))
        kept = rows[spelled(as_text(values), [value]) == value]
        if kept.empty:
            present = listed(sorted(set(as_text(values).dropna())))
            raise DataError(
                f"no video of source '{task.source}' has {column} = '{value}' (it has: {present})",
                "Correct the task's `where`.",
            )
        rows = kept
    _require(rows, task.label, task.source)
    rows = rows.assign(label=as_text(rows[task.label]))
    labelled = rows["label"].notna() & (rows["label"] != "")
    leave = task.unlabelled == "leave out"
    if leave and labelled.any():
        rows = rows[labelled]
    elif not labelled.all():
        missing = rows["sample_id"][~labelled]
        other = "" if leave else ", or leave such videos out (`unlabelled: leave out` in the task)"
        raise DataError(
            f"{len(missing)} videos have no '{task.label}': {listed(missing)}", f"Fill in the label{other}."
        )
    return rows.reset_index(drop=True)


def one_label_per_patient(task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` (patient_id, y); raises DataError if the unit is the patient and a patient has two labels."""
    labels = rows.groupby("patient_id")["y"].nunique()
    both = labels.index[labels > 1]
    if task.unit == "patient" and len(both):
        raise DataError(
            f"{len(both)} patients have more than one value of '{task.label}': {listed(both)}",
            "Correct the labels, or set the task's unit to video.",
        )
    return rows


def as_text(values: pd.Series) -> pd.Series:
    """A column as text, missing where it was; 1, 1.0 (as pandas stores it beside a gap) and "1" are the same."""
    whole = pd.api.types.is_float_dtype(values) and (values.dropna() == values.dropna().round()).all()
    if whole or pd.api.types.is_bool_dtype(values):
        values = values.astype("Int64")
    return values.astype("string").str.strip()


def spelled(values: pd.Series, known: Collection[str]) -> pd.Series:
    """Text as `known` spells it: where that has `no` or `yes`, other spellings of them (`False`, `NO`, `n`) too."""
    same = {other: name for name, others in SAME.items() if name in known for other in {name, *others}}
    return values.where(values.isin(known) | ~values.str.lower().isin(same), values.str.lower().map(same))


def parted(values: pd.Series, below: float, names: Sequence[str]) -> pd.Series:
    """The first name for a number of `below` or more, the second for a smaller one; what is no number stays."""
    number = pd.to_numeric(values, errors="coerce").astype("Float64").astype(float)
    return values.where(number.isna(), pd.Series(np.where(number < below, names[1], names[0]), values.index))


def _require(rows: pd.DataFrame, column: str, source: str) -> None:
    if column not in rows.columns:
        known = [str(name) for name in rows.columns]
        problem = f"the manifest of source '{source}' has no column '{column}'{nearest(column, known)}"
        raise DataError(problem, f"It has: {', '.join(known)}.")
