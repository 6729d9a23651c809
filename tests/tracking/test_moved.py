"""A moved or copied project: runs and models are written to the folder it is in, after one command."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from echolung.core.errors import TrackingError
from echolung.tracking.moved import COLUMNS, elsewhere, repair, require_here
from echolung.tracking.store import store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run, its artifact, and a registered model with files."""
    import mlflow

    root = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        place = store(root)
        patch.setenv("MLFLOW_TRACKING_URI", place.uri)
        client = place.client()
        experiment = client.create_experiment("e", artifact_location=f"{place.artifacts}/e")
        run = client.create_run(experiment).info.run_id
        client.log_text(run, "here", "note.txt")
        model = client.create_logged_model(experiment, "m", run).model_id
        (root / "weights").write_text("w")
        client.log_model_artifact(model, str(root / "weights"))
        client.create_registered_model("m")
        client.create_model_version("m", f"models:/{model}", run, model_id=model)
        mlflow.set_tracking_uri(None)
    return root


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own, as if it had been made there."""
    root = tmp_path / "old (Jürgen)"
    shutil.copytree(original, root)
    database = root / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as here:
        script = "\n".join(here.iterdump()).replace(str(original), str(root))
    database.unlink()
    with closing(sqlite3.connect(database)) as here:
        here.executescript(script)
    require_here(root / "mlruns")
    return root


def paths(root: Path) -> dict[tuple[str, str], set[str]]:
    """Table and column -> what it says of any folder of this test."""
    found: dict[tuple[str, str], set[str]] = {}
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = database.execute(f"SELECT * FROM {table}")
            names = [column for column, *_ in rows.description]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    if str(root.parent) in str(value):
                        found.setdefault((table, name), set()).add(str(value))
    return found


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_moved_project_writes_nothing_until_it_is_fixed(how: str, project: Path, tmp_path: Path) -> None:
    new = tmp_path / "new place"
    if how == "moved":
        project.rename(new)
    else:
        shutil.copytree(project, new)
    with pytest.raises(TrackingError, match=r"was moved or copied: .* doctor --fix") as error:
        store(new)
    assert str(project) in error.value.problem
    assert "before-fix" in repair(new / "mlruns")
    found = paths(new)
    assert len(found) >= 3 and found.keys() <= set(COLUMNS), "MLflow keeps paths elsewhere, too"
    for path in set.union(*found.values()):
        assert path.startswith(f"{new}/mlruns/artifacts/")
    client = store(new).client()
    (run,) = client.search_runs(["1"])
    client.log_text(client.create_run("1").info.run_id, "again", "more.txt")
    assert (Path(run.info.artifact_uri) / "note.txt").read_text() == "here"
    assert (Path(client.get_model_version_download_uri("m", "1")) / "weights").is_file()
    assert len(list(new.rglob("more.txt"))) == len(list(tmp_path.rglob("more.txt"))) == 1
    assert project.exists() == (how == "copied")
    assert "nothing to fix" in repair(new / "mlruns")


def test_a_link_to_the_project_and_no_store_at_all_are_not_moved_projects(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    assert elsewhere(tmp_path / "link" / "mlruns") == []
    assert "nothing to fix" in repair(tmp_path / "mlruns")
