"""Pretraining as trials: every seed is a trial of Ray Tune, and trains in its own process.

With several workers the trial starts Ray Train, whose workers run the same loop. Runs resume from their own checkpoints
(`echolung.pretraining.checkpoint`), so no state of Ray has to survive.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.compute.session import ray_session
from echolung.compute.trials import run_trials
from echolung.core.errors import EcholungError, SettingsError, Stopped, TrialError
from echolung.core.progress import Progress
from echolung.models.encoder import ClipSettings
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import OnMetrics, stopped
from echolung.pretraining.run import SeedRun, finish, finished, outlook, row
from echolung.pretraining.settings import ComputeSettings, PretrainSettings


def seed_runs(
    name: str, settings: PretrainSettings, encoder: ClipSettings, ingest: Path, runs: Path, stop: Path | None = None
) -> list[SeedRun]:
    """One run of `settings.encoders[name]` per seed, on its pool below `ingest`, in the folders `runs`/seed<k>."""
    runs = runs.absolute()  # workers may have another working folder
    pool = stores(settings, name, ingest)
    return [SeedRun(name, settings, encoder, pool, seed, runs / f"seed{seed}", stop=stop) for seed in settings.seeds]


def stores(settings: PretrainSettings, name: str, ingest: Path) -> tuple[Path, ...]:
    """The clip stores of an encoder's pool."""
    return tuple((ingest / source / "clips").absolute() for source in settings.encoders[name].pool)


def pretrain(
    runs: Sequence[SeedRun],
    target: Path,
    *,
    on_metrics: Mapping[int, OnMetrics] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Train the seeds of one encoder and write each to `target`/seed<k>; returns `pretraining.run.row` of each.

    A run resumes from its checkpoint; the result of a finished one is copied. A worker that dies is replaced once.
    `on_metrics[seed]` must be picklable: it is called in the first worker of that seed's run. Raises TrialError naming
    the seed and the cause, SettingsError if Ray lacks what `settings.compute` asks for, Stopped if it was asked to.
    """
    pending = {run.seed: run for run in runs if not finished(run)}
    for run in runs:
        if message := outlook(run) if run.seed in pending else f"{run.title}: already trained":
            print(message)
    if pending:
        compute, place = runs[0].settings.compute, runs[0].directory.parent / "trials"
        shutil.rmtree(place, ignore_errors=True)  # the state of a run is in its own folder
        with ray_session(max(os.cpu_count() or 1, compute.workers * compute.cpus_per_worker)):
            run_trials(
                functools.partial(_trial, runs=pending, on_metrics=on_metrics or {}, storage=place / "train"),
                [{"seed": seed} for seed in pending],
                place,
                f"pretrain-{runs[0].name}",
                len(pending),
                on_progress,
                resources=resources(compute),
                at_once=_capacity(compute),
                steps=runs[0].training.steps,
                stop=runs[0].stop,
            )
        shutil.rmtree(place)
    for run in runs:
        shutil.copytree(run.result, target / f"seed{run.seed}", dirs_exist_ok=True)
    return pd.DataFrame([row(run) for run in runs])


def _capacity(compute: ComputeSettings) -> int:
    """How many runs fit side by side into what Ray has."""
    import ray

    there = ray.cluster_resources()
    wanted = {"CPU": compute.workers * compute.cpus_per_worker, "GPU": compute.workers if compute.gpu else 0}
    for kind, number in wanted.items():
        if number > there.get(kind, 0):
            problem = f"pretrain.compute asks for {number} {kind}s and Ray has {there.get(kind, 0):g}"
            remedy = "Lower pretrain.compute.workers, set pretrain.compute.gpu to false, or name a larger cluster in"
            raise SettingsError(problem, f"{remedy} RAY_ADDRESS.")
    return max(1, min(int(there[kind] // number) for kind, number in wanted.items() if number))


def resources(compute: ComputeSettings) -> dict[str, float]:
    """What a trial asks for. Several workers ask for themselves, but Tune wants a trial to ask for something."""
    if compute.workers > 1:
        return {"cpu": 0, "memory": 1}
    return {"cpu": compute.cpus_per_worker, "gpu": int(compute.gpu)}


def _trial(
    configuration: dict[str, Any], *, runs: dict[int, SeedRun], on_metrics: Mapping[int, OnMetrics], storage: Path
) -> dict[str, Any]:
    run = runs[configuration["seed"]]
    record = on_metrics.get(run.seed)
    if run.settings.compute.workers > 1:
        _train_together(run, record, storage)
    else:
        from ray import tune

        _work(run, record, True, "cuda" if run.settings.compute.gpu else "cpu", tune.report)
    return {}


def _train_together(run: SeedRun, record: OnMetrics | None, storage: Path) -> None:
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    compute, once = run.settings.compute, ray_train.FailureConfig(max_failures=1)
    cpus = {"CPU": compute.cpus_per_worker}
    workers = ray_train.ScalingConfig(num_workers=compute.workers, use_gpu=compute.gpu, resources_per_worker=cpus)
    place = ray_train.RunConfig(
        name=f"seed{run.seed}", storage_path=str(storage), failure_config=once, callbacks=[TuneReportCallback()]
    )
    given = {"run": run, "record": record}
    trainer = TorchTrainer(_work_together, train_loop_config=given, scaling_config=workers, run_config=place)
    try:
        trainer.fit()
    except ray_train.TrainingFailedError as error:
        raise _cause(error) from error
    progress = checkpoint.read_progress(run.directory)
    if progress and progress.step < run.training.steps:
        raise stopped(run, progress.step)


def _cause(error: Exception) -> EcholungError:
    """Why the workers failed: their own typed error, or one that says what to do about a death."""
    failures = [getattr(cause, "_base_exc", cause) for cause in getattr(error, "worker_failures", {}).values()]
    for cause in failures:
        if isinstance(cause, EcholungError):
            return cause
    lines = str((failures or [error])[0]).strip().splitlines() or [type(error).__name__]
    return TrialError(f"a worker died twice ({lines[0]})", "If it ran out of memory, lower pretrain.training.batch.")


def _work_together(given: dict[str, Any]) -> None:
    """What each of several workers does."""
    import ray.train
    from ray.train.torch import get_device

    with contextlib.suppress(Stopped):  # Ray Train would start the workers again; `_train_together` passes it on
        first = ray.train.get_context().get_world_rank() == 0
        _work(given["run"], given["record"], first, get_device(), ray.train.report)


def _work(run: SeedRun, record: OnMetrics | None, first: bool, device: Any, report: Callable[[dict], None]) -> None:
    import torch

    torch.set_num_threads(run.settings.compute.cpus_per_worker)

    def on_metrics(step: int, values: dict[str, float | None]) -> None:
        if first and record is not None:
            record(step, values)
        report({"step": step})

    finish(run, on_metrics, device, writes=first)
