"""Many independent trials of a plain function, by Ray Tune: on this machine's cores or on a cluster.

    results = run_trials(fit, [{"fold": 0}, {"fold": 1}], Path("runs/fit"), "fit", workers=2)

Results are cached in `directory` by configuration digest: a killed call resumes, and a changed parameter reruns only
the trials that it changes.
"""

import contextlib
import functools
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.compute.session import ray_session
from echolung.core import runtime
from echolung.core.errors import EcholungError, Stopped, TrialError, listed
from echolung.core.progress import Progress, listening

SHOWN = 3  # causes that an error lists; all are in the file of failures
FAILURES = "failures.txt"
Values = dict[str, Any]
Trial = Callable[[Values], Mapping[str, Any]]  # configuration -> tables and anything JSON can hold, by name


def run_trials(
    function: Trial, configurations: Sequence[Mapping[str, Any]], directory: Path, name: str, workers: int,
    on_progress: Progress = lambda done, total: None, *, resources: Mapping[str, float] = {"cpu": 1},
    at_once: int | None = None, steps: int = 1, stop: Path | None = None,
) -> list[Values]:  # fmt: skip
    """Results of `function(configuration)`, in the order of `configurations`, which must all differ.

    A configuration must name everything that its result depends on (data and code too). A trial runs in one thread,
    seeded from its configuration: its result does not depend on how many run at once, `at_once` at most, each with
    `resources` of Ray. It counts as `steps` in `on_progress`; on its way it may tell `core.progress`. All machines of
    the cluster must see `directory`. A trial whose process dies is retried once.

    Raises TrialError, after all others have finished, with causes, configurations that failed, and remedies. Once
    something is written in the file `stop` no trial begins; raises Stopped if some are left then, or ended by Stopped.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    keys = [runtime.digest(dict(configuration)) for configuration in configurations]
    assert len(set(keys)) == len(keys), "two trials have the same configuration"
    results: dict[str, Values] = {}
    for folder in [directory / key for key in keys if (directory / key).is_dir()]:
        try:
            results[folder.name] = _load(folder)
        except (EcholungError, OSError, ValueError, LookupError, TypeError) as error:
            print(f"{folder} is damaged and will be recomputed ({error}).", file=sys.stderr)
    pending = {key: dict(one) for key, one in zip(keys, configurations, strict=True) if key not in results}
    on_progress(len(results) * steps, len(keys) * steps)
    if pending:
        with ray_session(workers):
            import ray
            from ray import tune

            reporter = _reporter(on_progress, len(results) * steps, len(keys) * steps, steps)
            trial = functools.partial(_trial, function=function, directory=directory, steps=steps, stop=stop)
            trial = tune.with_resources(trial, dict(resources))
            run = functools.partial(_tune, trial, directory, name, at_once, reporter)
            failures = run(pending)
            died = {key: pending[key] for key, failure in failures.items() if failure["died"]}
            if died and any(node["Alive"] for node in ray.nodes()):  # if Ray died, a retry would wait for ever
                again = run(died)
                failures = {key: failure for key, failure in failures.items() if key not in died} | again
        if failures:
            raise _failure(failures, pending, directory, name)
        results |= {key: _load(directory / key) for key in pending}
    for path in directory.iterdir():  # results of parameters that are no longer used
        if path.name not in keys and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    (directory / FAILURES).unlink(missing_ok=True)
    return [results[key] for key in keys]


def _reporter(on_progress: Progress, done: int, total: int, steps: int) -> Any:
    from ray import tune

    reached: dict[str, float] = {}

    class Reporter(tune.Callback):
        def on_trial_result(self, *, trial: Any, result: Values, **info: Any) -> None:
            self.advance(trial, result.get("step", 0))

        def on_trial_complete(self, *, trial: Any, **info: Any) -> None:
            self.advance(trial, 0 if (trial.last_result or {}).get("stopped") else steps)

        on_trial_error = on_trial_complete

        def advance(self, trial: Any, step: float) -> None:
            key = trial.config["key"]
            reached[key] = max(step, reached.get(key, 0))  # a retried trial starts lower
            on_progress(done + sum(reached.values()), total)

    return Reporter()


def _tune(
    trial: Any, directory: Path, name: str, at_once: int | None, reporter: Any, pending: dict[str, Values]
) -> dict[str, Values]:
    """Run what is pending; returns cause, remedy and traceback of failed trials, by key, and whether they died."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # TrialError reports failures
    shutil.rmtree(directory / ".tune", ignore_errors=True)
    trials = [{"key": key, "configuration": configuration} for key, configuration in pending.items()]
    tuner = tune.Tuner(
        trial,
        param_space=tune.grid_search(trials),
        tune_config=tune.TuneConfig(
            reuse_actors=True,  # a new process for every trial costs seconds; `_trial` reseeds
            max_concurrent_trials=at_once,
            trial_name_creator=lambda trial: str(trial.config["key"]),
            trial_dirname_creator=lambda trial: str(trial.config["key"]),
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(directory / ".tune"), callbacks=[reporter], verbose=0),
    )
    failures = {}
    for result in tuner.fit():
        key = Path(result.path).name  # the configuration of a trial that died before it reported is None
        if result.error:  # Ray's report ends with the reason
            cause = f"its process died (... {' '.join(str(result.error).split())[-200:]})"
            remedy = "If it ran out of memory, lower `workers` or the batch."
            failures[key] = {"died": True, "cause": cause, "remedy": remedy, "traceback": ""}
        elif "cause" in (result.metrics or {}):
            failures[key] = {"died": False, **result.metrics}
    return failures


def _trial(config: Values, *, function: Trial, directory: Path, steps: int, stop: Path | None) -> Values:
    """One trial in a worker process: writes its result to `directory`/<key>, or returns why there is none."""
    os.environ["OMP_NUM_THREADS"] = "1"  # more threads would compete with other trials, and sum in another order
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    runtime.seed_everything(runtime.derived_seed("trial", config["key"]))
    try:
        if runtime.stop_asked(stop):
            raise Stopped("not begun")
        with listening(_tenths(steps)):
            result = function(config["configuration"])
        with runtime.atomic_directory(directory / config["key"]) as folder:
            _write(folder, result)
    except Exception as error:
        typed = error if isinstance(error, EcholungError) else TrialError(f"{type(error).__name__}: {error}")
        told = {"cause": typed.problem, "remedy": typed.remedy, "traceback": traceback.format_exc()}
        return told | {"stopped": isinstance(error, Stopped)}
    return {"finished": 1}


def _tenths(steps: int) -> Progress:
    """Tells Ray of every tenth of a trial that counts as `steps`."""
    told = 0.0

    def tell(done: float, total: int) -> None:
        nonlocal told
        from ray import tune

        if (now := steps * (10 * done // total) / 10) > told:
            told = now
            tune.report({"step": now})

    return tell


def _failure(failures: dict[str, Values], pending: dict[str, Values], directory: Path, name: str) -> EcholungError:
    """What the failed trials have in common, with the remedies; their tracebacks go to a file."""
    wrong = {key: failure for key, failure in failures.items() if not failure.get("stopped")}
    failures = wrong or failures
    labels: dict[str, list[str]] = {}  # by cause: trials often fail for the same reason
    for key, failure in failures.items():
        labels.setdefault(failure["cause"], []).append(_label(pending[key], list(pending.values())))
    parts = [f"{cause} [{listed(where, 1)}]" for cause, where in labels.items()]
    remedies = dict.fromkeys(failure["remedy"] for failure in failures.values() if failure["remedy"])
    if not wrong:
        left = f"{len(failures)} {name} trials are left: {'; '.join(parts[:SHOWN])}"
        return Stopped(left, " ".join(["Call again.", *remedies]))
    details = directory / FAILURES
    with contextlib.suppress(OSError):  # the disk may be full
        details.write_text("\n".join(f"{pending[key]}\n{one['traceback']}" for key, one in failures.items()))
    remedy = f"{' '.join(remedies) or 'Fix the error.'} Then rerun: finished trials are kept. Details: {details}"
    return TrialError(f"{len(failures)} of {len(pending)} {name} trials failed: {'; '.join(parts[:SHOWN])}", remedy)


def _label(configuration: Values, everything: list[Values]) -> str:
    """`fold 2, repeat 0`: the values in which a configuration differs from the others; not those of `_names`."""
    shown = [name for name in configuration if not name.startswith("_")]
    differing = [name for name in shown if any(other.get(name) != configuration[name] for other in everything)]
    return ", ".join(f"{name} {configuration[name]}" for name in differing or shown)


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    """Tables as parquet, the rest as JSON."""
    plain = {name: value for name, value in result.items() if not isinstance(value, pd.DataFrame)}
    tables = [name for name in result if name not in plain]
    for name in tables:
        result[name].to_parquet(folder / f"{name}.parquet", index=False)
    runtime.write_json(folder / "result.json", {"tables": tables, "values": plain})


def _load(folder: Path) -> Values:
    record = runtime.read_json(folder / "result.json")
    return {**record["values"], **{name: pd.read_parquet(folder / f"{name}.parquet") for name in record["tables"]}}
