"""predict, promote and rollback as a person calls them: what they print, and one line for what goes wrong."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import made_project
from small_models import TASK, registered

from echolung.cli.main import main
from echolung.data.video import encode
from echolung.registry.models import Version, champion, note
from echolung.serving.model import Model
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]


@pytest.fixture(scope="module")
def project(folder: Path, tracking: Store) -> Path:
    """A project whose champion of pocus-pathology is the small model, version 2, after a version 1 of the same."""
    made_project(tracking.root)
    shutil.copyfile(folder / "a.mp4", tracking.root / "x.mp4")
    for warning, follows in (("", ""), ("Fitted on 2 videos.", "1")):
        tags = {"warnings": warning, "follows": follows}
        version = registered(tracking, "phantom", folder / "whole" / "model", tags)
        note(tracking, version.name, version.number, "champion")
    return tracking.root


@pytest.fixture
def present(project: Path, tracking: Store) -> Iterator[Version]:
    """The champion; whatever is done to its files or its alias is undone."""
    found = champion(tracking, "phantom", TASK)
    kept = project / "kept"
    shutil.copytree(found.artifacts, kept)
    yield found
    shutil.rmtree(found.artifacts, ignore_errors=True)
    kept.replace(found.artifacts)
    tracking.client().set_registered_model_alias(found.name, "champion", str(found.number))


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "250")


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def refused(done: Result, said: str, remedy: str) -> None:
    """One line with the problem, one with the remedy, exit code 1."""
    problem, *lines = done.stderr.strip().splitlines()
    assert done.exit_code in (1, 3) and problem.startswith("echolung: ") and said in problem, done.output
    assert remedy in "\n".join(lines) and "Traceback" not in done.output and len(lines) <= 2, done.output


def test_a_row_per_file_and_no_numbers_where_the_model_knows_nothing(folder: Path, model: Model) -> None:
    done = call("predict", str(folder / "a.mp4"), str(folder / "b.avi"))
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line[:5] in ("a.mp4", "b.avi")}
    answer = model.predict([folder / "a.mp4"])["predicted"][0]
    assert rows["a.mp4"][0] == answer and rows["b.avi"][:4] == ["outside", "-", "-", "-"]
    assert f"False alarms: {model.record.novelty.measured:.1%}" in done.stdout
    assert done.stdout.count("For research use only") == 1 and "was fitted on" not in done.stdout
    warned = "Warnings that came with this model: 1. `echolung promote pocus-pathology` repeats them"
    assert done.stderr.startswith(warned)


@pytest.mark.parametrize("explain", [False, True])
def test_what_cannot_be_read_does_not_keep_the_others_from_an_answer(folder, tmp_path: Path, explain: bool) -> None:
    pictures = ["--explain", str(tmp_path / "pictures")] if explain else []
    (tmp_path / "text.mp4").write_text("no video")
    encode(tmp_path / "still.avi", np.zeros((1, 64, 64), np.uint8), 25.0, "mjpeg")
    files = (tmp_path, folder / "a.mp4", tmp_path / "text.mp4", tmp_path / "still.avi")
    done = call("predict", *map(str, files), *pictures)
    assert done.exit_code == 1 and any(line.startswith("a.mp4 ") for line in done.stdout.splitlines())
    assert f"echolung: {tmp_path} is a folder.\nGive the videos in it: {tmp_path}/*" in done.stderr
    assert "text.mp4 holds no video (whatever its name says)." in done.stderr
    assert "still.avi has one frame, and a video has two or more.\nGive the video, not a still of it." in done.stderr
    assert (tmp_path / "pictures" / "a.png").is_file() == explain


def test_an_unknown_task_names_the_nearest() -> None:
    for words in (["predict", "x.mp4", "--task"], ["promote"], ["rollback"]):
        refused(call(*words, "pocus-patology"), "has no task 'pocus-patology'", "Did you mean")


def test_a_store_that_is_not_there_yet_has_no_champion(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(made_project(tmp_path))
    refused(call("predict", str(folder / "a.mp4")), "has no champion yet", "`echolung promote")
    refused(call("rollback", TASK), "has no champion to roll back", "`echolung promote")
    refused(call("promote", TASK), "does not exist", "`dvc repro`")


def test_a_locked_store_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr("echolung.tracking.store.sqlite3.connect", lambda path, timeout: connect(path, timeout=0.1))
    with connect(project / "mlruns" / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        done = call("predict", "x.mp4")
        other.rollback()
    refused(done, "locked", "Another program is writing to it")


def test_a_damaged_champion_is_not_asked(present: Version, folder: Path) -> None:
    path = present.folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    asked = call("predict", str(folder / "a.mp4"))
    refused(asked, "version 2 cannot be read", "`echolung rollback pocus-pathology`")


def test_rollback_says_what_it_did(present: Version) -> None:
    shutil.rmtree(present.artifacts)
    done = call("rollback", TASK)
    assert done.exit_code == 0 and "is the champion again" in done.stdout and "--to 2" in done.stdout, done.output
    assert "echolung-phantom-pocus-pathology version 1 (promoted 20" in done.stdout
    refused(call("rollback", TASK), "version 1 is the champion and followed no other", "--to 2")
    refused(call("rollback", TASK, "--to", "2"), "version 2 cannot be read", "")
