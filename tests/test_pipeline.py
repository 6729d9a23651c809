"""The whole graph on a small phantom study, called as a user calls it: dvc, echolung, and MLflow's own model."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project

from echolung.tracking.store import store

pytestmark = pytest.mark.pipeline

STAGES = {
    *("phantom@hearts", "phantom@pocus", "ingest@hearts", "ingest@pocus"),
    *("split@pocus-pathology", "split@hearts-ef", "initialise", "pretrain@jepa", "pretrain@toy"),
    *("embed@pocus", "embed@hearts", "fit@pocus-pathology", "fit@hearts-ef", "compare", "report"),
}
CONTROLS = {"majority", "source-only", "hand-made"}


def ran(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The stages that a `dvc repro` ran."""
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


def runs(project: Project, experiment: str) -> list:
    """All runs of an experiment of the project's own store."""
    client = store(project.root).client()
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], max_results=500))


def test_every_stage_ran_once_and_left_its_findings(small_study: Project) -> None:
    assert small_study.first is not None and ran(small_study.first) == STAGES
    findings = [json.loads(p.read_text()) for p in (small_study.root / "reports/phantom/validation").glob("*.json")]
    assert len(findings) == len(STAGES)
    assert all(found["success"] and found["summary"]["expectations"] > 0 for found in findings)


def test_a_second_call_does_nothing(small_study: Project) -> None:
    again = small_study.run("dvc", "repro")
    assert again.returncode == 0 and ran(again) == set() and "Data and pipelines are up to date." in again.stdout


def test_the_report_needs_nothing_beside_it_and_names_every_arm(small_study: Project) -> None:
    page = (small_study.root / "reports/phantom/index.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert all(word in page for word in ("pocus-pathology", "random", "jepa", "majority", "initialise"))
    metrics, plots = (small_study.run("dvc", what, "show") for what in ("metrics", "plots"))
    assert "pocus-pathology.jepa.balanced_accuracy" in metrics.stdout
    assert plots.returncode == 0 and "index.html" in plots.stdout


def test_mlflow_holds_one_run_per_arm_and_task_with_folds_as_steps(small_study: Project) -> None:
    arms = runs(small_study, "echolung-phantom")
    lungs = [run for run in arms if run.data.tags["task"] == "pocus-pathology"]
    assert {run.data.tags["arm"] for run in lungs} == {"random", "jepa"} | CONTROLS
    assert {run.data.tags["arm"] for run in arms if run not in lungs} == {"toy", "toy-random", "toy-mean"}
    client = store(small_study.root).client()
    for run in lungs:
        history = client.get_metric_history(run.info.run_id, "fold/balanced_accuracy")
        assert sorted(point.step for point in history) == list(range(3))
        assert any(item.path == "figures" for item in client.list_artifacts(run.info.run_id))
        assert {"git_revision", "dvc_stage", "init", "data_digest"} <= set(run.data.tags)
    (jepa,) = (run.data for run in lungs if run.data.tags["arm"] == "jepa")
    table = pd.read_csv(small_study.root / "data/phantom/compare/arms.csv")
    table = table.set_index(["task", "arm", "method", "metric"])
    for name, method in (("balanced_accuracy", "linear"), ("attentive/balanced_accuracy", "attentive")):
        estimate = table["estimate"]["pocus-pathology", "jepa", method, "balanced_accuracy"]
        assert jepa.metrics[name] == pytest.approx(estimate)
    assert {"balanced_accuracy_low", "minus_random/brier", "minus_random/brier_p_holm"} <= set(jepa.metrics)
    assert "jepa" in jepa.tags["verdict_against_random"] and jepa.params["seed"] == "0"
    trials = runs(small_study, "echolung-phantom-pretraining")
    trial = next(run for run in trials if "jepa" in run.info.run_name)
    for name in ("loss", "learning_rate", "ema", "clips_per_second", "effective_rank"):
        assert client.get_metric_history(trial.info.run_id, name)
    stages = runs(small_study, "echolung-phantom-stages")
    assert {run.info.status for run in [*arms, trial, *stages]} == {"FINISHED"}
    assert {run.info.run_name for run in stages} >= {"ingest@pocus", "pretrain@jepa", "report"}


@pytest.fixture(scope="module")
def promoted(small_study: Project) -> Project:
    """The study with its candidate standing for election; on so few drawn patients either outcome is honest."""
    for arm in ("jepa", "random"):
        done = small_study.echolung("promote", "pocus-pathology", "--arm", arm)
        if done.returncode == 0:
            return small_study
        assert "does not beat the baseline" in done.stderr
    pytest.fail("neither arm beats the majority class on phantoms that a few findings tell apart")


def test_the_champion_answers_alike_by_command_and_as_mlflow_serves_it(promoted: Project) -> None:
    import mlflow.pyfunc

    from echolung.registry import models as registry

    version = registry.champion(store(promoted.root), "phantom", "pocus-pathology")
    again = promoted.echolung("promote", "pocus-pathology", "--arm", version.tags["arm"])
    assert again.returncode == 0 and f"version {version.number}: unchanged" in again.stdout

    folder = promoted.root / "data/raw/phantom/pocus/convex"
    videos = [str(path) for path in sorted(folder.iterdir())[:2]]
    contents = [base64.b64encode(Path(video).read_bytes()).decode() for video in videos]
    asked = promoted.echolung("predict", *videos, "--json")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert "research use only" in answer["use"].lower()
    served = mlflow.pyfunc.load_model(str(version.artifacts)).predict(pd.DataFrame({"content": contents}))
    told = pd.DataFrame(answer["predictions"])
    columns = ["p_covid", "p_pneumonia", "p_regular"]
    pd.testing.assert_frame_equal(told[columns], served[columns], rtol=1e-5)
    assert (abs(told[columns].sum(axis=1) - 1) < 1e-6).all()
    assert "For research use only" in promoted.echolung("predict", videos[0]).stdout
    assert not [path for path in version.artifacts.rglob("*") if path.suffix in (".pkl", ".pt", ".pickle")]


@pytest.fixture
def restored(promoted: Project) -> Iterator[Project]:
    """The study; afterwards what it was before."""
    kept = {name: (promoted.root / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    yield promoted
    for name, content in kept.items():
        (promoted.root / name).write_bytes(content)
    done = promoted.run("dvc", "checkout")
    assert done.returncode == 0, done.stderr


def test_another_drawing_reruns_what_depends_on_it_and_computes_nothing_else(restored: Project) -> None:
    """Up to the folds, to spare minutes: what follows depends on these by the same graph."""
    before = {run.info.run_id for run in runs(restored, "echolung-phantom-stages")}
    restored.change(phantom__hearts__seed=33)
    upstream = {stage for stage in STAGES if stage.startswith(("phantom", "ingest", "split"))}
    again = restored.run("dvc", "repro", *sorted(upstream))
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert ran(again) == {stage for stage in upstream if "hearts" in stage}
    after = {run.info.run_id for run in runs(restored, "echolung-phantom-stages")}
    assert len(after - before) == len(ran(again))
