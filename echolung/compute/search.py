"""The search for a pretraining recipe: trials of Ray Tune, halved as they go, without labels of any scored set.

Compared is the loss on held-out videos of the pool, or a read-out: how well the linear probe does on drawn recordings.
Every trial resumes from its own checkpoint. The result is a table; freezing a recipe is an edit of conf/.
"""

import functools
import itertools
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pydantic
import torch

from echolung.compute.pretraining import resources, stores
from echolung.compute.session import ray_session
from echolung.core.errors import EcholungError, TrialError
from echolung.core.parameters import Parameters
from echolung.core.runtime import code_digest, digest
from echolung.data.clips import ClipStore
from echolung.data.manifest import read_manifest
from echolung.data.splits import folds_digest, read_folds
from echolung.embedding.embed import encode_clips, evaluation_clips
from echolung.embedding.features import Features
from echolung.embedding.recordings import Part, Recordings
from echolung.kinds.kinds import kind_of
from echolung.kinds.predictions import prediction_rows, units_of
from echolung.kinds.task import Task
from echolung.methods.fitting import CODE, content, outer_fold
from echolung.methods.methods import METHODS
from echolung.models.encoder import Encoder
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import train
from echolung.pretraining.run import SeedRun
from echolung.pretraining.settings import PretrainSettings


class SearchSettings(Parameters):
    """One search."""

    encoder: str  # the entry of `pretrain.encoders` that is varied
    space: dict[str, list[Any]] = pydantic.Field(min_length=1)  # by training.<name>, objective.<name> or shape.<name>
    trials: int | None = pydantic.Field(None, ge=1)  # combinations that are tried, drawn at random; all if left out
    readout: str | None = None
    """A task on drawn recordings, for the method `linear`; without one the held-out loss is compared, which is only
    fair among recipes with the same loss."""
    rungs: int = pydantic.Field(3, ge=0)  # how often the worse half is stopped (ASHA, Li et al. 2020, arXiv 1810.05934)
    seed: int = 0
    repeats: int = pydantic.Field(1, ge=1)
    """Runs of every combination, with seeds from `seed` on, all to the end: their mean score ranks it."""

    @pydantic.model_validator(mode="after")
    def _to_the_end(self) -> Self:
        if self.repeats > 1 and self.rungs:
            raise ValueError("with `repeats` no run stops early: set `rungs: 0`")
        return self

    @pydantic.field_validator("space")
    @classmethod
    def _places(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in value.items():
            if key.split(".")[0] not in ("training", "objective", "shape") or key.count(".") != 1 or not values:
                raise ValueError(f"'{key}': values of training.<name>, objective.<name> or shape.<name>")
        return value

    def combinations(self) -> list[dict[str, Any]]:
        """What the trials change, in a random order that depends on `seed`; each combination `repeats` times."""
        found = [dict(zip(self.space, one, strict=True)) for one in itertools.product(*self.space.values())]
        order = np.random.default_rng(self.seed).permutation(len(found))[: self.trials]
        return [found[int(place)] for place in np.repeat(order, self.repeats)]


@dataclass(frozen=True)
class Readout:
    """The linear probe on a task's recordings, out of fold; called with an encoder. Picklable."""

    data: Path  # data/<study>
    name: str
    task: Task
    views: int

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """The kind's metrics of repeat 0, as `readout/<metric>`."""
        kind, folds = kind_of(self.task), read_folds(self.data / "split" / f"{self.name}.csv")
        folds = folds[folds["repeat"] == 0]
        recordings = Recordings([self._part(encoder, source) for source in self.task.sources])
        method, rows = METHODS["linear"], []
        for fold in sorted(set(folds.loc[folds["fold"] >= 0, "fold"])):
            training, test = outer_fold(folds, 0, int(fold))
            with tempfile.TemporaryDirectory() as folder:
                fitted = method.fit(method.Settings(), self.task, recordings, training, 0, Path(folder))
            ids = list(test["sample_id"])
            heading = {"task": self.name, "arm": "a", "arm_seed": 0, "method": "linear", "repeat": 0, "fold": int(fold)}
            values, seen = fitted.predict(recordings, ids), np.zeros(len(ids), bool)
            rows.append(prediction_rows(heading, test, kind.columns(self.task), values, folds_digest(folds), seen))
        units = units_of(pd.concat(rows, ignore_index=True), self.name, self.task, kind)
        scores = kind.scores(units, ("a", "linear"), np.ones((1, len(units.group)))).values
        return {f"readout/{name}": float(scores[name][0, 0]) for name in kind.paired}

    def _part(self, encoder: Encoder, source: str) -> Part:
        store = ClipStore.open(self.data / "ingest" / source / "clips")
        manifest = read_manifest(self.data / "ingest" / source / "manifest.parquet")
        names, shape = manifest["sample_id"], encoder.settings
        clips = (evaluation_clips(store.frames(name), store.fps(name), shape, self.views) for name in names)
        tokens = torch.stack([encode_clips(encoder, views) for views in clips]).numpy()
        features = Features.in_memory(names, tokens, encoder.grid)
        return Part(manifest, store, features)

    @property
    def key(self) -> str:
        """Digest of all that the scores depend on, besides the encoder."""
        folds = folds_digest(read_folds(self.data / "split" / f"{self.name}.csv"))
        code = code_digest(*sorted({*CODE, *METHODS["linear"].modules(), __name__}))
        return digest([self.task.model_dump(mode="json"), self.views, folds, content(self.data, self.task), code])


def search(
    settings: SearchSettings,
    runs: list[SeedRun],
    readout: Readout | None,
    directory: Path,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train `runs`, those of `search_runs`, side by side; the worse half stops at every rung.
    Returns a row per trial, best first (its changes, seed, steps, clips, score, stopped, error, and the mean score of
    its combination), and the score (minus the loss) by step. A recipe that fails, because it diverges, say, comes last
    with its error. Raises TrialError if all fail, or if one does for another reason than its recipe."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    total = max(run.training.steps for run in runs)
    one = runs[0].settings.compute.model_copy(update={"workers": 1})
    curves: dict[int, dict[int, float]] = {number: {} for number in range(len(runs))}

    class Steps(tune.Callback):
        def on_trial_result(self, *, trial: Any, result: dict[str, Any], **info: Any) -> None:
            curves[trial.config["number"]][result["step"]] = result["score"]
            on_progress(sum(max(curve, default=0) for curve in curves.values()), total * len(runs))

    best, place = {"metric": "score", "mode": "max"}, str(directory / "tune")
    scheduler: Any = FIFOScheduler()
    if settings.rungs:
        grace = max(1, total // 2**settings.rungs)
        scheduler = ASHAScheduler(time_attr="step", max_t=total, grace_period=grace, reduction_factor=2)
    shutil.rmtree(place, ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # TrialError reports failures
    with ray_session(workers):
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(_trial, runs=runs, readout=readout), resources(one)),
            param_space={"number": tune.grid_search(list(range(len(runs))))},
            tune_config=tune.TuneConfig(
                scheduler=scheduler, trial_dirname_creator=lambda trial: str(trial.config["number"]), **best
            ),
            run_config=tune.RunConfig(name="search", storage_path=place, callbacks=[Steps()], verbose=0),
        )
        errors = dict(_failed(result) for result in tuner.fit() if result.error)
    if len(errors) == len(runs):
        raise TrialError(f"every trial failed: {next(iter(errors.values()))}", "Narrow `search.space`, and rerun.")
    points = [(number, step, score) for number, curve in curves.items() for step, score in sorted(curve.items())]
    history = pd.DataFrame(points, columns=["trial", "step", "score"])
    history["clips"] = [runs[number].training.batch * step for number, step, _ in points]
    last = history.drop_duplicates("trial", keep="last").rename(columns={"step": "steps"})
    last["stopped"] = last["steps"] < [runs[number].training.steps for number in last["trial"]]
    table = pd.DataFrame(settings.combinations()).rename_axis("trial").reset_index().merge(last, "left", on="trial")
    table["seed"] = [run.seed for run in runs]
    table["error"] = table["trial"].map(errors).fillna("")
    table = table.astype({"steps": "Int64", "clips": "Int64", "stopped": "boolean"})
    table.loc[table["error"] != "", ["steps", "clips", "score", "stopped"]] = pd.NA
    own = table.assign(failed=table["error"] != "").groupby(table["trial"] // settings.repeats)
    table["mean"] = own["score"].transform("mean")
    order = [own["failed"].transform("any"), own["stopped"].transform("any"), -table["mean"], table["trial"]]
    return table.iloc[np.lexsort(order[::-1])].reset_index(drop=True), history


def _failed(result: Any) -> tuple[int, str]:
    """The number of a failed trial, and what its recipe did; raises TrialError if it was not the recipe's fault."""
    cause = getattr(result.error, "cause", result.error)
    if not isinstance(cause, EcholungError):
        problem = str(result.error).strip().splitlines()[-1]
        raise TrialError(f"a trial of the search failed: {problem}", "Correct it and rerun: checkpoints are kept.")
    return int(Path(result.path).name), cause.problem


def _trial(configuration: dict[str, Any], *, runs: list[SeedRun], readout: Readout | None) -> None:
    from ray import tune

    run = runs[configuration["number"]]
    compute = run.settings.compute
    torch.set_num_threads(compute.cpus_per_worker)
    judged = f"readout/{kind_of(readout.task).loss}" if readout else "loss_held_out"

    def report(step: int, values: Mapping[str, float | None]) -> None:
        if (loss := values.get(judged)) is not None:
            tune.report({"step": step, "score": -loss})

    kept = checkpoint.read_progress(run.directory)
    if kept is not None and not checkpoint.differences(run.fingerprint(), kept.fingerprint):
        for row in kept.history:  # what an interrupted search had found
            report(row["step"], row)
    train(run, report, "cuda" if compute.gpu else "cpu", readout)


def search_runs(
    name: str, settings: SearchSettings, pretrain: PretrainSettings, shape: Callable[[PretrainSettings], Any],
    ingest: Path, directory: Path, readout: Readout | None,
) -> list[SeedRun]:  # fmt: skip
    """A run per combination and seed, each in a folder of its own; `shape` gives the encoder of changed settings."""
    found, pool = [], stores(pretrain, settings.encoder, ingest)
    for number, changes in enumerate(settings.combinations()):
        seed = settings.seed + number % settings.repeats
        values = pretrain.model_dump(mode="json")
        own = values["encoders"][settings.encoder]
        parts = {"training": own["training"], "shape": own["shape"], "objective": own["settings"]}
        for key, value in changes.items():
            place, field = key.split(".")
            parts[place][field] = value
        values["encoders"] = {settings.encoder: own}
        changed = PretrainSettings.parse(values, f"search.{name}")
        folder = directory / digest([changes, seed, readout.key if readout else None])
        found.append(SeedRun(settings.encoder, changed, shape(changed), pool, seed, folder))
    return found
