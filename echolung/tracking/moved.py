"""A moved or copied project: MLflow keeps absolute artifact paths, so runs and models would go to the old folder.

`echolung doctor --fix` points them to the folder that the project is in now.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
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
            f"this project was moved or copied: its tracking store still points to {' and '.join(sorted(old))}",
            "Run `echolung doctor --fix` here to point it to this folder.",
        )


def elsewhere(mlruns: Path) -> dict[str, list[str]]:
    """Artifact folder of another project -> the paths below it that the database in `mlruns` names."""
    found: dict[str, list[str]] = {}
    with _database(mlruns) as database:
        for table, column in _columns(database):
            for (path,) in database.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE '/%'"):
                match = _ARTIFACTS.match(path)
                if match and not _same(Path(match[1]), mlruns / "artifacts"):
                    found.setdefault(match[1], []).append(path)
    return found


def repair(mlruns: Path) -> str:
    """Point the database in `mlruns` to the artifacts beside it, after a backup; returns what was done, in one line.

    Raises TrackingError, and changes nothing, if files that the database names are only in the old folder.
    """
    old, new = elsewhere(mlruns), str(mlruns.absolute() / "artifacts")
    if not old:
        return "The tracking store points to this folder; nothing to fix."
    for folder, paths in old.items():
        left = [path for path in paths if os.path.exists(path) and not os.path.exists(new + path[len(folder) :])]
        if left:
            raise TrackingError(
                f"{len(left)} folders of files are only in the old place, e.g. {left[0]}",
                f"Copy them first: cp -rn {shlex.quote(folder)}/. {shlex.quote(new)}/",
            )
    backup = _free(mlruns / "mlflow.db.before-fix")
    changed = 0
    with _database(mlruns) as database:
        with contextlib.closing(sqlite3.connect(backup)) as copy:
            database.backup(copy)
        with database:
            for table, column in _columns(database):
                for folder in old:
                    rows = database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (new, len(folder) + 1, len(folder) + 1, f"{folder}/"),
                    )
                    changed += rows.rowcount
    return f"{changed} paths of the tracking store now point to {new}. The old database is {backup}."


@contextlib.contextmanager
def _database(mlruns: Path) -> Iterator[sqlite3.Connection]:
    """The database, or an empty one in memory if there is none yet."""
    path = mlruns / "mlflow.db"
    try:
        with contextlib.closing(sqlite3.connect(path if path.is_file() else ":memory:", timeout=20)) as database:
            yield database
    except sqlite3.Error as error:
        raise TrackingError(f"{path} cannot be used: {error}", "See `echolung doctor`.") from error


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [(table, column) for table, column in COLUMNS if table in tables]


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are one folder, perhaps through a link."""
    return first == second or (first.exists() and second.exists() and first.samefile(second))


def _free(path: Path) -> Path:
    """`path`, or with the first number behind it that is not taken."""
    number = 1
    taken = path
    while taken.exists():
        number += 1
        taken = path.with_name(f"{path.name}-{number}")
    return taken
