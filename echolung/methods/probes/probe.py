"""Nested cross-validation of probes on frozen tokens, and the refit of one on all patients.

One trial is one task, arm, arm seed, repeat and outer fold: the probe is chosen on inner folds of the outer-training
videos, fitted once on all of them, and only then sees the outer test fold, whose labels reach nothing but y_true.
Seeds depend on task, repeat and fold and not on the arm: arms are compared on the same batches and initial heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from echolung.core.errors import DataError
from echolung.core.runtime import derived_seed
from echolung.data.splits import folds_digest, read_folds
from echolung.embedding.features import Features
from echolung.kinds.task import Task
from echolung.methods.probes.heads import Kind, ProbeForm, ProbeHeads, ProbeRecord
from echolung.methods.probes.selection import Cohort, Inputs, ProbeSettings, fit, select


@dataclass(frozen=True)
class TrialResult:
    """Rows of the predictions contract, and the inner fits: one row per probe, learning rate, decay and epoch."""

    predictions: pd.DataFrame
    fits: pd.DataFrame


def fit_trial(
    features: Features, folds: pd.DataFrame, repeat: int, fold: int, name: str, task: Task, settings: ProbeSettings
) -> TrialResult:
    """Choose, fit and apply one probe of each kind: all but the outer fold to train on, the outer fold to predict.

    `folds` is the split of the task `name`. Raises DataError, naming the videos, where features are missing or not
    finite, and where the split has no such fold.
    """
    training, test = outer_fold(folds, repeat, fold)
    positions = features.positions([*training["sample_id"], *test["sample_id"]])
    cohort = cohort_of(training, training[f"inner_{fold}"])
    seed = derived_seed(settings.seed, name, repeat, fold)
    predictions, fits = [], []
    for kind in settings.kinds:
        inputs = Inputs(features, positions, _form(features, task, settings, kind), settings.batch)
        selection = select(inputs, cohort, task.unit, settings, seed)
        probe = fit(inputs, cohort, task.unit, settings, selection, seed)
        p = inputs.predict(probe, np.arange(len(training), len(positions)))
        keys: dict[str, Any] = {
            "task": name,
            "arm": features.record.arm,
            "arm_seed": features.record.seed,
            "probe": kind,
            "repeat": repeat,
            "fold": fold,
        }
        seen = features.seen(test["sample_id"])
        predictions.append(prediction_rows(keys, test, p, folds_digest(folds), seen))
        fits.append(selection.fits.assign(**keys)[[*keys, *selection.fits.columns]])
    return TrialResult(pd.concat(predictions, ignore_index=True), pd.concat(fits, ignore_index=True))


def refit(
    features: Features, folds: pd.DataFrame, name: str, task: Task, settings: ProbeSettings, kind: Kind
) -> tuple[ProbeHeads, ProbeRecord]:
    """The probe to deploy: the inner selection procedure on all patients, on the outer folds of repeat 0.

    Its `inner_log_loss` chose it and is no score of it: that is what the out-of-fold predictions are for.
    """
    rows = folds[folds["repeat"] == 0].reset_index(drop=True)
    cohort = cohort_of(rows, rows["fold"])
    seed = derived_seed(settings.seed, name, "refit")
    inputs = Inputs(
        features, features.positions(rows["sample_id"]), _form(features, task, settings, kind), settings.batch
    )
    selection = select(inputs, cohort, task.unit, settings, seed)
    probe = fit(inputs, cohort, task.unit, settings, selection, seed)
    record = ProbeRecord(
        form=probe.form,
        task=name,
        classes=task.classes,
        unit=task.unit,
        views=inputs.views,
        arm=features.record.arm,
        arm_seed=features.record.seed,
        encoder_sha256=features.record.encoder_sha256,
        features_key=features.record.key,
        split_digest=folds_digest(folds),
        videos=len(rows),
        patients=rows["patient_id"].nunique(),
        learning_rate=selection.learning_rate,
        weight_decay=selection.weight_decay,
        epochs=selection.epochs,
        inner_log_loss=selection.log_loss,
        seed=seed,
    )
    return probe, record


def probe_trial(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """`fit_trial` for another process: plain values in, plain values out.

    In: features (a directory), folds (a csv), repeat, fold, name, task and settings (as dictionaries), and threads,
    1 if left out. Out: predictions and fits, each a dictionary of columns, which `collect` puts together.
    """
    torch.set_num_threads(int(configuration.get("threads", 1)))
    result = fit_trial(
        Features.open(Path(configuration["features"])),
        read_folds(Path(configuration["folds"])),
        int(configuration["repeat"]),
        int(configuration["fold"]),
        str(configuration["name"]),
        Task.parse(configuration["task"], f"tasks.{configuration['name']}"),
        ProbeSettings.parse(configuration["settings"], "probe"),
    )
    return plain(result)


def plain(result: TrialResult) -> dict[str, Any]:
    """A trial's tables as dictionaries of columns, to pass from one process to another."""
    return {"predictions": result.predictions.to_dict("list"), "fits": result.fits.to_dict("list")}


def collect(results: list[dict[str, Any]]) -> TrialResult:
    """The tables of many trials, one below the other."""
    predictions = [pd.DataFrame(result["predictions"]) for result in results]
    fits = [pd.DataFrame(result["fits"]) for result in results if result["fits"]]
    return TrialResult(
        pd.concat(predictions, ignore_index=True), pd.concat(fits, ignore_index=True) if fits else pd.DataFrame()
    )


def outer_fold(folds: pd.DataFrame, repeat: int, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training rows and the test rows of one outer fold; raises DataError if the split has no such fold."""
    rows = folds[folds["repeat"] == repeat]
    held_out = rows["fold"] == fold
    if not held_out.any() or held_out.all():
        raise DataError(f"the split has no outer fold {fold} in repeat {repeat}", "Run `dvc repro split`.")
    return rows[~held_out].reset_index(drop=True), rows[held_out].reset_index(drop=True)


def prediction_rows(
    keys: Mapping[str, Any], test: pd.DataFrame, p: np.ndarray, split_digest: str, seen: np.ndarray | None = None
) -> pd.DataFrame:
    """Rows of the predictions contract from probabilities p (videos of the test fold, classes).

    `seen` (videos,) says which of them the arm's encoder was pretrained on; none, where it has no encoder.
    """
    columns = {f"p_{index}": p[:, index] for index in range(p.shape[1])}
    named = ["sample_id", "patient_id", "split_group"]
    marks: dict[str, Any] = {
        "seen_in_pretraining": np.zeros(len(test), bool) if seen is None else seen,
        "split_digest": split_digest,
    }
    rows = test[named].assign(**keys, y_true=test["y"], **columns, **marks)
    return rows[[*keys, *named, "y_true", *columns, *marks]]


def cohort_of(rows: pd.DataFrame, inner: pd.Series) -> Cohort:
    """Training rows of a split, which stand first among the inputs, and their inner folds."""
    return Cohort(
        places=np.arange(len(rows)),
        y=rows["y"].to_numpy(np.int64),
        patient=pd.factorize(rows["patient_id"], sort=True)[0],
        inner=inner.to_numpy(np.int64),
    )


def _form(features: Features, task: Task, settings: ProbeSettings, kind: Kind) -> ProbeForm:
    return ProbeForm(
        kind=kind,
        width=features.tokens.shape[-1],
        classes=len(task.classes),
        attention_head_width=settings.attention_head_width,
        mlp_ratio=settings.mlp_ratio,
    )
