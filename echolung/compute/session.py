"""A Ray session: on this machine alone, or on a cluster; over when its block ends."""

import contextlib
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 150 * 2**20  # videos reach workers by memory map: Ray's store carries only messages

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a run is noticed
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asks for no GPU sees none
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial and in the stage
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints tables even with verbose=0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow Ctrl-C and report the trials as done
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_LOCAL = {
    # Read when Ray is first imported: off, it binds to the loopback address only, on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A trial starts four small processes; Ray counts them per CPU and would warn.
    "RAY_worker_maximum_startup_concurrency": "16",
}


@contextlib.contextmanager
def ray_session(workers: int) -> Iterator[None]:
    """Connect to the cluster in RAY_ADDRESS, or run Ray on this machine alone with `workers` CPU slots.
    A local instance listens on 127.0.0.1 only, requires a token, and ends with this process, even a killed one (two
    idle agents of Ray take a minute more). A session inside a session uses the outer one."""
    cluster = os.environ.get("RAY_ADDRESS")
    with _environment(_ENVIRONMENT if cluster else _ENVIRONMENT | _LOCAL):
        import ray

        if ray.is_initialized():
            yield
        elif cluster:
            own = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
            own["ECHOLUNG_PLUGINS"] = os.environ.get("ECHOLUNG_PLUGINS", "")
            with _connected(runtime_env={"env_vars": _ENVIRONMENT | own}):
                yield
        else:
            # Ray asks every client for a token, and without one in the environment it writes one into the home
            # directory. It stays for the life of this process because Ray's client caches it.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            logging.getLogger("ray").setLevel(logging.ERROR)
            path = os.pathsep.join(str(Path(part).absolute()) for part in sys.path)  # workers find what this one finds
            options = {"num_cpus": workers, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
            place = os.environ.get("RAY_TMPDIR") or "/tmp"  # short: names of sockets are limited to 107 bytes
            with (
                tempfile.TemporaryDirectory(prefix="el-", dir=place, ignore_cleanup_errors=True) as directory,
                _environment({"PYTHONPATH": path}),
                _connected(address="local", _temp_dir=directory, **options),
            ):
                yield


@contextlib.contextmanager
def _connected(**options: Any) -> Iterator[None]:
    """`ray.init`, and an orderly shutdown however the block ends."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler prints a stack trace and can abort the process in the middle of its shutdown.
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown()


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
