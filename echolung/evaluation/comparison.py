"""The tables a comparison consists of, and how they lie on disk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_path, write_json

TEXT = [
    "task",
    "arm",
    "reference",
    "probe",
    "reference_probe",
    "metric",
    "class",
    "actual",
    "predicted",
    "test",
    "unit",
]
TEXT += ["note", "outcome", "text", "role"]
ROLES = ["pretrained", "other", "reference", "control", "majority"]


@dataclass(frozen=True)
class Comparison:
    """The tables of a comparison; every row names its task, arm and probe."""

    arms: pd.DataFrame
    """role, primary, metric, estimate, low, high, seeds, seed_low, seed_high, n_patients, n_groups, n_videos, n_seen,
    unit, note

    n_groups counts the split groups that the patients fall into: what counts as independent. n_seen counts the videos
    that the arm's encoders were pretrained on; role is one of ROLES; primary marks the primary probe, or a control's
    own.
    """
    pairs: pd.DataFrame
    """reference, reference_probe, primary, metric, difference, low, high, n_patients, n_groups, n_videos, test, n_seen

    p_value for the log-loss alone, p_holm for the confirmatory family alone.
    """
    verdicts: pd.DataFrame
    """reference, confirmatory, outcome (better | worse | undecided), text: the primary probe's pairs in plain words

    confirmatory marks the family of tests that Holm corrects; the others explore.
    """
    folds: pd.DataFrame
    """repeat, fold, step, metric, value, n_patients, n_units"""
    classes: pd.DataFrame
    """class, metric (sensitivity | specificity), estimate, low, high, n_units"""
    confusion: pd.DataFrame
    """actual, predicted, count (units added up over seeds), seeds"""
    roc: pd.DataFrame
    """class, false_positive_rate, true_positive_rate"""
    secondary: pd.DataFrame
    """reference, test, difference, standard_error, low, high, p_value (uncorrected)"""


def arms_in_order(arms: pd.DataFrame) -> list[str]:
    """Names of the arms, pretrained ones first and the majority control last."""
    seen = arms.drop_duplicates("arm").set_index("arm")["role"].to_dict()
    return sorted((str(arm) for arm in seen), key=lambda arm: (ROLES.index(seen[arm]), arm))


def nested_metrics(comparison: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    """task -> arm -> metric -> estimate at the primary probe, as `dvc metrics` reads it; null where undefined."""
    rows = comparison.arms[comparison.arms["primary"]]
    nested: dict[str, dict[str, dict[str, float | None]]] = {}
    for task, arm, metric, estimate in rows[["task", "arm", "metric", "estimate"]].itertuples(index=False, name=None):
        value = None if pd.isna(estimate) else round(float(estimate), 6)
        nested.setdefault(task, {}).setdefault(arm, {})[metric] = value
    return nested


def write_comparison(comparison: Comparison, directory: Path) -> None:
    """One csv per table, and metrics.json (task -> arm -> metric -> estimate at the primary probe)."""
    for field in fields(Comparison):
        with atomic_path(directory / f"{field.name}.csv") as temporary:
            getattr(comparison, field.name).to_csv(temporary, index=False, float_format="%.10g")
    write_json(directory / "metrics.json", nested_metrics(comparison))


def read_comparison(directory: Path) -> Comparison:
    """What `write_comparison` wrote; raises DataError naming a missing table."""
    tables = {}
    for field in fields(Comparison):
        path = directory / f"{field.name}.csv"
        if not path.is_file():
            raise DataError(f"{path} does not exist", "Run `dvc repro compare` to make it.")
        # Class names such as "0", "NA" or "none" are text, and stay it.
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, "str"), keep_default_na=False, na_values=[""])
        text = [column for column in TEXT if column in table]
        if field.name in ("arms", "pairs") and "n_groups" not in table:
            raise DataError(f"{path} was written by an earlier version: it has no n_groups", "Run `dvc repro compare`.")
        tables[field.name] = table.fillna(dict.fromkeys(text, ""))
    return Comparison(**tables)
