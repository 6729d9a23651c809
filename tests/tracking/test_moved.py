"""A moved or copied project: runs and models are written to the folder it is in, after one command."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from echolung.core.errors import TrackingError
from echolung.tracking.moved import elsewhere, repair
from echolung.tracking.store import store


def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run, its artifact, and a registered model with files."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = store(root)
    client = place.client()
    experiment = client.create_experiment("e", artifact_location=f"{place.artifacts}/e")
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "here", "note.txt")
    model = client.create_logged_model(experiment, "m", run).model_id
    (root / "weights").write_text("w")
    client.log_model_artifact(model, str(root / "weights"))
    client.create_registered_model("m")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", place.uri)  # a local store looks up models in the global one
        client.create_model_version("m", f"models:/{model}", run, model_id=model)
    return root


def test_a_moved_project_writes_nothing_until_it_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing to fix" in repair(tmp_path / "mlruns"), "there is no store"
    project, new = made(tmp_path / "old (Jürgen's)", monkeypatch), tmp_path / "new place"
    (tmp_path / "link").symlink_to(project)
    assert elsewhere(tmp_path / "link" / "mlruns") == []
    project.rename(new)
    with pytest.raises(TrackingError, match=r"was moved or copied: .* doctor --fix") as error:
        store(new)
    assert str(project) in error.value.problem
    assert "before-fix" in repair(new / "mlruns")
    with closing(sqlite3.connect(new / "mlruns" / "mlflow.db")) as database:
        assert str(project) not in "".join(database.iterdump())
    client = store(new).client()
    (run,) = client.search_runs(["1"])
    client.log_text(client.create_run("1").info.run_id, "again", "more.txt")
    assert (Path(run.info.artifact_uri) / "note.txt").read_text() == "here"
    assert (Path(client.get_model_version_download_uri("m", "1")) / "weights").is_file()
    assert len(list(new.rglob("more.txt"))) == 1 and not project.exists()
    assert "nothing to fix" in repair(new / "mlruns")
