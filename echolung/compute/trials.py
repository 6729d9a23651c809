"""Many independent trials of a plain function, by Ray Tune: on this machine's cores or on a cluster.

    results = run_trials(fit, [{"fold": 0}, {"fold": 1}], Path("runs/probe"), "probe", workers=2)

A finished trial's result lies in `directory` under the digest of its configuration, so a killed call goes on where it
was, a changed parameter runs what it changes, and nothing is ever read back for a configuration it was not made for.
A result whose files are not as the trial wrote them is computed again.
"""

from __future__ import annotations

import contextlib
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
from echolung.core.errors import DataError, DiskError, EcholungError, TrialError
from echolung.core.runtime import (
    Progress,
    atomic_directory,
    derived_seed,
    digest,
    read_json,
    seed_everything,
    sha256_file,
    write_json,
)

FAILURES_TOLD = 3
DIGESTS = "digests.json"
"""SHA-256 of every other file of a trial."""

Trial = Callable[[dict[str, Any]], Mapping[str, Any]]
"""A trial: takes its configuration, returns tables (DataFrame) and anything JSON can hold, by name."""


def run_trials(
    function: Trial,
    configurations: Sequence[Mapping[str, Any]],
    directory: Path,
    name: str,
    workers: int,
    on_progress: Progress | None = None,
    *,
    fingerprint: str = "",
    gpus: float = 0.0,
) -> list[dict[str, Any]]:
    """Results of `function(configuration)`, in the order of `configurations`, which must differ from one another.

    `fingerprint` stands for all else that the results depend on (data, code). Each trial computes in one thread with
    seeds drawn from its configuration, so its result does not depend on how many run side by side; `gpus` is the
    share of a GPU it asks for. `directory` must be on storage that every machine of the cluster sees.
    A failing trial is tried once more. Raises TrialError, after all others have finished, naming its configuration.
    """
    directory = directory.absolute()
    keys = [digest([fingerprint, dict(configuration)]) for configuration in configurations]
    assert len(set(keys)) == len(keys), "two trials have the same configuration"
    pending = {
        key: dict(configuration)
        for key, configuration in zip(keys, configurations, strict=True)
        if not _is_whole(directory / key)
    }
    changed = sum((directory / key).is_dir() for key in pending)
    if changed:
        print(f"{changed} finished {name} trials were changed or damaged: they are computed again.", file=sys.stderr)
    if on_progress:
        on_progress(len(keys) - len(pending), len(keys))
    if pending:
        causes = _tune(function, pending, directory, name, workers, gpus, len(keys), on_progress)
        _raise_failures(directory, pending, causes, name)
    for path in directory.iterdir():  # results of parameters that are no longer asked for
        if path.name not in keys:
            shutil.rmtree(path, ignore_errors=True)
    return [_read(directory / key) for key in keys]


def _tune(
    function: Trial,
    pending: dict[str, dict[str, Any]],
    directory: Path,
    name: str,
    workers: int,
    gpus: float,
    total: int,
    on_progress: Progress | None,
) -> dict[str, str]:
    """Run what is pending; returns why trials failed, by key, where there is no file that tells."""
    with ray_session(workers):
        from ray import tune

        class Report(tune.Callback):
            def __init__(self) -> None:
                self.ended: set[str] = set()

            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                self.ended.add(trial.trial_id)  # a trial that is tried again ends twice
                if on_progress:
                    on_progress(total - len(pending) + len(self.ended), total)

            on_trial_error = on_trial_complete

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told once, by TrialError
        records = directory / ".tune"
        for old in (records, directory / "failures"):
            shutil.rmtree(old, ignore_errors=True)
        body = tune.with_parameters(_trial, function=function, configurations=pending, directory=directory)
        tuner = tune.Tuner(
            tune.with_resources(body, {"cpu": 1, "gpu": gpus}),
            param_space={"key": tune.grid_search(list(pending))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a fresh process for every trial costs seconds; `_trial` seeds anew
                trial_name_creator=lambda trial: str(trial.config["key"]),
                trial_dirname_creator=lambda trial: str(trial.config["key"]),
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(records),
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[Report()],
                verbose=0,
            ),
        )
        grid = tuner.fit()
        causes = {one.config["key"]: one.error or (one.metrics or {}).get("cause") for one in grid if one.config}
        return {key: str(cause) for key, cause in causes.items() if cause}


def _trial(
    config: dict[str, Any], function: Trial, configurations: dict[str, dict[str, Any]], directory: Path
) -> dict[str, Any]:
    """One trial in a worker process: its result, or the reason why there is none, is left in the directory."""
    key = config["key"]
    configuration = configurations[key]
    _one_thread()
    seed_everything(derived_seed("trial", key))
    failure = directory / "failures" / f"{key}.json"
    try:
        result = function(configuration)
        with atomic_directory(directory / key) as folder:
            _write(folder, result)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        with contextlib.suppress(DiskError):  # it may be the disk that is full
            write_json(failure, {"cause": cause, "traceback": traceback.format_exc()})
        if isinstance(error, EcholungError):
            return {"finished": 0, "cause": cause}  # another try would end the same way
        raise
    failure.unlink(missing_ok=True)
    return {"finished": 1}


def _one_thread() -> None:
    """Side by side, trials that each use every core slow one another down, and add up in another order."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _raise_failures(directory: Path, pending: dict[str, dict[str, Any]], causes: dict[str, str], name: str) -> None:
    failed = [key for key in pending if not _is_whole(directory / key)]
    if not failed:
        return
    # Trials are told apart by what differs between them; causes that they share are told once.
    told: dict[str, list[str]] = {}
    for key in failed:
        told.setdefault(_cause(directory, key, causes), []).append(_label(pending[key], list(pending.values())))
    parts = []
    for cause, labels in list(told.items())[:FAILURES_TOLD]:
        more = f" and {len(labels) - FAILURES_TOLD} more" if len(labels) > FAILURES_TOLD else ""
        parts.append(f"{cause} [{'; '.join(labels[:FAILURES_TOLD])}{more}]")
    raise TrialError(
        f"{len(failed)} of {len(pending)} {name} trials failed: {'; '.join(parts)}",
        f"Finished trials are kept: mend the cause and call again. Details: {directory / 'failures'}",
    )


def _label(configuration: dict[str, Any], everything: list[dict[str, Any]]) -> str:
    """`fold 2, repeat 0`: the values by which a configuration differs from the others."""
    differing = [name for name in configuration if any(other.get(name) != configuration[name] for other in everything)]
    return ", ".join(f"{name} {configuration[name]}" for name in differing or configuration)


def _cause(directory: Path, key: str, causes: dict[str, str]) -> str:
    report = directory / "failures" / f"{key}.json"
    if report.is_file():
        return str(read_json(report)["cause"])
    # The process could not start the trial, or was killed: Ray's report ends with what matters.
    return " ".join(causes.get(key, "no result").split())[-400:]


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    """Tables as parquet, all else as JSON: readable by a person, and nothing that runs code when it is read."""
    plain = {name: value for name, value in result.items() if not isinstance(value, pd.DataFrame)}
    tables = [name for name in result if name not in plain]
    for name in tables:
        result[name].to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / "result.json", {"tables": tables, "values": plain})
    write_json(folder / DIGESTS, {path.name: sha256_file(path) for path in sorted(folder.iterdir())})


def _is_whole(folder: Path) -> bool:
    """Whether a trial finished, and its files are those that it wrote."""
    try:
        digests = read_json(folder / DIGESTS)
        return all(sha256_file(folder / name) == written for name, written in digests.items())
    except (DataError, OSError, AttributeError):
        return False


def _read(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "result.json")
    return {**record["values"], **{name: pd.read_parquet(folder / f"{name}.parquet") for name in record["tables"]}}
