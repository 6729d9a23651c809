"""The fits of one task on Ray: every arm x method x seed x repeat x outer fold."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from echolung.compute.trials import run_trials
from echolung.core.parameters import Parameters
from echolung.core.progress import Progress
from echolung.core.runtime import code_digest, digest
from echolung.data.splits import folds_digest
from echolung.embedding.features import Features
from echolung.kinds.task import Task
from echolung.methods.fitting import CODE, content, feature_stores, fit_one
from echolung.methods.methods import METHODS


def fit_task(
    name: str, task: Task, fits: Sequence[tuple[str, str, int]], methods: Mapping[tuple[str, str], Parameters],
    folds: pd.DataFrame, data: Path, runs: Path, *, seed: int, workers: int,
    on_progress: Progress = lambda done, total: None, stop: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Out-of-fold predictions of every fit on the task's `folds`, what their inner folds chose from, what they cost.
    `fits` are (arm, method, seed of the arm), `methods` the parameters of each arm's method. `data` is data/<study>;
    finished fits are kept in `runs`, under a digest of all that they depend on. Raises as `run_trials`."""
    places = folds.loc[folds["fold"] >= 0, ["repeat", "fold"]].drop_duplicates().itertuples(index=False)
    outer = [{"repeat": int(repeat), "fold": int(fold)} for repeat, fold in places]
    recordings = content(data, task)
    split = folds_digest(folds)
    trials: list[dict[str, Any]] = []
    for arm, method, arm_seed in fits:
        stores = feature_stores(data, task, arm, arm_seed) if METHODS[method].reads_tokens else []
        depends = [split, recordings, [Features.open(store).record.key for store in stores]]
        one: dict[str, Any] = {"task_name": name, "task": task.model_dump(mode="json"), "arm": arm, "method": method}
        one |= {"arm_seed": arm_seed, "seed": seed, "settings": methods[arm, method].model_dump(mode="json")}
        files = METHODS[method].files(methods[arm, method])
        one["_depends"] = digest([*depends, *files, code_digest(*sorted({*METHODS[method].modules(), *CODE}))])
        trials += [one | place for place in outer]
    able = torch.cuda.is_available() or "RAY_ADDRESS" in os.environ
    resources = {"cpu": 1, "gpu": max(METHODS[method].gpus for _, method, _ in fits) if able else 0}
    function, place = functools.partial(fit_one, str(data), str(runs.parent / ".work")), runs / "finished"
    results = run_trials(function, trials, place, f"fit-{name}", workers, on_progress, resources=resources, stop=stop)
    joined = functools.partial(pd.concat, ignore_index=True)
    search = [result["search"] for result in results if len(result["search"])] or [pd.DataFrame({"task": []})]
    predictions, costs = ([result[name] for result in results] for name in ("predictions", "costs"))
    return joined(predictions), joined(search), joined(costs)
