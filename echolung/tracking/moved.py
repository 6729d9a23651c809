"""A moved or copied project: MLflow keeps absolute artifact paths, so runs and models would go to the old folder.

`echolung doctor --fix` points them to the folder that the project is in now.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from echolung.core.errors import TrackingError

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_ARTIFACTS = re.compile(r"(/.*/mlruns/artifacts)/")


def require_here(mlruns: Path) -> None:
    """Raise TrackingError if the database in `mlruns` names artifacts of another project folder."""
    if old := elsewhere(mlruns):
        raise TrackingError(
            f"this project was moved or copied: its tracking store still points to {' and '.join(old)}",
            "Run `echolung doctor --fix` here to point it to this folder.",
        )


def elsewhere(mlruns: Path) -> list[str]:
    """Artifact folders of other projects that the database in `mlruns` names; a link to this one is no other."""
    with _database(mlruns) as database:
        locations = database.execute("SELECT artifact_location FROM experiments").fetchall()
    named = {match[1] for (location,) in locations if (match := _ARTIFACTS.match(location))}
    return sorted(folder for folder in named if Path(folder).resolve() != (mlruns / "artifacts").resolve())


def repair(mlruns: Path) -> str:
    """Point the database in `mlruns` to the artifacts beside it, after a backup; returns what was done, in one line."""
    old, new = elsewhere(mlruns) if (mlruns / "mlflow.db").is_file() else [], f"{mlruns.absolute()}/artifacts/"
    if not old:
        return "The tracking store points to this folder; nothing to fix."
    backup = mlruns / f"mlflow.db.before-fix-{time.strftime('%Y%m%d-%H%M%S')}"
    with _database(mlruns) as database:
        with contextlib.closing(sqlite3.connect(backup)) as copy:
            database.backup(copy)
        with database:
            for table, column in COLUMNS:
                moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?) = 1"
                database.executemany(moved, [(f"{folder}/", new, f"{folder}/") for folder in old])
    return f"The tracking store now points to {new}. The old database is {backup}."


@contextlib.contextmanager
def _database(mlruns: Path) -> Iterator[sqlite3.Connection]:
    path = mlruns / "mlflow.db"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
            yield database
    except sqlite3.Error as error:
        raise TrackingError(f"{path} cannot be used: {error}", "See `echolung doctor`.") from error
