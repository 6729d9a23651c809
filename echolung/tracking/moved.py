"""A moved or copied project: MLflow keeps absolute artifact paths, so runs and models would go to the old folder.

`echolung doctor --fix` points them to the folder that the project is in now.
"""

import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from echolung.core.errors import TrackingError

_ARTIFACTS = re.compile(r"(/.*/mlruns/artifacts)/")


def require_here(mlruns: Path) -> None:
    """Raise TrackingError if the database in `mlruns` names artifacts of another project folder."""
    if old := elsewhere(mlruns):
        problem = f"this project was moved or copied: its tracking store still points to {' and '.join(old)}"
        raise TrackingError(problem, "Run `echolung doctor --fix` here to point it to this folder.")


def elsewhere(mlruns: Path) -> list[str]:
    """Artifact folders of other projects that the database in `mlruns` names; a link to this one is no other."""
    path = mlruns / "mlflow.db"
    try:
        with closing(sqlite3.connect(path, timeout=20)) as database:
            locations = database.execute("SELECT artifact_location FROM experiments").fetchall()
    except sqlite3.Error as error:
        raise TrackingError(f"{path} cannot be used: {error}", "See `echolung doctor`.") from error
    named = {match[1] for (location,) in locations if (match := _ARTIFACTS.match(location))}
    return sorted(folder for folder in named if Path(folder).resolve() != (mlruns / "artifacts").resolve())


def repair(mlruns: Path) -> str:
    """Point the database in `mlruns` to the artifacts beside it, after a backup; returns what was done, in one line."""
    database, new = mlruns / "mlflow.db", f"{mlruns.absolute()}/artifacts/"
    old = elsewhere(mlruns) if database.is_file() else []
    if not old:
        return "The tracking store points to this folder; nothing to fix."
    backup = mlruns / f"mlflow.db.before-fix-{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copyfile(database, backup)
    with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(":memory:")) as fixed:
        script = "\n".join(here.iterdump())
        for folder in old:
            script = script.replace(f"{folder}/".replace("'", "''"), new.replace("'", "''"))
        fixed.executescript(script)
        fixed.backup(here)  # in one transaction; another program may have the file open
    return f"The tracking store now points to {new}. The old database is {backup}."
