"""Every arm and method of a task beside what it costs to train and to ask, on the same folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.embedding.features import Features
from echolung.evaluation.comparison import Comparison
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.methods.methods import METHODS
from echolung.models.weights import read_record
from echolung.reports.study import read_history
from echolung.reports.tables import TaskTable, arm_rows, basis

KEYS = ["task", "arm", "method"]
COSTS = {"minutes": "minutes", "clips": "clips", "tflop": "TFLOP", "milliseconds": "ms to ask"}
EXPLAINED = (
    "Costs are means over seeds and folds. Minutes on the clock: pretraining of the arm's encoder (of continuing"
    " alone, where it began with weights from a file), its tokens of the training recordings, and one fit. Clips that"
    " pretraining saw, and its TFLOP, counted. To ask: from stored frames to the answer for one recording, its tokens"
    " included. A fit has one thread; tokens are made with all, in batches. A network that several methods share is"
    " paid for by the first. Other work on the machine changes these times, never an answer."
)


def costs(
    fits: pd.DataFrame,
    tasks: Mapping[str, Task],
    encoders: Mapping[str, Sequence[Path]],
    embed: Path,
    flops: Mapping[str, float],
) -> pd.DataFrame:
    """KEYS and COSTS, one row per task, arm and method: means over seeds and folds; NaN where not known.
    `fits`: the tables costs.parquet of all tasks. `encoders`: arm -> its encoder folders. `embed`: the folder of the
    feature stores. `flops`: pretrained encoder -> FLOPs per clip."""
    folders = {(arm, folder.name): folder for arm, found in encoders.items() for folder in found}
    rows = []
    for key, found in fits.groupby(["task", "arm", "arm_seed", "method"], sort=False):
        task, arm, seed, method = map(str, key)
        trained, each = (0.0, 0.0, 0.0), 0.0
        if METHODS[method].reads_tokens:
            trained = _pretraining(folders[arm, f"seed{seed}"], flops)
            each = Features.open(embed / tasks[task].source / arm / f"seed{seed}").record.seconds
        seconds, clips, tflop = trained
        minutes = (seconds + each * found["fitted"] + found["fit_seconds"]).mean() / 60
        rows.append([task, arm, method, minutes, clips, tflop, 1000 * (each + found["ask_seconds"]).mean()])
    table = pd.DataFrame(rows, columns=[*KEYS, *COSTS])
    return table.groupby(KEYS, sort=False).mean().reset_index()


def _pretraining(folder: Path, flops: Mapping[str, float]) -> tuple[float, float, float]:
    """Seconds, clips and TFLOP that made an encoder what it is."""
    record = read_record(folder)
    if not record.steps:
        return (np.nan,) * 3 if record.settings.weights else (0.0,) * 3
    last = read_history([folder]).iloc[-1]
    return float(last["seconds"]), float(last["clips"]), last["clips"] * flops[record.arm] / 1e12


def contest(comparison: Comparison, tasks: Mapping[str, Task], costs: pd.DataFrame) -> list[TaskTable]:
    """A table per task that several methods answer besides the controls: a row for every arm and method."""
    tables = []
    for name, task in tasks.items():
        arms, kind = comparison.arms[comparison.arms["task"] == name], KINDS[task.kind]
        if costs.empty or arms.loc[arms["role"].isin(["candidate", "reference"]), "method"].nunique() < 2:
            continue
        mine = costs[costs["task"] == name]
        of = dict(zip(zip(mine["arm"], mine["method"], strict=True), mine[list(COSTS)].to_numpy(float), strict=True))
        metrics = list(dict.fromkeys([*kind.paired[:2], kind.loss]))
        rows = [[*line, *map(_written, of[key])] for key, line in arm_rows(arms, comparison.order, metrics).items()]
        heads = ["", "method", *(kind.metrics[metric].label for metric in metrics), *COSTS.values()]
        tables.append(TaskTable(name, basis(arms), heads, rows, []))
    return tables


def _written(value: float) -> str:
    return "not known" if np.isnan(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
