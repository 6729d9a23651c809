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
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.data.clips import ClipStore
from echolung.errors import EcholungError, SettingsError, TrialError
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import EncoderRecord, finite, load_encoder, save_encoder
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import HISTORY, OnMetrics, PretrainSettings, fingerprint, train
from echolung.runtime import Progress, atomic_path

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
    "RAY_maximum_startup_concurrency": "16",
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
            ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables})
            try:
                yield
            finally:
                ray.shutdown()
        else:
            with _local_instance(workers):
                yield


@contextlib.contextmanager
def _local_instance(workers: int) -> Iterator[None]:
    import ray

    parent = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else None)
    directory = tempfile.mkdtemp(prefix="el-", dir=parent)
    # Ray asks every caller for a token; one in the environment keeps it from writing one into the home directory.
    # It stays for the life of this process: Ray's client caches it.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with _environment({"PYTHONPATH": _python_path()}):
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=directory,
            )
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


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
    store = ClipStore.open(pool)
    trials = [
        _Trial(arm, settings, encoder, pool.resolve(), seed, runs.resolve() / f"seed{seed}",
               target.resolve() / f"seed{seed}", (on_metrics or {}).get(seed))
        for seed in settings.seeds
    ]  # fmt: skip
    for trial in trials:
        trial.announce(store, on_message)
    compute = settings.compute
    slots = max(os.cpu_count() or 1, compute.workers * compute.cpus_per_worker)
    with ray_session(slots):
        _run_trials(trials, settings, runs.resolve() / "ray", on_progress)
    return pd.DataFrame([_row(trial.seed, trial.output) for trial in trials])


@dataclass(frozen=True)
class _Trial:
    """One seed of an arm; picklable."""

    arm: str
    settings: PretrainSettings
    encoder: EncoderSettings
    pool: Path
    seed: int
    run: Path
    output: Path
    on_metrics: OnMetrics | None

    @property
    def objective(self) -> str:
        return self.settings.arms[self.arm].objective

    def announce(self, store: ClipStore, on_message: Callable[[str], None]) -> None:
        """Say whether the run goes on or starts afresh, and why."""
        progress = checkpoint.read_progress(self.run)
        if progress is None:
            return
        ours = fingerprint(self.objective, self.encoder, self.settings, store, self.seed)
        changed = checkpoint.differences(ours, progress.fingerprint)
        name = f"{self.arm} seed {self.seed}"
        if changed:
            on_message(f"{name}: starting afresh, because of {'; '.join(changed)}")
        else:
            on_message(f"{name}: going on from step {progress.step} of {self.settings.training.steps}")


def _run_trials(trials: list[_Trial], settings: PretrainSettings, storage: Path, on_progress: Progress | None) -> None:
    from ray import tune

    shutil.rmtree(storage, ignore_errors=True)
    side_by_side = _capacity(settings)
    tuner = tune.Tuner(
        # A trial only waits for its workers, which ask for the CPUs; but Tune refuses one that asks for nothing.
        tune.with_resources(_trial_function(trials, storage), {"cpu": 0, "memory": 1}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=side_by_side),
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


def _trial_function(trials: list[_Trial], storage: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def run_trial(config: dict[str, Any]) -> dict[str, Any]:
        from ray import train as ray_train
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        trial = trials[config["trial"]]
        compute = trial.settings.compute
        trainer = TorchTrainer(
            _work,
            train_loop_config={"trial": trial},
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
            return _failure(error)
        return {}

    return run_trial


def _failure(error: Exception) -> dict[str, Any]:
    """What went wrong in the workers, in one line; a typed error keeps its remedy."""
    failures = [getattr(cause, "_base_exc", cause) for cause in getattr(error, "worker_failures", {}).values()]
    typed = [cause for cause in failures if isinstance(cause, EcholungError)]
    if typed:
        return {"problem": typed[0].problem, "remedy": typed[0].remedy}
    cause = str((failures or [error])[0]).strip().splitlines()
    return {
        "problem": f"a worker died twice ({cause[0] if cause else type(error).__name__})",
        "remedy": "Call again: it goes on from its last checkpoint. If it was memory, lower pretrain.training.batch.",
    }


def _work(config: dict[str, Any]) -> None:
    """What each worker of a trial does."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    trial: _Trial = config["trial"]
    first = ray.train.get_context().get_world_rank() == 0
    torch.set_num_threads(trial.settings.compute.cpus_per_worker)
    store = ClipStore.open(trial.pool)

    def on_metrics(step: int, values: dict[str, float | None]) -> None:
        if first and trial.on_metrics:
            trial.on_metrics(step, values)
        ray.train.report({"step": step})

    device = get_device()
    trained = train(trial.objective, trial.encoder, trial.settings, store, trial.seed, trial.run, on_metrics, device)
    if not first:
        return
    record = EncoderRecord(
        settings=trial.encoder,
        arm=trial.arm,
        objective=trial.objective,
        seed=trial.seed,
        steps=trial.settings.training.steps,
        trained_on=tuple(store.sha256(sample_id) for sample_id in store.sample_ids),
        trained_on_source=trial.settings.arms[trial.arm].pool,
    )
    save_encoder(trial.output, trained.encoder, record)
    with atomic_path(trial.output / HISTORY) as temporary:
        trained.history.to_csv(temporary, index=False, lineterminator="\n")


def _row(seed: int, output: Path) -> dict[str, Any]:
    encoder, record = load_encoder(output)
    history = pd.read_csv(output / HISTORY)
    return {
        "seed": seed,
        "steps": record.steps,
        "loss_first": history["loss"].iloc[0],
        "loss_last": history["loss"].iloc[-1],
        "effective_rank": history["effective_rank"].iloc[-1],
        "videos": len(record.trained_on),
        "finite": finite(encoder),
        "weights_sha256": record.weights_sha256,
    }


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
