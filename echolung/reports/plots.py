"""The figures' data as small csv files for `dvc plots show` and `dvc plots diff`: folds/<task>-<metric>.csv (step, one
column per arm), training/<encoder>-seed<k>.csv (a history), and what kinds of task add, such as confusion/ and roc/."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.reports.tables import by_kind


def write_plots(
    comparison: Comparison, tasks: Mapping[str, Task], arms: Sequence[str], history: pd.DataFrame, directory: Path
) -> None:
    """Write all of them under `directory`. A table of arms has a column for each of `arms`."""
    files: dict[str, pd.DataFrame] = {}
    folds = judged_only(comparison, "folds")
    for kind, names in by_kind(tasks).items():
        compared = folds[folds["task"].isin(names) & folds["metric"].isin(KINDS[kind].paired)]
        for (task, metric), table in compared.groupby(["task", "metric"], sort=True):
            files[f"folds/{task}-{metric}"] = table.pivot(index="step", columns="arm", values="value").reset_index()
        files |= KINDS[kind].plots(comparison.of_tasks(names))
    if len(history):
        for (encoder, seed), table in history.groupby(["encoder", "seed"], sort=True):
            columns = table.drop(columns=["encoder", "seed"]).dropna(axis=1, how="all")
            files[f"training/{encoder}-seed{seed}"] = columns
    for name, table in files.items():
        folder, _, rest = name.partition("/")
        path = directory / folder / (re.sub(r"[^\w.-]+", "_", rest) + ".csv")
        if shown := [arm for arm in comparison.order if arm in table]:  # DVC wants every arm's column in every file
            others = [column for column in table if column not in shown]
            table = table.reindex(columns=[*others, *dict.fromkeys([*arms, *shown])])
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6g")
