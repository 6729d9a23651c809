"""The tracking store, for runs and models: a database in the project's folder, or whatever MLflow can reach."""

import contextlib
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
from echolung.core.runtime import exclusive, workspace
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

    uri: str = ""  # a database or an MLflow server; empty for `mlruns/mlflow.db` in the project's folder


@dataclass(frozen=True)
class Store:
    """An initialised tracking store; picklable, so that a worker on any machine can write to it."""

    uri: str
    artifacts: str  # where files go; empty if a server decides
    root: Path

    def client(self) -> Any:
        """MLflow's client for this store."""
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is raised as well
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """The client; whatever it, the database or the server raise in the block becomes a TrackingError."""
        with _reported(self):
            yield self.client()


def where(root: Path, settings: TrackingSettings | None = None) -> str:
    """The store's address: the environment's, else the parameters', else a database in `mlruns/`, below the project
    (not below the copy in which a queued DVC experiment runs, or a worker's folder)."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI") or (settings.uri if settings else "") or f"{SQLITE}mlruns/mlflow.db"
    database = chosen.removeprefix(SQLITE)
    return chosen if database == chosen else f"{SQLITE}{workspace(root) / database}"


def store(root: Path, settings: TrackingSettings | None = None) -> Store:
    """The store of the project at `root`, initialised.
    Raises TrackingError if it is not a database, of another MLflow's schema, locked, does not answer, or points to the
    folder that the project was moved from."""
    home = workspace(root) / "mlruns"
    uri = where(root, settings)
    remote = uri.startswith(("http://", "https://"))
    opened, database = Store(uri, "" if remote else str(home / "artifacts"), root.absolute()), home / "mlflow.db"
    with _reported(opened):
        home.mkdir(parents=True, exist_ok=True)
        if (path := Path(uri.removeprefix(SQLITE))).is_file():
            # MLflow would try a locked database, or a file that is none, for two minutes.
            with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
                connection.execute("SELECT name FROM sqlite_master")
        # Processes that open an uninitialised database together crash in its migration: one of them makes it.
        with exclusive(home / ".initialise.lock", "making the tracking database", patience=120):
            own = uri == f"{SQLITE}{database}"
            if own and not database.exists():
                database.touch()  # with the permissions of other files: SQLite's are its owner's alone
            opened.client().search_experiments(max_results=1)
            if own:
                require_here(home)
    return opened


@contextlib.contextmanager
def _reported(store: Store) -> Iterator[None]:
    for name, value in _ENVIRONMENT.items():  # MLflow reads these when it is imported
        os.environ.setdefault(name, value)
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = str(error).strip() or type(error).__name__
        said = re.search(r"\(\w+\.\w*Error\) (.+)", text)  # by the database, among many lines of SQLAlchemy
        line = said[1] if said else text.splitlines()[0][:300]
        raise TrackingError(f"the tracking store {store.uri} cannot be used: {line}", _remedy(text, store)) from error


def _remedy(text: str, store: Store) -> str:
    if "locked" in text:
        return "Another program is writing to it: end it (a paused `mlflow ui`, a database browser) and try again."
    if "schema" in text or "Can't locate revision" in text:
        return f"Back it up and run `mlflow db upgrade {store.uri}`, or move it away to start a new history."
    if "not a database" in text or "malformed" in text:
        return "The file is damaged: restore a copy, or move it away to start a new history."
    if store.uri.startswith("http"):
        return "Is the server running and reachable? Unset MLFLOW_TRACKING_URI (or `tracking.uri`) for the local store."
    return "Is the folder writable, and the disk not full? The store can be moved away to start a new history."
