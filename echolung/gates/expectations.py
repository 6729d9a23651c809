"""What suites are made of: tables with their expectations, and the expectations that many share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from great_expectations.expectations import ExpectColumnValuesToBeInSet as InSet
from great_expectations.expectations import ExpectColumnValuesToNotBeNull as NotNull
from great_expectations.expectations import ExpectTableColumnsToMatchSet as Columns
from great_expectations.expectations import ExpectTableRowCountToBeBetween as RowCount

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Table:
    """A table and its expectations; the columns in `identity` name a row. An expectation's description says it."""

    name: str
    rows: pd.DataFrame
    identity: Sequence[str]
    expectations: Sequence[Any]


@dataclass(frozen=True)
class Suite:
    """`columns`: table -> required columns. `expect(tables, **facts)`: all other expectations."""

    columns: Mapping[str, Sequence[str]]
    expect: Callable[..., list[Table]]
    remedy: str

    def tables(self, tables: Tables, **facts: Any) -> list[Table]:
        """What to validate: rows and columns of the stage's tables and, if those are there, everything else."""
        structure = []
        for name, columns in self.columns.items():
            described = f"has the columns {', '.join(columns)}"
            there = Columns(column_set=list(columns), exact_match=False, description=described)
            structure.append(Table(name, tables[name], [], [RowCount(min_value=1, description="has rows"), there]))
        ready = all(len(tables[name]) and set(columns) <= set(tables[name]) for name, columns in self.columns.items())
        return structure + (self.expect(tables, **facts) if ready else [])


def filled(*columns: str) -> list[NotNull]:
    return [NotNull(column=column, description=f"{column} is not empty") for column in columns]


def true(column: str, description: str, severity: str = "critical") -> InSet:
    return InSet(column=column, value_set=[True], description=description, severity=severity)
