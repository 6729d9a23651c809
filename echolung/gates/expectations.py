"""Expectations as plain data: what a suite says of a table, before any engine knows of it.

Great Expectations takes 3 seconds to import: suites are written without it, and `gate.check` translates them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Expectation:
    """One expectation by the engine's own name for it, and what it means in words."""

    kind: str
    meaning: str
    arguments: Mapping[str, Any]
    severity: str = "critical"
    """critical: the stage hands nothing on. warning: it does, and says so."""


@dataclass(frozen=True)
class Judged:
    """A table with what is expected of it; `identity` are the columns that name a row."""

    name: str
    rows: pd.DataFrame
    identity: Sequence[str]
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Suite:
    """`columns`: table -> columns it must have. `judge(tables, **facts)`: what else is expected."""

    columns: Mapping[str, Sequence[str]]
    judge: Callable[..., list[Judged]]
    remedy: str


def has_rows() -> Expectation:
    """At least one row: an empty table passes every expectation but this."""
    return Expectation("expect_table_row_count_to_be_between", "has rows", {"min_value": 1})


def has_columns(columns: Sequence[str]) -> Expectation:
    """These columns, among any others."""
    arguments = {"column_set": list(columns), "exact_match": False}
    return Expectation("expect_table_columns_to_match_set", f"has the columns {', '.join(columns)}", arguments)


def filled(*columns: str) -> list[Expectation]:
    """No missing value (and so no NaN) in these columns."""
    kind = "expect_column_values_to_not_be_null"
    return [Expectation(kind, f"{column} is given", {"column": column}) for column in columns]


def empty(column: str, meaning: str, severity: str = "critical") -> Expectation:
    """Every value of the column is missing."""
    return Expectation("expect_column_values_to_be_null", meaning, {"column": column}, severity)


def unique(meaning: str, *columns: str) -> Expectation:
    """No two rows share the values of these columns."""
    if len(columns) == 1:
        return Expectation("expect_column_values_to_be_unique", meaning, {"column": columns[0]})
    return Expectation("expect_compound_columns_to_be_unique", meaning, {"column_list": list(columns)})


def between(
    column: str, least: float | None, most: float | None, meaning: str, severity: str = "critical"
) -> Expectation:
    """least <= value <= most where there is a value; None is no bound."""
    arguments = {"column": column, "min_value": least, "max_value": most}
    return Expectation("expect_column_values_to_be_between", meaning, arguments, severity)


def one_of(column: str, values: Iterable[Any], meaning: str, severity: str = "critical") -> Expectation:
    """Every value is one of `values`."""
    arguments = {"column": column, "value_set": list(values)}
    return Expectation("expect_column_values_to_be_in_set", meaning, arguments, severity)


def holds(column: str, meaning: str, severity: str = "critical") -> Expectation:
    """A column of truth values is true throughout."""
    return one_of(column, [True], meaning, severity)
