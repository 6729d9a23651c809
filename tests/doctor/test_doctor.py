"""What the doctor passes runs; what does not run, it names with the line to type."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Project, called, committed

from echolung.data import video
from echolung.doctor import machine, sources
from echolung.doctor.examine import examine, parameters
from echolung.doctor.findings import Finding, verdict


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project fresh from git, without data: the phantom study, as committed."""
    for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "GIT_CONFIG_GLOBAL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return committed(tmp_path)


def only(findings: list[Finding], subject: str) -> Finding:
    (found,) = [one for one in findings if one.subject == subject]
    return found


def stops(found: Finding, *said: str) -> None:
    """It is an error, in one line that says what, with a remedy."""
    assert found.level == "error" and found.remedy and "\n" not in found.said, found
    assert all(part in f"{found.said}. {found.remedy}" for part in said), found


def test_a_fresh_project_can_run_and_asking_changes_nothing(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    study, findings = examine(root)
    assert study == "phantom" and verdict(study, findings)[0]
    said = {one.subject: one.said for one in findings}
    assert said.keys() > {"FFmpeg", "Ray", "disk", "Git"} and said["pocus"] == "drawn by the study"
    assert said["parameters"] == "params.yaml: study=phantom scale=demo"
    assert {path: path.read_bytes() for path in before if path.exists()} == before
    called("doctor")


def test_what_is_missing_is_shown_with_its_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "python", lambda root: Finding("Python", "warning", "is [not] new", "do it"))
    Project(root).change(split__oter=3)
    output = " ".join(called("doctor", code=1).split())
    said = ("is [not] new do it", "did you mean 'outer'?", "The study cannot run yet. To fix: parameters.")
    assert all(part in output for part in said)
    assert verdict("x", [Finding("", "warning", "")]) == (True, "Study x can run. Warnings: 1.")


def test_the_code_and_the_programs_are_those_of_this_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.python(root).level == "ok"
    other = root / "bin"
    other.mkdir()
    shutil.copy("/bin/true", other / "dvc")
    monkeypatch.setenv("PATH", f"{other}:{os.environ['PATH']}")
    stops(machine.python(root), f"`dvc` is {other}/dvc", "source ")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    stops(machine.python(root), "bin/activate")
    (root / "echolung").mkdir()  # copied here, with an environment that was made in another folder
    stops(machine.python(root), f"`echolung` runs the code of {ROOT}", "./bootstrap.sh")


def test_a_gpu_or_a_cluster_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stops(machine.gpu(True), "pretrain.compute.gpu")
    assert machine.gpu(False).level == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{server.getsockname()[1]}")
        assert machine.ray().level == "ok"
    stops(machine.ray(), "does not answer", "unset RAY_ADDRESS")


def test_a_repository_that_dvc_could_not_use_says_what_to_type(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.level for one in machine.git(root)] == ["ok"]
    subprocess.run(["git", "config", "--unset", "user.email"], check=True)
    stops(machine.git(root)[-1], "no user.email", "git config --global user.email you@example.org")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "t@t")
    assert machine.git(root)[-1].level == "ok"
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for its tests
        (found,) = machine.git(root)
    stops(found, f"git config --global --add safe.directory {root}")
    assert "git init" not in found.remedy, "another user's repository is to be trusted, not made again"
    shutil.rmtree(root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    stops(machine.git(root)[-1], "not a git repository", "git init")
    subprocess.run(["git", "init", "-q"], check=True)
    stops(machine.git(root)[-1], "does not have any commits yet", "git commit")


def test_stages_need_room_inside_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROOM", 0)
    assert machine.folders(root).level == "ok"
    monkeypatch.setattr(machine, "ROOM", 1e9)
    assert machine.folders(root).level == "warning"
    (root / "data").rename(root.parent / "large disk")
    (root / "data").symlink_to(root.parent / "large disk")
    stops(machine.folders(root), "data is a link to ", "Move the whole project")


def test_another_study_is_examined_as_it_would_run(root: Path) -> None:
    settings, found = parameters(root, "lung", "laptop", ["public_sets=/my sets (a)", "split.seed=4"])
    assert (settings.study, str(settings.ingest.sources["pocus"].root)) == ("lung", "/my sets (a)/pocus")
    command = "echolung run --study lung --scale laptop --set 'public_sets=/my sets (a)' --set split.seed=4"
    assert found.remedy == f"To run it: {command}"
    settings, found = parameters(root, "lnug")
    assert settings is None
    stops(found, "Did you mean 'lung'?")


# --- the videos ---

SICK_AND_WELL = [f"{label}{number}.avi,{label}-{number},{label}" for label in ("sick", "well") for number in range(6)]


def examined(root: Path, rows: list[str]) -> list[Finding]:
    """Findings of the study `folder`, with videos.csv and the .avi of every row."""
    videos = root / "data" / "raw" / "mine"
    videos.mkdir(parents=True, exist_ok=True)
    (videos / "videos.csv").write_text("\n".join(["path,patient,label", *rows]) + "\n")
    speckle = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    for name in (row.split(",")[0] for row in rows):
        if name.endswith(".avi"):
            video.encode(videos / name, speckle, 25, "mjpeg")
    settings, _ = parameters(root, "folder")
    manifests, found = sources.sources(root, settings)
    return [*found, *sources.tasks(settings, manifests)]


def test_a_sound_folder_says_what_is_in_it_and_a_wrong_table_is_an_error(root: Path) -> None:
    found = examined(root, SICK_AND_WELL)
    assert only(found, "mine").said == f"12 videos of 12 patients in {root}/data/raw/mine"
    assert only(found, "mine-sick").said == "12 videos of 12 patients (sick 6, well 6)"
    assert {one.level for one in found} == {"ok"}
    for row, subject, said in [
        ("x.avi,x,dead", "mine-sick", "dead"),
        ("x.avi,x,", "mine-sick", "have no 'label'"),
        ("gone.mp4,x,sick", "mine", "gone.mp4"),
    ]:
        stops(only(examined(root, [*SICK_AND_WELL, row]), subject), said)
    stops(only(examined(root, SICK_AND_WELL[2:8]), "mine-sick"), "patients")


def test_what_only_decoding_tells_is_left_to_the_stages_and_absent_sets_and_weights_are_named(root: Path) -> None:
    _, found = sources.sources(root, parameters(root, "lung")[0])
    stops(only(found, "pocus"), "dvc pull data/raw/pocus.dvc", "github.com/jannisborn")
    settings, _ = parameters(root, "lung", "laptop", ["public_sets=/nowhere"])
    absent = sources.weights(root, settings)
    assert {finding.subject for finding in absent} == {"natural-stills", "natural-cnn"}
    assert all("there are no weights /nowhere/natural-images/" in finding.said for finding in absent)
    late = settings.model_copy(update={"tasks": {"one": settings.tasks["pocus-northumbria-22"]}})
    (finding,) = sources.tasks(late, {"pocus": pd.DataFrame()})
    assert (finding.level, finding.said) == ("ok", "checked once its videos are decoded (where: fps)")
