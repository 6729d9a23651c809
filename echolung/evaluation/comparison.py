"""The tables of a comparison, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import SettingsError
from echolung.core.runtime import atomic_path, read_json, write_json

ROLES = ["candidate", "reference", "control", "baseline"]
MORE = "more"
TYPES = "types.json"  # the type of every column: a class may be named 0, NA or True


@dataclass(frozen=True)
class Comparison:
    """The tables of a comparison; every row names its task, arm and method."""

    arms: pd.DataFrame
    """role, primary, metric, estimate, low, high, seeds, seed_low, seed_high, n_patients, n_groups, n_videos, n_seen,
    unit, note. n_groups counts the split groups of the patients: what is independent. n_seen counts the videos that the
    arm's encoders were pretrained on. primary marks the method that an arm is judged by."""
    pairs: pd.DataFrame
    """reference, reference_method, primary, metric, difference, low, high, n_patients, n_groups, n_videos, n_seen,
    test, p_value and p_recipe for the loss alone, p_holm and p_recipe_holm for the confirmatory family alone"""
    verdicts: pd.DataFrame  # of the primary pairs: reference, confirmatory, outcome (better | worse | undecided), text
    folds: pd.DataFrame  # repeat, fold, step, metric, value, n_patients, n_units
    secondary: pd.DataFrame  # reference, test, difference, standard_error, low, high, p_value (uncorrected)
    more: dict[str, pd.DataFrame] = field(default_factory=dict)  # tables of the kinds of task, by name

    @property
    def roles(self) -> dict[str, str]:
        """Arm -> role."""
        return dict(self.arms.drop_duplicates("arm")[["arm", "role"]].itertuples(index=False, name=None))

    @property
    def order(self) -> list[str]:
        """The arms: candidates first, the baseline last, else in the order of the study."""
        return sorted(self.roles, key=lambda arm: ROLES.index(self.roles[arm]))

    def of_tasks(self, tasks: Sequence[str]) -> Comparison:
        """The rows of some tasks."""
        tables = {one.name: getattr(self, one.name) for one in fields(self) if one.name != MORE}
        kept = {name: table[table["task"].isin(tasks)] for name, table in tables.items()}
        return Comparison(**kept, more={name: table[table["task"].isin(tasks)] for name, table in self.more.items()})


def judged_only(comparison: Comparison, name: str) -> pd.DataFrame:
    """The rows of a table (`folds`, or one of `more`) that belong to each arm's primary method."""
    table = comparison.folds if name == "folds" else comparison.more.get(name)
    if table is None:
        return pd.DataFrame(columns=["task", "arm", "method"])
    arms = comparison.arms[comparison.arms["primary"]]
    return table.merge(arms[["task", "arm", "method"]].drop_duplicates(), on=["task", "arm", "method"])


def nested_metrics(comparison: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    """task -> arm -> metric -> estimate of the primary method, as `dvc metrics` reads it; null where undefined."""
    rows = comparison.arms[comparison.arms["primary"]]
    nested: dict[str, dict[str, dict[str, float | None]]] = {}
    for task, arm, metric, estimate in rows[["task", "arm", "metric", "estimate"]].itertuples(index=False, name=None):
        value = None if pd.isna(estimate) else round(float(estimate), 6)
        nested.setdefault(task, {}).setdefault(arm, {})[metric] = value
    return nested


def headlines(comparison: Comparison, wanted: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[str, Any]:
    """The estimates that `wanted` names (`CompareSettings.headlines`); raises SettingsError where not one row fits."""
    found: dict[str, Any] = {}
    for group, names in wanted.items():
        for name, cells in names.items():
            where = {column: value for column, value in cells.items() if column != "table"}
            more = cells.get("table")
            rows = judged_only(comparison, more) if more else comparison.arms[comparison.arms["primary"]]
            if missing := set(where) - set(rows.columns):
                problem = f"compare.headlines.{group}.{name}: no column {', '.join(sorted(missing))}"
                raise SettingsError(problem, f"There are {', '.join(map(str, rows.columns))}.")
            rows = rows[(rows[list(where)].astype(str) == pd.Series(where)).all(axis=1)]
            if len(rows) != 1:
                problem = f"compare.headlines.{group}.{name} fits {len(rows)} rows, not one"
                raise SettingsError(problem, "Name task, arm, metric and what else tells the rows apart.")
            found.setdefault(group, {})[name] = round(float(rows["estimate"].iloc[0]), 6)
    return found


def write_comparison(comparison: Comparison, directory: Path, wanted: Mapping[str, Any] | None = None) -> None:
    """One csv per table (those of the kinds below more/), types.json, metrics.json (`nested_metrics`, `headlines`)."""
    tables = {one.name: getattr(comparison, one.name) for one in fields(comparison) if one.name != MORE}
    tables |= {f"{MORE}/{name}": table for name, table in comparison.more.items()}
    for name, table in tables.items():
        with atomic_path(directory / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.10g")
    write_json(directory / TYPES, {name: table.dtypes.astype(str).to_dict() for name, table in tables.items()})
    write_json(directory / "metrics.json", nested_metrics(comparison) | headlines(comparison, wanted or {}))


def read_comparison(directory: Path) -> Comparison:
    """What `write_comparison` wrote; raises DataError if there is none."""
    types: dict[str, dict[str, Any]] = read_json(directory / TYPES)
    tables = {}
    for name, columns in types.items():
        gaps = {column: [""] for column, kind in columns.items() if kind.startswith("float")}
        path = directory / f"{name}.csv"
        tables[name] = pd.read_csv(path, dtype=columns, keep_default_na=False, na_values=gaps)
    more = {name.removeprefix(f"{MORE}/"): tables.pop(name) for name in list(tables) if name.startswith(f"{MORE}/")}
    return Comparison(**tables, more=more)
