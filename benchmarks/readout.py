"""Do the probes find what the tokens hold? python benchmarks/readout.py pocus-pathology blues-covid

For every encoder of the study at hand: out-of-fold AUROC (mean over folds and classes) by the probes here, and by what
a user would write with scikit-learn on the mean and the deviation of the tokens, all tuned on the same inner folds by
log-loss. Run it after `dvc repro`, and only on tasks whose labels may be looked at (phantoms).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from echolung.data.splits import read_folds
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.methods.fitting import feature_stores, outer_fold
from echolung.methods.methods import METHODS
from echolung.settings import Settings, load
from echolung.stage import project_root

OTHERS: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "sklearn logistic": (LogisticRegression(max_iter=5000), {"C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]}),
    "sklearn SVM (RBF)": (
        SVC(probability=True, random_state=0),
        {"C": [0.1, 1.0, 10.0], "gamma": ["scale", 1e-4, 1e-3]},
    ),
    "sklearn MLP (64)": (MLPClassifier(64, max_iter=500, random_state=0), {"alpha": [1e-3, 1e-1, 1.0, 10.0]}),
}
Predict = Callable[[pd.DataFrame, list[str]], np.ndarray]


def ours(settings: Settings, name: str, recordings: Recordings, method: str) -> Predict:
    def predict(training: pd.DataFrame, test: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            of = settings.fit.of(method)
            fitted = METHODS[method].fit(of, settings.tasks[name], recordings, training, 0, Path(folder))
        return fitted.predict(recordings, test)

    return predict


def theirs(recordings: Recordings, name: str) -> Predict:
    model, grid = OTHERS[name]

    def table(ids: list[str]) -> np.ndarray:
        return recordings.summaries(ids)[:, 0, :2].reshape(len(ids), -1)

    def predict(training: pd.DataFrame, test: list[str]) -> np.ndarray:
        step = model.__class__.__name__.lower()
        inner = PredefinedSplit(training["inner"].clip(lower=-1))
        search = GridSearchCV(
            make_pipeline(StandardScaler(), model),
            {f"{step}__{key}": values for key, values in grid.items()},
            scoring=lambda fitted, x, y: -log_loss(y, fitted.predict_proba(x), labels=fitted.classes_),
            cv=inner,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search.fit(table(list(training["sample_id"])), training["y"].astype(int))
        return np.asarray(search.predict_proba(table(test)))

    return predict


def auroc(predict: Predict, folds: pd.DataFrame, classes: int) -> float:
    """Mean over repeats, folds and classes."""
    found = []
    for repeat, fold in folds.loc[folds["fold"] >= 0, ["repeat", "fold"]].drop_duplicates().itertuples(index=False):
        training, test = outer_fold(folds, int(repeat), int(fold))
        p, y = predict(training, list(test["sample_id"])), test["y"].to_numpy(int)
        ranked = range(classes) if classes > 2 else [1]
        found += [roc_auc_score(y == k, p[:, k]) for k in ranked if 0 < (y == k).sum() < len(y)]
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    root, rows = project_root(), []
    settings, data = load(root), root / "data" / load(root).study
    for name in parser.parse_args().tasks:
        task = settings.tasks[settings.known_task(name)]
        folds = read_folds(data / "split" / f"{name}.csv")
        for arm in settings.encoders_of(name):
            for seed in settings.seeds(arm):
                stores = feature_stores(data, task, arm, seed)
                recordings = Recordings.of_sources(data / "ingest", task.sources, stores)
                ways = {
                    f"echolung {method}": ours(settings, name, recordings, method) for method in ("linear", "attentive")
                }
                ways |= {other: theirs(recordings, other) for other in OTHERS}
                for label, predict in ways.items():
                    begun = time.perf_counter()
                    score = auroc(predict, folds, len(classes_of(task)))
                    seconds = time.perf_counter() - begun
                    rows.append(
                        {"task": name, "arm": arm, "seed": seed, "read by": label, "auroc": score, "s": seconds}
                    )
    table = pd.DataFrame(rows)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}, study {settings.study}")
    for value, digits in (("auroc", 3), ("s", 1)):
        wide = table.pivot_table(index=["task", "arm"], columns="read by", values=value, sort=False)
        print(f"\n{value}, mean over seeds\n{wide.round(digits).to_string()}")


if __name__ == "__main__":
    main()
