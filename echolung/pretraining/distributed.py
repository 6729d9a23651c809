"""Ray: a session on this machine or a cluster, and pretraining as Ray Tune trials around Ray Train.

One path from a laptop to a cluster: every seed is a trial, every trial a TorchTrainer whose workers, one or many, run
the same training loop. Runs go on from their own checkpoints (`echolung.pretraining.checkpoint`), so nothing of Ray's
state has to survive.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.errors import EcholungError, SettingsError, TrialError
from echolung.models.encoder import EncoderSettings
from echolung.pretraining.arm import SeedRun
from echolung.pretraining.loop import OnMetrics, PretrainSettings
from echolung.runtime import Progress

OBJECT_STORE_BYTES = 150 * 2**20  # videos reach workers by memory map, so Ray's store carries only messages

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a run is noticed
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asked for no GPU sees none
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the stage
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints tables even when it is told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow Ctrl-C and report the trials as done
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_ALONE = {
    # Ray reads this when it is first imported; off, it binds to the loopback address only, on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A trial brings four small processes with it; per CPU, Ray would think that too many and print a warning.
    "RAY_worker_maximum_startup_concurrency": "16",
}


@contextlib.contextmanager
def ray_session(workers: int) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or run Ray on this machine alone with `workers` CPU slots.

    The local instance listens on 127.0.0.1 behind a token of its own, keeps its files in a short temporary directory
    (its sockets' names are limited to 107 bytes) and is gone when the block ends, however it ends. A session inside
    a session uses the outer one.
    """
    cluster = os.environ.get("RAY_ADDRESS")
    with _environment(_ENVIRONMENT if cluster else _ENVIRONMENT | _ALONE):
        import ray

        if ray.is_initialized():
            yield
        elif cluster:
            variables = {**_ENVIRONMENT, "PYTHONPATH": _python_path()}
            with _connected(runtime_env={"env_vars": variables}):
                yield
        else:
            with _local_instance(workers):
                yield


@contextlib.contextmanager
def _local_instance(workers: int) -> Iterator[None]:
    parent = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else None)
    directory = tempfile.mkdtemp(prefix="el-", dir=parent)
    # Ray asks every caller for a token; one in the environment keeps it from writing one into the home directory.
    # It stays for the life of this process: Ray's client caches it.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    arguments = {"address": "local", "num_cpus": workers, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        with (
            _environment({"PYTHONPATH": _python_path()}),
            _connected(include_dashboard=False, _temp_dir=directory, **arguments),
        ):
            yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _connected(**arguments: Any) -> Iterator[None]:
    """`ray.init`, and an orderly shutdown however the block ends, by Ctrl-C or SIGTERM too."""
    import ray

    # Ray's own handler of SIGTERM prints a stack trace and can abort the process half way through its shutdown.
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
        if ours:
            signal.signal(signal.SIGTERM, _terminate if before == signal.SIG_DFL else before)
        yield
    finally:
        ray.shutdown()
        if ours:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _python_path() -> str:
    """PYTHONPATH under which a worker process finds this very package, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
            raise TrialError(f"{name} failed: {result.error}", "Call again: it goes on from its last checkpoint.")
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
