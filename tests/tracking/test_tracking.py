"""The run history: what a person finds in the browser, and what is left when processes end badly."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from echolung.errors import GateError, TrackingError
from echolung.tracking.experiments import (
    ArmResult,
    Dataset,
    arm_run,
    compare_url,
    folds_url,
    stage_run,
    stage_times,
    trial_run,
)
from echolung.tracking.run import MetricsLogger, Run, flatten
from echolung.tracking.store import Store, TrackingSettings, store

OPEN_A_RUN_AND_WAIT = """
import sys, time
from pathlib import Path
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import store
with stage_run(store(Path(sys.argv[1])), "phantom", "ingest", sys.argv[2], {"size": 64}) as run:
    print(run.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def no_server_from_outside() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project whose store two processes initialised at once; one was then terminated, the other killed outright."""
    root = tmp_path_factory.mktemp("project")
    children = {
        key: subprocess.Popen(
            [sys.executable, "-c", OPEN_A_RUN_AND_WAIT, str(root), key], stdout=subprocess.PIPE, text=True
        )
        for key in ("terminated", "killed")
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


def result(**changes: object) -> ArmResult:
    frame = pd.DataFrame({"sample_id": ["pocus/a", "pocus/b"], "p_0": [0.2, 0.8]})
    values: dict[str, object] = {
        "task": "pocus-pathology",
        "arm": "jepa",
        "init": "pretrained",
        "data_digest": "d1",
        "parameters": {"seeds": [0, 1], "encoder": {"width": 192}},
        "metrics": {"balanced_accuracy": 0.7, "balanced_accuracy_low": 0.6, "balanced_accuracy_high": 0.8},
        "folds": [{"balanced_accuracy": 0.65}, {"balanced_accuracy": 0.75}, {"balanced_accuracy": None}],
        "datasets": [Dataset(frame, Path("/tmp/predictions.parquet"), "predictions", "f" * 64, "evaluation")],
    }
    return ArmResult(**{**values, **changes})  # type: ignore[arg-type]


# --- processes that end badly ---


def test_two_processes_may_initialise_the_store_at_once(interrupted: tuple[Path, dict[str, str]]) -> None:
    assert all(len(run) == 32 for run in interrupted[1].values())


def test_a_terminated_stage_is_recorded_as_killed(interrupted: tuple[Path, dict[str, str]], tracking: Store) -> None:
    assert status(tracking, interrupted[1]["terminated"]) == "KILLED"


def test_the_run_of_a_vanished_process_is_closed_when_its_stage_starts_again(
    interrupted: tuple[Path, dict[str, str]], tracking: Store
) -> None:
    vanished = interrupted[1]["killed"]
    assert status(tracking, vanished) == "RUNNING"
    with stage_run(tracking, "phantom", "ingest", "another key", {}):
        assert status(tracking, vanished) == "RUNNING"
    with stage_run(tracking, "phantom", "ingest", "killed", {}) as run:
        assert status(tracking, vanished) == "KILLED"
        with stage_run(tracking, "phantom", "ingest", "killed", {}):
            assert status(tracking, run.id) == "RUNNING", "this process is alive"
    assert status(tracking, run.id) == "FINISHED"


def test_a_failing_stage_keeps_its_reason(tracking: Store) -> None:
    with (
        pytest.raises(GateError),
        stage_run(tracking, "phantom", "split", "", {"outer": 5}, {"data_digest": "d"}) as run,
    ):
        raise GateError("patient 7 is in two folds")
    assert status(tracking, run.id) == "FAILED"
    found = tags(tracking, run)
    assert "patient 7 is in two folds" in found["error"]
    assert (found["stage"], found["data_digest"], found["mlflow.runName"]) == ("split", "d", "split")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_stage_is_killed_and_the_interrupt_goes_on(tracking: Store, error: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), stage_run(tracking, "phantom", "split", "", {}) as run:
        raise error
    assert status(tracking, run.id) == "KILLED"
    assert signal.getsignal(signal.SIGTERM) == before


# --- provenance ---


def test_a_run_says_where_it_comes_from(tracking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tracking.root
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(repository)]
    subprocess.run([*git, "init", "-q"], check=True)
    (repository / "file").write_text("one")
    (repository / "params.yaml").write_text("steps: 1")
    subprocess.run([*git, "add", "file", "params.yaml"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("DVC_STAGE", "split@pocus")
    with stage_run(tracking, "phantom", "split", "pocus", {}) as run:
        pass
    found = tags(tracking, run)
    assert (found["git_revision"], found["dvc_stage"]) == (revision, "split@pocus")
    assert found["mlflow.source.git.commit"] == revision
    (repository / "params.yaml").write_text("steps: 2")  # DVC's own doing, and kept with the run's parameters
    with stage_run(tracking, "phantom", "split", "pocus", {}) as run:
        pass
    assert tags(tracking, run)["git_revision"] == revision
    (repository / "file").write_text("two")
    with stage_run(tracking, "phantom", "split", "pocus", {}) as run:
        pass
    assert tags(tracking, run)["git_revision"] == f"{revision}+changed"


def test_stage_times_are_of_the_last_finished_run_of_each_stage(tracking: Store) -> None:
    for stage, key in (("ingest", "pocus"), ("split", "covid"), ("ingest", "pocus")):
        with stage_run(tracking, "timed", stage, key, {}) as run:
            pass
    with pytest.raises(GateError), stage_run(tracking, "timed", "split", "covid", {}):
        raise GateError("no")
    found = stage_times(tracking, "timed")
    assert list(found["stage"]) == ["split@covid", "ingest@pocus"]
    last = tracking.client().get_run(run.id).info
    assert found["minutes"].iloc[1] == (last.end_time - last.start_time) / 60_000
    assert (found["revision"] != "").all()


# --- a pretraining trial ---


def test_a_resumed_trial_goes_on_in_the_same_run_and_draws_one_line(tracking: Store) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        trial_run(tracking, "phantom", "jepa", 0, {"pretrain": {"lr": 0.001}}, "weights-a") as first,
    ):
        logger = pickle.loads(pickle.dumps(MetricsLogger(tracking, first.id)))  # as Ray hands it to a worker
        for step in (0, 10, 20):
            logger(step, {"loss": 1.0 - step / 100})
        raise KeyboardInterrupt
    assert status(tracking, first.id) == "KILLED"
    with trial_run(tracking, "phantom", "jepa", 0, {"pretrain": {"lr": 0.001}}, "weights-a") as second:
        assert status(tracking, second.id) == "RUNNING"
        logger = second.logger()
        for step in (10, 20, 30):  # the checkpoint was older than the last point
            logger(step, {"loss": 1.0 - step / 100})
    assert second.id == first.id
    assert status(tracking, first.id) == "FINISHED"
    assert series(tracking, first, "loss") == [(0, 1.0), (10, 0.9), (20, 0.8), (30, 0.7)]
    assert tracking.client().get_run(first.id).data.params == {"arm": "jepa", "seed": "0", "pretrain.lr": "0.001"}


def test_a_trial_of_other_parameters_or_another_seed_is_another_run(tracking: Store) -> None:
    ids = set()
    for seed, key in ((1, "a"), (1, "b"), (2, "a"), (2, "a")):
        with trial_run(tracking, "phantom", "jepa", seed, {"lr": key}, key) as run:
            ids.add(run.id)
    assert len(ids) == 3


def test_metrics_wait_while_the_store_cannot_be_reached(
    tracking: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with trial_run(tracking, "phantom", "jepa", 9, {}, "outage") as run:
        logger = MetricsLogger(tracking, run.id)
        logger(0, {"loss": 3.0})
        with monkeypatch.context() as outage:

            def refuse(*_: object, **__: object) -> None:
                raise ConnectionError("database is locked")

            outage.setattr("mlflow.tracking.MlflowClient.log_batch", refuse)
            logger(1, {"loss": 2.0})
            assert "wait in memory" in capsys.readouterr().err
            with pytest.raises(TrackingError, match="locked"):
                logger.flush()
        logger(2, {"loss": 1.0})
    assert series(tracking, run, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


# --- one run per task x arm ---


def test_an_arm_shows_folds_as_steps_intervals_and_what_it_read(tracking: Store) -> None:
    run = arm_run(tracking, "phantom", result())
    found = tracking.client().get_run(run.id)
    assert found.info.run_name == "pretrained (jepa) - pocus-pathology"
    assert found.info.status == "FINISHED"
    assert found.data.metrics["balanced_accuracy_low"] == 0.6
    assert series(tracking, run, "fold/balanced_accuracy") == [(0, 0.65), (1, 0.75)]
    assert found.data.params["encoder.width"] == "192"
    assert found.data.params["seeds"] == "0, 1"
    assert {name: found.data.tags[name] for name in ("init", "task", "arm", "current")} == {
        "init": "pretrained",
        "task": "pocus-pathology",
        "arm": "jepa",
        "current": "true",
    }
    (dataset,) = found.inputs.dataset_inputs
    assert dataset.dataset.name == "predictions"
    assert json.loads(dataset.dataset.source)["uri"].endswith("/tmp/predictions.parquet")
    assert dataset.tags[0].value == "evaluation"


def test_the_same_result_is_the_same_run_and_a_new_one_takes_its_place(tracking: Store) -> None:
    first = arm_run(tracking, "again", result())
    assert arm_run(tracking, "again", result()).id == first.id
    assert series(tracking, first, "fold/balanced_accuracy") == [(0, 0.65), (1, 0.75)]
    newer = arm_run(tracking, "again", result(metrics={"balanced_accuracy": 0.71}))
    assert newer.id != first.id
    assert (tags(tracking, first)["current"], tags(tracking, newer)["current"]) == ("false", "true")
    arm_run(tracking, "again", result())  # DVC brought the older state back
    assert (tags(tracking, first)["current"], tags(tracking, newer)["current"]) == ("true", "false")


def test_a_run_cut_off_while_it_was_written_is_made_anew(tracking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Run, "dataset", die)
        with pytest.raises(KeyboardInterrupt):
            arm_run(tracking, "cut", result())
    run = arm_run(tracking, "cut", result())
    experiment = tracking.client().get_experiment_by_name("echolung-cut")
    assert [found.info.run_id for found in tracking.client().search_runs([experiment.experiment_id])] == [run.id]


def test_pages_of_the_browser_are_found_by_task_and_arm(tracking: Store) -> None:
    jepa = arm_run(tracking, "pages", result())
    random = arm_run(tracking, "pages", result(arm="random", init="random"))
    address = compare_url("http://127.0.0.1:5000", tracking, "pages", "pocus-pathology", ["jepa", "random"])
    assert address.startswith("http://127.0.0.1:5000/#/compare-runs?runs=")
    assert address.index(jepa.id) < address.index(random.id)
    assert "pocus-pathology" in folds_url("http://127.0.0.1:5000", tracking, "pages", "pocus-pathology")
    with pytest.raises(TrackingError, match="no run of arm discovr"):
        compare_url("http://127.0.0.1:5000", tracking, "pages", "pocus-pathology", ["discovr"])


def test_files_and_tables_are_kept_in_the_project(tracking: Store, tmp_path: Path) -> None:
    (tmp_path / "roc.png").write_bytes(b"figure")
    run = arm_run(tracking, "files", result(arm="random", init="random"))
    run.attach(tmp_path / "roc.png", "figures")
    run.table(pd.DataFrame({"fold": [0], "auroc": [0.75]}), "tables/folds.csv")
    folder = tracking.root / "mlruns" / "artifacts" / "echolung-files" / run.id / "artifacts"
    assert (folder / "figures" / "roc.png").read_bytes() == b"figure"
    assert (folder / "tables" / "folds.csv").read_text() == "fold,auroc\n0,0.75\n"


def test_nested_parameters_become_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


# --- a store that cannot be used ---


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("not a database at all, but long enough to look like one" * 20)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used") as error:
        store(tmp_path)
    assert "move it away" in error.value.remedy


def test_a_database_of_another_mlflow_is_not_touched(tracking: Store, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    copy = tmp_path / "mlruns" / "mlflow.db"
    copy.write_bytes((tracking.root / "mlruns" / "mlflow.db").read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(TrackingError, match="schema of another MLflow") as error:
        store(tmp_path)
    assert f"mlflow db upgrade sqlite:///{copy}" in error.value.remedy


def test_a_locked_database_says_so(tracking: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr("echolung.tracking.store.sqlite3.connect", lambda path, timeout: connect(path, timeout=0.1))
    with connect(tracking.root / "mlruns" / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked") as error:
            store(tracking.root)
        other.rollback()
    assert "Another program" in error.value.remedy


def test_a_server_that_is_not_there_is_an_error_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 cannot be used") as error:
        store(tmp_path, TrackingSettings(uri="http://127.0.0.1:9"))
    assert "reachable" in error.value.remedy


def test_a_queued_dvc_experiment_writes_into_the_projects_own_history(tracking: Store) -> None:
    queued = tracking.root / ".dvc" / "tmp" / "exps" / "tmp1234"
    queued.mkdir(parents=True)
    assert store(queued).uri == tracking.uri


def test_the_environment_names_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: Store) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    assert store(tmp_path, TrackingSettings(uri="sqlite:////nowhere/x.db")).uri == tracking.uri
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
