"""Controls: arms that look at no pixel, through the same folds into the same predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echolung.data.splits import folds_digest, read_folds
from echolung.data.tasks import Task
from echolung.evaluation.probe import TrialResult, outer_fold, plain, prediction_rows

Control = Callable[[pd.DataFrame, pd.DataFrame, Task], np.ndarray]
"""From the training rows and the test rows (without their classes) to probabilities (test rows, classes)."""


def majority(training: pd.DataFrame, test: pd.DataFrame, task: Task) -> np.ndarray:
    """The class frequencies of the training videos, each patient counting once where patients are the unit."""
    weights = pd.Series(1.0, index=training.index)
    if task.unit == "patient":
        weights /= training.groupby("patient_id")["sample_id"].transform("size")
    counts = np.bincount(training["y"], weights=weights, minlength=len(task.classes))
    return np.tile(counts / counts.sum(), (len(test), 1))


CONTROLS: dict[str, Control] = {"majority": majority}


def control_predictions(
    control: str, folds: pd.DataFrame, repeat: int, fold: int, name: str, task: Task
) -> TrialResult:
    """One control on one outer fold of the task `name`: an arm with seed 0, probe "none", and no inner fits."""
    training, test = outer_fold(folds, repeat, fold)
    p = CONTROLS[control](training, test.drop(columns=["y", "label"]), task)
    keys = {"task": name, "arm": control, "arm_seed": 0, "probe": "none", "repeat": repeat, "fold": fold}
    return TrialResult(prediction_rows(keys, test, p, folds_digest(folds)), pd.DataFrame())


def control_trial(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """`control_predictions` with the keys of `probe_trial`: `control` stands in place of features and settings."""
    result = control_predictions(
        str(configuration["control"]),
        read_folds(Path(configuration["folds"])),
        int(configuration["repeat"]),
        int(configuration["fold"]),
        str(configuration["name"]),
        Task.parse(configuration["task"], f"tasks.{configuration['name']}"),
    )
    return plain(result)
