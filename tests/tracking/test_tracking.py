"""The run history: what the browser shows, what killed processes leave behind, and stores that fail."""

import contextlib
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from conftest import repository

from echolung.core.errors import GateError, TrackingError
from echolung.tracking.experiments import arm_run, stage_run, trial_run
from echolung.tracking.moved import elsewhere, repair
from echolung.tracking.provenance import gone, process
from echolung.tracking.run import Run
from echolung.tracking.store import Store, TrackingSettings, store, where

OPEN_A_RUN_AND_WAIT = """
import sys, time
from pathlib import Path
from echolung.stage import exit_cleanly
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import store
with exit_cleanly(), stage_run(store(Path(sys.argv[1])), "phantom", "ingest", sys.argv[2], {"size": 64}) as run:
    print(run.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project whose store two processes initialised at once; then one got SIGTERM and the other SIGKILL."""
    root = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-c", OPEN_A_RUN_AND_WAIT, str(root)]
    children = {
        key: subprocess.Popen([*command, key], stdout=subprocess.PIPE, text=True) for key in ("terminated", "killed")
    }
    runs = {key: child.stdout.readline().strip() for key, child in children.items() if child.stdout}
    children["terminated"].send_signal(signal.SIGTERM)
    children["killed"].kill()
    for child in children.values():
        child.wait(timeout=60)
    return root, runs


@pytest.fixture(scope="module")
def tracking(interrupted: tuple[Path, dict[str, str]]) -> Store:
    return store(interrupted[0])


def status(tracking: Store, run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def tags(tracking: Store, run: Run) -> dict[str, str]:
    return dict(tracking.client().get_run(run.id).data.tags)


def series(tracking: Store, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in tracking.client().get_metric_history(run.id, name))


def arm(tracking: Store, study: str, balanced_accuracy: float = 0.7) -> Run:
    return arm_run(
        tracking, study, "pocus-pathology", "jepa", init="pretrained", data_digest="d1", tags={},
        parameters={"seeds": [0, 1], "encoder": {"width": 192}},
        metrics={"balanced_accuracy": balanced_accuracy, "balanced_accuracy_low": 0.6, "balanced_accuracy_high": 0.8},
        folds=[{"balanced_accuracy": 0.65}, {"balanced_accuracy": 0.75}, {"balanced_accuracy": None}],
    )  # fmt: skip


def test_the_runs_of_terminated_and_vanished_processes_are_closed(interrupted, tracking: Store) -> None:
    """That of a vanished one by the next stage of its study, whichever it is."""
    terminated, vanished = interrupted[1]["terminated"], interrupted[1]["killed"]
    assert (status(tracking, terminated), status(tracking, vanished)) == ("KILLED", "RUNNING")
    with stage_run(tracking, "another study", "report", "", {}):
        assert status(tracking, vanished) == "RUNNING"
    with stage_run(tracking, "phantom", "report", "", {}) as run:
        assert status(tracking, vanished) == "KILLED"
        with stage_run(tracking, "phantom", "report", "", {}):
            assert status(tracking, run.id) == "RUNNING", "this process is alive"
    assert status(tracking, run.id) == "FINISHED"


def test_a_process_is_gone_when_another_has_its_number_and_unknown_on_another_host() -> None:
    host, pid, started = process().split()
    assert gone(f"{host} {pid} {float(started) - 60}"), "the process id was reused"
    for other in (process(), f"other {pid} 0", "", "host x y z"):
        assert not gone(other), "it is this one, or nothing is known"


def test_a_failing_stage_keeps_its_reason(tracking: Store) -> None:
    parameters = {"outer": 5, "more": {"a": [1, 2], "b": {}}}
    with pytest.raises(GateError), stage_run(tracking, "phantom", "split", "", parameters) as run:
        raise GateError("patient 7 is in two folds")
    found = tracking.client().get_run(run.id)
    assert (found.info.status, found.info.run_name) == ("FAILED", "split")
    assert "patient 7 is in two folds" in found.data.tags["error"]
    assert found.data.params["outer"] == "5" and found.data.params["more.a"] == "[1, 2]"


def test_a_run_says_where_it_comes_from(tracking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tracking.root
    (root / ".gitignore").write_text("mlruns")
    (root / "file").write_text("one")
    (root / "params.yaml").write_text("steps: 1")
    repository(root)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("DVC_STAGE", "split@pocus")

    def told() -> dict[str, str]:
        with stage_run(tracking, "phantom", "split", "pocus", {}) as run:
            return tags(tracking, run)

    found = told()
    assert (found["git_revision"], found["dvc_stage"]) == (revision, "split@pocus")
    assert {"mlflow.user", "mlflow.source.name", "echolung_version"} <= found.keys()
    (root / "params.yaml").write_text("steps: 2")  # DVC's own doing, and kept with the run's parameters
    assert told()["git_revision"] == revision
    (root / "file").write_text("two")
    assert told()["git_revision"] == f"{revision}+changed"


def test_a_trial_of_the_same_parameters_and_seed_continues_the_same_run_and_the_same_line(tracking: Store) -> None:
    queue = tracking.client()._tracking_client.store  # `live` does not wait for it
    trial = (tracking, "phantom", "jepa", 0, {"pretrain": {"lr": 0.001}}, "weights-a")
    with pytest.raises(KeyboardInterrupt), trial_run(*trial) as first:
        live = pickle.loads(pickle.dumps(first.live))  # as Ray hands it to a worker
        for step in (0, 10, 20):
            live(step, {"loss": 1.0 - step / 100})
        queue.flush_async_logging()
        raise KeyboardInterrupt
    assert status(tracking, first.id) == "KILLED"
    with trial_run(*trial) as second:
        assert status(tracking, second.id) == "RUNNING"
        for step in (10, 20, 30):  # the checkpoint was older than the last point
            second.live(step, {"loss": 1.0 - step / 100})
        queue.flush_async_logging()
    assert (second.id, status(tracking, first.id)) == (first.id, "FINISHED")
    assert series(tracking, first, "loss") == [(0, 1.0), (10, 0.9), (20, 0.8), (30, 0.7)]
    assert tracking.client().get_run(first.id).data.params == {"encoder": "jepa", "seed": "0", "pretrain.lr": "0.001"}
    ids = set()
    for seed, key in ((1, "a"), (1, "b"), (2, "a"), (2, "a")):
        with trial_run(tracking, "phantom", "jepa", seed, {"lr": key}, key) as run:
            ids.add(run.id)
    assert len(ids) == 3


def test_a_stage_outlives_its_store_and_warns_once(tracking, monkeypatch, capsys) -> None:
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "effective_rank": [None, 5.0, None]})
    refuse = Mock(side_effect=ConnectionError("connection refused"))
    with trial_run(tracking, "phantom", "jepa", 11, {}, "outage") as run:
        run.metrics({"loss": 3.0}, step=1)
        with monkeypatch.context() as outage:
            for write in ("log_batch", "log_artifact", "get_metric_history"):
                outage.setattr(f"mlflow.tracking.MlflowClient.{write}", refuse)
            run.live(2, {"loss": 2.0})
            run.metrics({"loss_last": 1.0})
            run.attach(Path(__file__))
            run.replay(history)
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1 and "The work continues" in warned[0]
    assert status(tracking, run.id) == "FINISHED"
    assert "connection refused" in tags(tracking, run)["incomplete"]
    with trial_run(tracking, "phantom", "jepa", 11, {}, "outage") as run:
        run.replay(history)  # what the outage left out
    assert series(tracking, run, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert series(tracking, run, "effective_rank") == [(2, 5.0)]


def test_the_same_result_is_the_same_run_and_a_new_one_becomes_current(tracking: Store) -> None:
    first = arm(tracking, "again")
    assert arm(tracking, "again").id == first.id
    assert series(tracking, first, "fold/balanced_accuracy") == [(0, 0.65), (1, 0.75)]
    newer = arm(tracking, "again", 0.71)
    assert newer.id != first.id
    assert (tags(tracking, first)["current"], tags(tracking, newer)["current"]) == ("false", "true")
    arm(tracking, "again")  # DVC brought the older state back
    assert (tags(tracking, first)["current"], tags(tracking, newer)["current"]) == ("true", "false")


def test_a_run_cut_off_while_it_was_written_is_replaced(tracking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "series", Mock(side_effect=KeyboardInterrupt))
        arm(tracking, "cut")
    run = arm(tracking, "cut")
    assert (status(tracking, run.id), tags(tracking, run)["current"]) == ("FINISHED", "true")
    experiment = tracking.client().get_experiment_by_name("echolung-cut").experiment_id
    assert len(tracking.client().search_runs([experiment], "tags.current = 'true'")) == 1


def test_a_database_of_another_mlflow_is_not_touched(tracking: Store, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    path = Path(shutil.copy(tracking.root / "mlruns" / "mlflow.db", tmp_path / "mlruns"))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    before = path.read_bytes()
    with pytest.raises(TrackingError, match=f"out-of-date database schema.*`mlflow db upgrade sqlite:///{path}`"):
        store(tmp_path)
    assert path.read_bytes() == before


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert where(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert where(tmp_path / ".dvc" / "tmp" / "exps" / "tmp1234") == where(tmp_path), "a queued experiment"
    chosen = TrackingSettings(uri="sqlite:///history.db")
    assert where(tmp_path, chosen) == f"sqlite:///{tmp_path}/history.db", "Ray's workers have other working folders"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert where(tmp_path, chosen) == "http://localhost:5000"


# --- a moved or copied project writes to the folder it is in, after one command ---


def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run, its artifact, and a registered model with files."""
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
    with contextlib.closing(sqlite3.connect(new / "mlruns" / "mlflow.db")) as database:
        assert str(project) not in "".join(database.iterdump())
    client = store(new).client()
    (run,) = client.search_runs(["1"])
    client.log_text(client.create_run("1").info.run_id, "again", "more.txt")
    assert (Path(run.info.artifact_uri) / "note.txt").read_text() == "here"
    assert (Path(client.get_model_version_download_uri("m", "1")) / "weights").is_file()
    assert len(list(new.rglob("more.txt"))) == 1 and not project.exists()
    assert "nothing to fix" in repair(new / "mlruns")
