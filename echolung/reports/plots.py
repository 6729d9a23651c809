"""The figures' data as small csv files, so that `dvc plots show` and `dvc plots diff` draw them across revisions.

confusion/<task>-<arm>.csv     actual, predicted: one row per unit and seed
folds/<task>-<metric>.csv      step, one column per arm
roc/<task>-<class>.csv         false_positive_rate, one column per arm
training/<arm>-seed<k>.csv     step, loss, learning_rate, ...
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from echolung.core.runtime import atomic_path
from echolung.evaluation.comparison import Comparison, arms_in_order
from echolung.reports.tables import COLUMNS


def write_plots(comparison: Comparison, history: pd.DataFrame, directory: Path) -> list[Path]:
    """Write all of them under `directory`; returns the files."""
    primary = comparison.arms[comparison.arms["primary"]]
    judged = set(primary[["task", "arm", "probe"]].itertuples(index=False, name=None))
    files: dict[str, pd.DataFrame] = {}
    for key, table in comparison.confusion.groupby(["task", "arm", "probe"], sort=True):
        if key in judged:
            units = table.loc[table.index.repeat(table["count"]), ["actual", "predicted"]]
            files[f"confusion/{_file(key[0], key[1])}"] = units
    folds = _judged_only(comparison.folds[comparison.folds["metric"].isin(COLUMNS)], judged)
    arms = arms_in_order(comparison.arms)  # one column for every arm of the study, empty where a task lacks it
    for key, table in folds.groupby(["task", "metric"], sort=True):
        by_arm = table.pivot(index="step", columns="arm", values="value")
        files[f"folds/{_file(*key)}"] = by_arm.reindex(columns=arms).reset_index()
    for key, table in _judged_only(comparison.roc, judged).groupby(["task", "class"], sort=True):
        table = table.assign(point=table.groupby("arm").cumcount())
        curves = table.pivot(index="point", columns="arm", values="true_positive_rate").reindex(columns=arms)
        rates = table.drop_duplicates("point").set_index("point")["false_positive_rate"]
        curves.insert(0, "false_positive_rate", rates)
        files[f"roc/{_file(*key)}"] = curves
    if len(history):
        for key, table in history.groupby(["arm", "seed"], sort=True):
            files[f"training/{_file(key[0], f'seed{key[1]}')}"] = table.drop(columns=["arm", "seed"])
    for name, table in files.items():
        with atomic_path(directory / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    return [directory / f"{name}.csv" for name in files]


def _judged_only(table: pd.DataFrame, judged: set[tuple[str, str, str]]) -> pd.DataFrame:
    """The rows of each arm's primary probe."""
    keys = table[["task", "arm", "probe"]].itertuples(index=False, name=None)
    return table[[key in judged for key in keys]]


def _file(*parts: object) -> str:
    return "-".join(re.sub(r"[^\w.-]+", "_", str(part)) for part in parts)
