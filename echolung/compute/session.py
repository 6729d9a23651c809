"""Ray on this machine alone, or a cluster: one session, gone when its block ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

OBJECT_STORE_BYTES = 150 * 2**20  # videos reach workers by memory map, so Ray's store carries only messages

SESSION = "ECHOLUNG_RAY_SESSION"
"""In the environment of every process of a session: its directory."""
OWNER = "owner"

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
    (its sockets' names are limited to 107 bytes) and is gone when the block ends, however it ends. If its owner
    is killed, its processes end with it, and the next session clears away what is left. A session inside a session uses
    the outer one.
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
    # Ray asks every caller for a token; one in the environment keeps it from writing one into the home directory.
    # It stays for the life of this process: Ray's client caches it.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    arguments = {"address": "local", "num_cpus": workers, "object_store_memory": OBJECT_STORE_BYTES}
    with (
        _session_directory() as directory,
        _environment({"PYTHONPATH": _python_path(), SESSION: str(directory)}),
        _connected(include_dashboard=False, _temp_dir=str(directory), **arguments),
    ):
        yield


@contextlib.contextmanager
def _session_directory() -> Iterator[Path]:
    """A short temporary directory, locked while its owner lives; what killed owners have left is cleared away."""
    parent = Path(os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()))
    for left in parent.glob("el-*"):
        _clear_if_dead(left)
    directory = Path(tempfile.mkdtemp(prefix="el.", dir=parent))
    with open(directory / OWNER, "w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        named = directory.with_name(directory.name.replace("el.", "el-", 1))
        directory.rename(named)  # from now on others may look whether the owner lives
        try:
            yield named
        finally:
            shutil.rmtree(named, ignore_errors=True)


def _clear_if_dead(directory: Path) -> None:
    """End what is left of a session whose owner was killed; sessions of others, and of other programs, are not ours."""
    try:
        owner = open(directory / OWNER)  # noqa: SIM115 (closed below)
    except OSError:
        return
    with owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(SESSION) == str(directory):
                    process.kill()
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
            signal.signal(signal.SIGTERM, signal.default_int_handler if before == signal.SIG_DFL else before)
        yield
    finally:
        ray.shutdown()
        if ours:
            signal.signal(signal.SIGTERM, before)


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
