"""A task: which label of which videos a probe learns, and on what unit (video or patient) it is judged."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, Self

import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters

KINDS = ("multiclass", "binary", "ordinal", "regression")
RESERVED_KINDS = ("ordinal", "regression")


class Task(Parameters):
    """One question asked of one source's videos.

    `unit` is what a decision is about: "video", where every video carries its own label, or "patient", where the label
    is the patient's, all the patient's videos share it, and the answer is their mean probability.
    """

    model_config = pydantic.ConfigDict(coerce_numbers_to_str=True)  # yaml reads `classes: [0, 1]` as integers

    source: str
    label: str
    """Manifest column that holds the label."""
    kind: Literal["multiclass", "binary", "ordinal", "regression"]
    classes: list[str]
    """Label values in the order of the class indices 0..C-1."""
    exclude: list[str] = []
    """Label values that are known and left out; a value neither here nor in `classes` is an error."""
    unit: Literal["video", "patient"]
    where: dict[str, str] = {}
    """Manifest column -> the value it must have; other rows are not part of the task."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in RESERVED_KINDS:
            raise ValueError(f"kind '{self.kind}' is not supported yet; use multiclass or binary")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"a binary task has 2 classes, not {len(self.classes)}")
        if len(self.classes) < 2:
            raise ValueError(f"a multiclass task has at least 2 classes, not {len(self.classes)}")
        named = [*self.classes, *self.exclude]
        if len(set(named)) != len(named):
            raise ValueError(f"a label value is named twice in classes and exclude: {', '.join(named)}")
        return self


def labelled(task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest rows that take part in the task, plus `label` (the class as text) and `y` (its index, int64).

    Rows keep the manifest's order. Raises DataError, naming rows, where a label is missing or out of range, where a
    class has no video, or where one patient has two labels although the unit of decision is the patient.
    """
    rows = _selected(task, manifest)
    rows = rows[~rows["label"].isin(task.exclude)].reset_index(drop=True)
    rows["y"] = rows["label"].map({name: index for index, name in enumerate(task.classes)}).astype("int64")
    absent = [name for name in task.classes if name not in set(rows["label"])]
    if absent:
        raise DataError(
            f"no video of source '{task.source}' has {task.label} = {' or '.join(absent)}"
            f" ({len(rows)} videos have {', '.join(task.classes)})",
            "Add such videos, or take the class out of the task.",
        )
    if task.unit == "patient":
        labels = rows.groupby("patient_id")["y"].nunique()
        both = labels.index[labels > 1]
        if len(both):
            raise DataError(
                f"{len(both)} patients have more than one value of '{task.label}': {_listed(both)}",
                "Correct the labels, or set the task's unit to video.",
            )
    return rows


def excluded(task: Task, manifest: pd.DataFrame) -> dict[str, int]:
    """How many videos each excluded label value leaves out of the task."""
    labels = _selected(task, manifest)["label"]
    return {value: int((labels == value).sum()) for value in task.exclude}


def _selected(task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the task's source that satisfy `where`, each with a valid `label` text (an excluded one too)."""
    rows = manifest[manifest["source"] == task.source]
    if rows.empty:
        raise DataError(
            f"no video of source '{task.source}' in the manifest", "Ingest that source, or correct the task's `source`."
        )
    for column, value in task.where.items():
        _require(rows, column, task.source)
        kept = rows[as_text(rows[column]) == value]
        if kept.empty:
            present = _listed(sorted(set(as_text(rows[column]).dropna())))
            raise DataError(
                f"no video of source '{task.source}' has {column} = '{value}' (it has: {present})",
                "Correct the task's `where`.",
            )
        rows = kept
    _require(rows, task.label, task.source)
    repeated = rows["sample_id"][rows["sample_id"].duplicated()].unique()
    if len(repeated):
        raise DataError(
            f"{len(repeated)} sample ids stand in more than one row: {_listed(repeated)}",
            "Give every video its own file name.",
        )
    rows = rows.assign(label=as_text(rows[task.label]))
    missing = rows["sample_id"][rows["label"].isna()]
    if len(missing):
        raise DataError(
            f"{len(missing)} videos have no '{task.label}': {_listed(missing)}",
            "Fill in the label, or remove these rows from the source.",
        )
    known = {*task.classes, *task.exclude}
    strange = rows[~rows["label"].isin(known)]
    if len(strange):
        named = [f"{row.sample_id} ({row.label})" for row in strange.itertuples()]
        raise DataError(
            f"{len(strange)} videos have a '{task.label}' other than {', '.join(task.classes)}: {_listed(named)}",
            "Correct the label, or name the value in the task's `classes` or `exclude`.",
        )
    return rows


def as_text(values: pd.Series) -> pd.Series:
    """A column as text, missing where it was missing; a whole number has no decimal point, whatever its type.

    A nullable label is stored as float as soon as one is missing: 1, 1.0 and "1" are the same class.
    """
    if pd.api.types.is_bool_dtype(values):
        values = values.astype("Int64")
    elif pd.api.types.is_float_dtype(values):
        whole = values.dropna()
        if (whole == whole.round()).all():
            values = values.astype("Int64")
    return values.astype("string").str.strip()


def _require(rows: pd.DataFrame, column: str, source: str) -> None:
    if column not in rows.columns:
        near = difflib.get_close_matches(column, [str(name) for name in rows.columns], n=1, cutoff=0.5)
        raise DataError(
            f"the manifest of source '{source}' has no column '{column}'",
            f"Did you mean '{near[0]}'?" if near else f"It has: {', '.join(map(str, rows.columns))}.",
        )


def _listed(names: Iterable[object], limit: int = 10) -> str:
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest
