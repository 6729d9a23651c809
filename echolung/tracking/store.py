"""The tracking store, for runs and models: a database in the project's folder, or whatever MLflow can reach."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echolung.core.errors import TrackingError
from echolung.core.parameters import Parameters
from echolung.core.runtime import exclusive, share, workspace
from echolung.tracking.moved import require_here

SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that does not answer is an error within half a minute, not after MLflow's default of many.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class TrackingSettings(Parameters):
    """Where runs and models are kept. The environment's MLFLOW_TRACKING_URI takes precedence over `uri`."""

    uri: str = ""
    """A database or an MLflow server; empty for `mlruns/mlflow.db` in the project's folder."""


@dataclass(frozen=True)
class Store:
    """An initialised tracking store; picklable, so that a worker on any machine can write to it."""

    uri: str
    artifacts: str
    """Where files go; empty if a server decides."""
    root: Path

    def client(self) -> Any:
        """MLflow's client for this store."""
        _configure()
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


def where(root: Path, settings: TrackingSettings | None = None) -> str:
    """The store's address: the environment's, else the parameters', else a database in `mlruns/`.

    Queued DVC experiments run in a copy of the project that is deleted: they use the project's own store. Relative
    database paths are below the project: Ray's workers have other working folders.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI") or (settings.uri if settings else "") or f"{SQLITE}mlruns/mlflow.db"
    database = chosen.removeprefix(SQLITE)
    return chosen if database == chosen else f"{SQLITE}{workspace(root) / database}"


def store(root: Path, settings: TrackingSettings | None = None) -> Store:
    """The store of the project at `root`, initialised.

    Raises TrackingError if it is not a database, of another MLflow's schema, locked, does not answer, or points to the
    folder that the project was moved from.
    """
    home = workspace(root) / "mlruns"
    uri = where(root, settings)
    remote = uri.startswith(("http://", "https://"))
    opened = Store(uri, "" if remote else str(home / "artifacts"), root.absolute())
    _configure()
    with reported(opened):
        home.mkdir(parents=True, exist_ok=True)
        if uri.startswith(SQLITE):
            _check_sqlite(Path(uri.removeprefix(SQLITE)))
            if uri == f"{SQLITE}{home}/mlflow.db":
                require_here(home)
        _quieten_mlflow()
        # Processes that open an uninitialised database together crash in its migration: one of them makes it.
        with exclusive(home / ".initialise.lock", "making the tracking database", patience=120):
            opened.client().search_experiments(max_results=1)
            if uri == f"{SQLITE}{home}/mlflow.db":
                share(home / "mlflow.db")  # SQLite makes it writable by its owner alone
    return opened


def _configure() -> None:
    """MLflow reads these in every process that imports it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _check_sqlite(path: Path) -> None:
    """Reject what MLflow would retry for two minutes: a file that is not a database, or of another MLflow version."""
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
            f"Back it up and run `mlflow db upgrade {SQLITE}{path}`, or move it away to start a new history.",
        )


def _quieten_mlflow() -> None:
    import mlflow  # noqa: F401  (its import configures its loggers)

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints tracebacks of what `reported` raises
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextlib.contextmanager
def reported(store: Store) -> Iterator[None]:
    """Turn whatever MLflow, its database or its server raise inside the block into a TrackingError with the remedy."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = str(error).strip() or type(error).__name__
        said = re.search(r"\(\w+\.\w*Error\) (.+)", text)  # by the database, among many lines of SQLAlchemy
        line = said[1] if said else text.splitlines()[0][:300]
        problem = f"the tracking store {store.uri} cannot be used: {line}"
        raise TrackingError(problem, _remedy(error, store)) from error


def _remedy(error: Exception, store: Store) -> str:
    text = str(error)
    if "locked" in text:
        return "Another program is writing to it: end it (a paused `mlflow ui`, a database browser) and try again."
    if "schema" in text or "Can't locate revision" in text:
        return f"Back it up and run `mlflow db upgrade {store.uri}`, or move it away to start a new history."
    if "not a database" in text or "malformed" in text:
        return "The file is damaged: restore a copy, or move it away to start a new history."
    if "readonly" in text and not Path(store.uri.removeprefix(SQLITE)).exists():
        return "It was moved or deleted: the next call makes a new one."
    if store.uri.startswith("http"):
        return "Is the server running and reachable? Unset MLFLOW_TRACKING_URI (or `tracking.uri`) for the local store."
    if isinstance(error, OSError) or any(word in text for word in ("readonly", "unable to open", "full", "I/O")):
        return "Check that the folder can be written to and that the disk is not full."
    return "See `mlflow doctor`; the store can be moved away to start a new history."
