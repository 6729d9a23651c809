"""Pretraining as Ray Tune trials around Ray Train.

One path from a laptop to a cluster: every seed is a trial, every trial a TorchTrainer whose workers, one or many, run
the same training loop. Runs go on from their own checkpoints (`echolung.pretraining.checkpoint`), so nothing of Ray's
state has to survive.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.compute.session import ray_session
from echolung.core.errors import EcholungError, SettingsError, TrialError
from echolung.core.runtime import Progress
from echolung.models.encoder import EncoderSettings
from echolung.pretraining.arm import SeedRun
from echolung.pretraining.loop import OnMetrics, PretrainSettings


def pretrain_arm(
    arm: str,
    settings: PretrainSettings,
    encoder: EncoderSettings,
    pool: Path,
    runs: Path,
    target: Path,
    *,
    on_metrics: Mapping[int, OnMetrics] | None = None,
    on_progress: Progress | None = None,
    on_message: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train one encoder per seed on the clip store `pool`; write `target`/seed<k>, and return one row per seed.

    Every run keeps its checkpoint in `runs`/seed<k> and goes on from it. A worker that dies is replaced once.
    `on_metrics[seed]` must be picklable: it is called in the first worker of that seed's run. The rows have the columns
    seed, steps, loss_first, loss_last, effective_rank, videos, finite, weights_sha256.

    Raises TrialError naming the seed and the cause, SettingsError if Ray lacks what `settings.compute` asks for.
    """
    where = (pool.absolute(), runs.absolute(), target.absolute())  # workers may stand in another folder
    trials = [
        SeedRun(arm, settings, encoder, where[0], seed, where[1] / f"seed{seed}", where[2] / f"seed{seed}")
        for seed in settings.seeds
    ]
    for message in filter(None, [trial.outlook() for trial in trials]):
        on_message(message)
    compute = settings.compute
    slots = max(os.cpu_count() or 1, compute.workers * compute.cpus_per_worker)
    with ray_session(slots):
        _run_trials(trials, where[1] / "ray", on_metrics or {}, on_progress)
    return pd.DataFrame([trial.row() for trial in trials])


def _run_trials(
    trials: list[SeedRun], storage: Path, on_metrics: Mapping[int, OnMetrics], on_progress: Progress | None
) -> None:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told once, by TrialError
    settings = trials[0].settings
    shutil.rmtree(storage, ignore_errors=True)
    tuner = tune.Tuner(
        # A trial only waits for its workers, which ask for the CPUs; but Tune refuses one that asks for nothing.
        tune.with_resources(_trial_function(trials, storage, on_metrics), {"cpu": 0, "memory": 1}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=_capacity(settings)),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            verbose=0,
            callbacks=_progress_callbacks(settings.training.steps, len(trials), on_progress),
        ),
    )
    results = tuner.fit()
    shutil.rmtree(storage, ignore_errors=True)
    for result in results:
        trial = trials[result.config["trial"]] if result.config else trials[0]
        name = f"pretraining {trial.arm} with seed {trial.seed}"
        if result.error is not None:
            cause = str(result.error).strip().splitlines()[0]
            raise TrialError(f"{name} failed: {cause}", "Call again: it goes on from its last checkpoint.")
        if result.metrics and "problem" in result.metrics:
            raise TrialError(f"{name} failed: {result.metrics['problem']}", result.metrics["remedy"])


def _capacity(settings: PretrainSettings) -> int:
    """How many trials fit side by side into what Ray has."""
    import ray

    there, compute = ray.cluster_resources(), settings.compute
    wanted = {"CPU": compute.workers * compute.cpus_per_worker, "GPU": compute.workers if compute.gpu else 0}
    for kind, number in wanted.items():
        if number > there.get(kind, 0):
            raise SettingsError(
                f"pretrain.compute asks for {number} {kind}s and Ray has {there.get(kind, 0):g}",
                "Lower pretrain.compute.workers, set pretrain.compute.gpu to false, or name a larger cluster in "
                "RAY_ADDRESS.",
            )
    return max(1, min(int(there[kind] // number) for kind, number in wanted.items() if number))


def _trial_function(
    trials: list[SeedRun], storage: Path, on_metrics: Mapping[int, OnMetrics]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def run_trial(config: dict[str, Any]) -> dict[str, Any]:
        from ray import train as ray_train
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        trial = trials[config["trial"]]
        compute = trial.settings.compute
        trainer = TorchTrainer(
            _work,
            train_loop_config={"trial": trial, "on_metrics": on_metrics.get(trial.seed)},
            scaling_config=ray_train.ScalingConfig(
                num_workers=compute.workers,
                use_gpu=compute.gpu,
                resources_per_worker={"CPU": compute.cpus_per_worker},
            ),
            run_config=ray_train.RunConfig(
                name=f"seed{trial.seed}",
                storage_path=str(storage),
                failure_config=ray_train.FailureConfig(max_failures=1),
                callbacks=[TuneReportCallback()],
            ),
        )
        try:
            trainer.fit()
        except ray_train.TrainingFailedError as error:
            return _failure(error, trial)
        return {}

    return run_trial


def _failure(error: Exception, trial: SeedRun) -> dict[str, str]:
    """What went wrong in the workers, in one line; a typed error keeps its remedy."""
    failures = [getattr(cause, "_base_exc", cause) for cause in getattr(error, "worker_failures", {}).values()]
    typed = [cause for cause in failures if isinstance(cause, EcholungError)]
    if typed:
        return {"problem": typed[0].problem, "remedy": typed[0].remedy}
    cause = str((failures or [error])[0]).strip().splitlines()
    more = f"See {trial.error}. " if trial.error.exists() else "If it was memory, lower pretrain.training.batch. "
    return {
        "problem": f"a worker died twice ({cause[0] if cause else type(error).__name__})",
        "remedy": f"{more}Call again: it goes on from its last checkpoint.",
    }


def _work(config: dict[str, Any]) -> None:
    """What each worker of a trial does."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    trial: SeedRun = config["trial"]
    told: OnMetrics | None = config["on_metrics"]
    first = ray.train.get_context().get_world_rank() == 0
    torch.set_num_threads(trial.settings.compute.cpus_per_worker)

    def on_metrics(step: int, values: dict[str, float | None]) -> None:
        if first and told is not None:
            told(step, values)
        ray.train.report({"step": step})

    trial.train(on_metrics, get_device(), writes=first)


def _progress_callbacks(steps: int, trials: int, on_progress: Progress | None) -> list[Any]:
    from ray import tune

    done: dict[str, int] = {}

    class Advance(tune.Callback):
        def on_trial_result(self, **news: Any) -> None:
            if on_progress is not None:
                name = news["trial"].trial_id
                done[name] = max(done.get(name, 0), int(news["result"].get("step", 0)))
                on_progress(sum(done.values()), steps * trials)

    return [Advance()]
