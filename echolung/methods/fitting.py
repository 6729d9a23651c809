"""One fit of the nested cross-validation, and the refit of a method on all patients.

A fit is one task, arm, method, seed, repeat and outer fold: the method chooses on inner folds of the training rows, is
fitted on all of them, and only then sees the outer test fold, whose labels reach nothing but y_true. Seeds depend on
task, repeat and fold and not on the arm: arms are compared on the same batches and initial heads.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed, digest, sha256_file
from echolung.data.clips import ClipStore
from echolung.data.manifest import read_manifest
from echolung.data.splits import UNUSED, folds_digest, read_folds
from echolung.embedding.recordings import Recordings
from echolung.kinds.kinds import KINDS, kind_of
from echolung.kinds.predictions import prediction_rows
from echolung.kinds.task import Task
from echolung.methods.method import Method
from echolung.methods.methods import METHODS

CODE = ("echolung.methods.fitting", "echolung.embedding.recordings", "echolung.data.clips")
"""Modules that every fit depends on, besides its method's own."""


def outer_fold(folds: pd.DataFrame, repeat: int, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training rows (with `inner`) and the test rows of one outer fold; raises DataError if there is none."""
    rows = folds[folds["repeat"] == repeat].reset_index(drop=True)
    test = rows[rows["fold"] == fold]
    training = rows.assign(inner=rows.get(f"inner_{fold}", UNUSED))
    training = training[(training["fold"] != fold) & (training["inner"] != UNUSED)]
    if test.empty or training.empty:
        raise DataError(f"the split has no outer fold {fold} in repeat {repeat}", "Run `dvc repro split`.")
    assert set(training["split_group"]).isdisjoint(test["split_group"]), "a group is trained on and tested"
    return training.reset_index(drop=True), test.reset_index(drop=True)


def fit_one(
    data: str | Path, work: str | Path, configuration: Mapping[str, Any], folds: pd.DataFrame | None = None
) -> dict[str, Any]:
    """One fit, in any process: plain values in, tables out.

    `data` is data/<study>, `work` a folder for fits in progress; `folds` are those of the task unless others are given.
    The configuration: task_name, task, arm, method, arm_seed, repeat, fold, seed, settings (of the method). Returns
    predictions (rows of `kinds.predictions`), search (what the inner folds chose from) and costs: one row, seconds on
    the clock of this call (`fit_seconds`) and of each recording that is asked about (`ask_seconds`), and how many were
    `fitted`. An encoder's own costs are not in them.
    """
    root, given = Path(data), dict(configuration)
    name, repeat, fold = str(given["task_name"]), int(given["repeat"]), int(given["fold"])
    task = KINDS[given["task"]["kind"]].Settings.parse(given["task"], f"tasks.{name}")
    folds = read_folds(root / "split" / f"{name}.csv") if folds is None else folds
    kind, (training, test) = kind_of(task), outer_fold(folds, repeat, fold)
    method = METHODS[given["method"]]
    features = feature_stores(root, task, given["arm"], given["arm_seed"]) if method.reads_tokens else []
    recordings = Recordings.of_sources(root / "ingest", task.sources, features)
    settings = method.Settings.parse(given["settings"], f"fit.methods.{given['method']}")
    seed = derived_seed(given["seed"], name, repeat, fold)
    directory, begun = Path(work) / digest(given), time.perf_counter()
    fitted = method.fit(settings, task, recordings, training, seed, directory)
    fit_seconds, ids = time.perf_counter() - begun, [str(one) for one in test["sample_id"]]
    heading = {"task": name, "arm": given["arm"], "arm_seed": int(given["arm_seed"]), "method": given["method"]}
    heading |= {"repeat": repeat, "fold": fold}
    begun = time.perf_counter()
    values = fitted.predict(recordings, ids)
    costs = {"fitted": len(training), "fit_seconds": fit_seconds}
    costs["ask_seconds"] = (time.perf_counter() - begun) / len(ids)
    search, seen = fitted.search(), recordings.seen(ids)
    shutil.rmtree(directory, ignore_errors=True)
    return {
        "predictions": prediction_rows(heading, test, kind.columns(task), values, folds_digest(folds), seen),
        "search": search.assign(**heading)[[*heading, *search.columns]],
        "costs": pd.DataFrame([heading | costs]),
    }


def feature_stores(data: Path, task: Task, arm: str, seed: int) -> list[Path]:
    """The feature store of one encoder for each source of the task, below data/<study>/embed."""
    return [data / "embed" / source / arm / f"seed{seed}" for source in task.sources]


def refit(
    method: str, settings: Parameters, name: str, task: Task, recordings: Recordings, folds: pd.DataFrame, seed: int,
    directory: Path,
) -> Method:  # fmt: skip
    """The method to deploy: chosen and fitted on all patients, the outer folds of repeat 0 as inner folds. A task with
    an official split or an external test set is fitted on its training rows, as it was scored."""
    training = refit_rows(task, folds)
    return METHODS[method].fit(settings, task, recordings, training, derived_seed(seed, name, "refit"), directory)


def refit_rows(task: Task, folds: pd.DataFrame) -> pd.DataFrame:
    """The rows, with `inner`, that `refit` fits on."""
    if task.split != "cv":
        return outer_fold(folds, 0, 0)[0]
    rows = folds[folds["repeat"] == 0].reset_index(drop=True)
    return rows.assign(inner=rows["fold"])


def content(data: Path, task: Task) -> str:
    """A digest of what is known of the task's recordings, of their frames and of their masks."""
    found = []
    for source in task.sources:
        manifest = read_manifest(data / "ingest" / source / "manifest.parquet")
        store = ClipStore.open(data / "ingest" / source / "clips")
        masks = [sha256_file(path) for path in sorted((data / "ingest" / source / "masks").glob("*"))]
        found.append([store.fingerprint, store.size, manifest.astype(str).to_csv(index=False), masks])
    return digest(found)
