"""Where runs and models are kept: a database in the project's folder, or whatever MLflow can reach."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echolung.core.errors import TrackingError
from echolung.core.parameters import Parameters
from echolung.tracking.moved import require_here

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that does not answer is an error within half a minute, not after MLflow's default of many.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class TrackingSettings(Parameters):
    """Where runs and models are kept. The environment's MLFLOW_TRACKING_URI goes before `uri`."""

    uri: str = ""
    """A database or an MLflow server; empty for `mlruns/mlflow.db` in the project's folder."""


@dataclass(frozen=True)
class Store:
    """An initialised tracking store; picklable, so a worker on any machine can write to it."""

    uri: str
    artifacts: str
    """Where files go; empty where a server decides."""
    root: Path

    def client(self) -> Any:
        """MLflow's client for this store."""
        _configure()
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


def where(root: Path, settings: TrackingSettings | None = None) -> str:
    """The address of the project's store: the environment's, else the parameters', else a database in `mlruns/`."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI") or (settings.uri if settings else "")
    return chosen or f"sqlite:///{_home(root)}/mlruns/mlflow.db"


def store(root: Path, settings: TrackingSettings | None = None) -> Store:
    """The store of the project at `root`, made ready for any number of writers.

    Raises TrackingError if it is not a database, of another MLflow's schema, locked, does not answer, or points to the
    folder that the project was moved from.
    """
    home = _home(root) / "mlruns"
    uri = where(root, settings)
    remote = uri.startswith(("http://", "https://"))
    opened = Store(uri, "" if remote else str(home / "artifacts"), root.absolute())
    _configure()
    with reported(opened):
        home.mkdir(parents=True, exist_ok=True)
        if uri.startswith("sqlite:///"):
            _check_sqlite(Path(uri.removeprefix("sqlite:///")))
            if uri == f"sqlite:///{home}/mlflow.db":
                require_here(home)
        _quieten_mlflow()
        # Processes that meet an uninitialised database together crash in its migration: one of them makes it.
        with open(home / ".initialise.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            opened.client().search_experiments(max_results=1)
    return opened


def _configure() -> None:
    """MLflow reads these in every process that imports it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _home(root: Path) -> Path:
    """The project's folder; a queued DVC experiment runs in a copy below it, and its history belongs to the whole."""
    root = root.absolute()
    for parent in root.parents:
        if parent.name == "exps" and parent.parent.name == "tmp" and parent.parent.parent.name == ".dvc":
            return parent.parent.parent.parent
    return root


def _check_sqlite(path: Path) -> None:
    """Turn away what MLflow would retry for two minutes: a file that is no database, or of another version."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    from mlflow.store.db.utils import _get_latest_schema_revision

    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            return
        versions = [version for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
    if versions and versions != [_get_latest_schema_revision()]:
        version = importlib.metadata.version("mlflow")
        raise TrackingError(
            f"the tracking database {path} has the schema of another MLflow than the installed {version}",
            f"Back it up and run `mlflow db upgrade sqlite:///{path}`, or move it away to start a new history.",
        )


def _quieten_mlflow() -> None:
    import mlflow  # noqa: F401  (its import configures its loggers)

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints a traceback we turn into one line
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextlib.contextmanager
def reported(store: Store) -> Iterator[None]:
    """Turn whatever MLflow, its database or its server raise inside the block into a TrackingError with the remedy."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = str(error)
        line = _first_line(error)
        if "locked" in text:
            remedy = "Another program is writing to it: end it (a paused `mlflow ui`, a database browser), then go on."
        elif "schema" in text or "Can't locate revision" in text:
            remedy = f"Back it up and run `mlflow db upgrade {store.uri}`, or move it away to start a new history."
        elif "not a database" in text or "malformed" in text:
            remedy = "The file is damaged: move it away (a new one is made), or restore a copy."
        elif "readonly" in text and not Path(store.uri.removeprefix("sqlite:///")).exists():
            remedy = "It was moved or deleted: the next call makes a new one."
        elif store.uri.startswith("http"):
            remedy = "Is the server running and reachable? Unset MLFLOW_TRACKING_URI (or `uri`) for the local store."
        elif isinstance(error, OSError) or any(word in text for word in ("readonly", "unable to open", "full", "I/O")):
            remedy = "Check that the folder can be written to and that the disk is not full."
        else:
            remedy = "See `mlflow doctor`; the store can be moved away to start a new history."
        raise TrackingError(f"the tracking store {store.uri} cannot be used: {line}", remedy) from error


def _first_line(error: BaseException) -> str:
    """What the database itself said, where it said something; MLflow and SQLAlchemy wrap it in many lines."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(getattr(cause, "orig", None), Exception):
            error = cause.orig  # type: ignore[attr-defined]
            break
        cause = cause.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def ui_command(store: Store) -> str:
    """The command that opens the store in a browser, on this machine alone."""
    if store.uri.startswith("http"):
        return f"open {store.uri}"
    return f"mlflow ui --backend-store-uri {store.uri} --host 127.0.0.1 --port 5000"
