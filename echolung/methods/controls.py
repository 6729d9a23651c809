"""Controls: arms without an encoder, through the same folds into the same predictions.

majority      the class frequencies: what looking at nothing gives
source-only   frame size, rate, length, container and codec: what the source gives away without a look at the lung
hand-made     brightness, texture and motion (handmade.py): what needs no network

The last two are multinomial logistic regressions, their penalty chosen on the inner folds by log-loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from echolung.data.clips import ClipStore
from echolung.data.splits import folds_digest
from echolung.kinds.task import Task
from echolung.methods.handmade import handmade_table
from echolung.methods.probes.probe import TrialResult, cohort_of, outer_fold, prediction_rows
from echolung.methods.probes.selection import Cohort, unit_log_loss

MAJORITY = "majority"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C of the logistic regressions; the smallest is next to the class frequencies."""


def control_features(manifest: pd.DataFrame, store: ClipStore) -> dict[str, pd.DataFrame]:
    """What each control but the majority looks at: one row of numbers per video of the manifest, index sample_id."""
    return {
        "source-only": source_table(manifest),
        "hand-made": handmade_table(store, manifest["sample_id"]),
    }


def source_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """What the file tells of a video before a frame is looked at."""
    numbers = {
        "log_height": np.log2(manifest["height"].astype(float)),
        "log_width": np.log2(manifest["width"].astype(float)),
        "fps": manifest["fps"].astype(float),
        "log_frames": np.log2(manifest["frames"].astype(float)),
    }
    kinds = pd.DataFrame(
        {
            "container": [PurePath(str(path)).suffix.lower() for path in manifest["path"]],
            "codec": manifest["codec"].astype(str).to_numpy(),
        },
        index=manifest.index,
    )
    table = pd.concat([pd.DataFrame(numbers), pd.get_dummies(kinds, dtype=float)], axis=1)
    return table.set_axis(pd.Index(manifest["sample_id"], name="sample_id"), axis=0)


def control_predictions(
    folds: pd.DataFrame, name: str, task: Task, features: Mapping[str, pd.DataFrame]
) -> TrialResult:
    """All controls on every outer fold of the task `name`: arms with seed 0, probe "none", and no inner fits.

    `features` is what `control_features` returns; the majority needs none.
    """
    rows = []
    for repeat, fold in folds[["repeat", "fold"]].drop_duplicates().itertuples(index=False):
        training, test = outer_fold(folds, int(repeat), int(fold))
        cohort = cohort_of(training, training[f"inner_{fold}"])
        found = {MAJORITY: np.tile(_frequencies(cohort, task), (len(test), 1))}
        for control, table in features.items():
            x, unseen = (table.loc[part["sample_id"]].to_numpy(float) for part in (training, test))
            found[control] = logistic_regression(x, unseen, cohort, task)
        for control, p in found.items():
            keys = {"task": name, "arm": control, "arm_seed": 0, "probe": "none", "repeat": repeat, "fold": fold}
            rows.append(prediction_rows(keys, test, p, folds_digest(folds)))
    return TrialResult(pd.concat(rows, ignore_index=True), pd.DataFrame())


def _frequencies(cohort: Cohort, task: Task) -> np.ndarray:
    """The class frequencies of the training videos, each patient counting once where patients are the unit."""
    counts = np.bincount(cohort.y, weights=cohort.weights(task.unit), minlength=len(task.classes))
    return np.asarray(counts / counts.sum())


def logistic_regression(x: np.ndarray, unseen: np.ndarray, cohort: Cohort, task: Task) -> np.ndarray:
    """Probabilities (unseen, classes) from standardised features x (training videos, features).

    The penalty has the lowest mean log-loss over the inner folds, on the task's unit of decision; of equal ones the
    stronger wins.
    """
    unit = cohort.patient if task.unit == "patient" else np.arange(len(cohort.y))
    folds = np.unique(cohort.inner)
    losses = np.empty((len(PENALTIES), len(folds)))
    for i, penalty in enumerate(PENALTIES):
        for j, fold in enumerate(folds):
            kept, held_out = cohort.inner != fold, cohort.inner == fold
            weights = cohort.weights(task.unit, held_out=fold)[kept]
            p = _fitted(x[kept], cohort.y[kept], weights, penalty, x[held_out], len(task.classes))
            losses[i, j] = unit_log_loss(p[:, None], cohort.y[held_out], unit[held_out])[0]
    penalty = PENALTIES[int(losses.mean(axis=1).argmin())]
    return _fitted(x, cohort.y, cohort.weights(task.unit), penalty, unseen, len(task.classes))


def _fitted(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float, unseen: np.ndarray, classes: int
) -> np.ndarray:
    if len(set(y)) == 1:  # nothing to tell apart
        return np.tile(np.eye(classes)[y[0]], (len(unseen), 1))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))
    model.fit(x, y, logisticregression__sample_weight=weights)
    p = np.zeros((len(unseen), classes))
    p[:, model.classes_] = model.predict_proba(unseen)
    return p
