"""make clean forgets what was derived and nothing that was brought; the demonstration ends where a command is broken"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept, or not")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "conf" / "study", tmp_path / "conf" / "study")
    return tmp_path


def make_clean(project: Path) -> None:
    done = subprocess.run(["make", "clean"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["mine", "pocus", "raw", "covid_blues"])
def test_clean_keeps_videos_that_somebody_brought_whatever_the_study_is_called(project: Path, name: str) -> None:
    study = (ROOT / "conf" / "study" / "folder.yaml").read_text()
    (project / "conf" / "study" / f"{name}.yaml").write_text(study.replace("study: folder", f"study: {name}"))
    raw = project / "data" / "raw"
    brought = [raw / "mine" / "videos.csv", raw / "mine" / "a.mp4", raw / "pocus" / "dataset_metadata.csv"]
    brought += [raw / "covid_blues" / "lus.mp4", raw / "mine.dvc", raw / name / "mine" / "b.mp4", raw / "raw" / "c.mp4"]
    brought += [project / "data" / name / "own" / "d.mp4", raw / "folder" / "more" / "hearts" / "e.avi"]
    drawn = [raw / name / "hearts" / "Videos" / "0.avi", raw / "folder" / "hearts" / "FileList.csv"]
    put(*brought, *drawn)
    make_clean(project)
    assert [path for path in brought if not path.is_file()] == []
    assert [path for path in drawn if path.exists()] == []


def test_clean_forgets_what_every_stage_of_every_study_makes(project: Path) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = []
    for path in (ROOT / "conf" / "study").glob("*.yaml"):
        study = yaml.safe_load(path.read_text())
        for stage in stages.values():
            body = stage.get("do", stage)
            outs = [out if isinstance(out, str) else next(iter(out)) for out in body.get("outs", [])]
            keys = study["phantom"] if stage.get("foreach") == "${phantom}" else ["some-key"]
            made += [
                project / out.replace("${study}", study["study"]).replace("${key}", key).replace("${item.", "${")
                for out in outs
                for key in keys
            ]
        made.append(project / "data" / f"{study['study']}-runs" / "pretrain" / "checkpoint")
    assert len(made) > 60
    put(*(path / "file" for path in made))
    make_clean(project)
    assert [path for path in made if path.exists()] == []
    assert list((project / "data").rglob("*")) == [project / "data" / "raw"]


@pytest.mark.parametrize(
    "written",
    [
        "phantom:\n    'quoted': {layout: pocus}\n    drawn:\n        mine: 3\ntasks:\n    more: 1\n",
        "phantom: # two\r\n  drawn: {layout: pocus}\r\n  # mine: {}\r\ntasks:\r\n  more: 1\r\n",
        "tasks:\n  more: 1\nphantom:\n\n# at the margin\n  drawn:\n    mine: 1\n",
    ],
)
def test_only_the_data_sets_of_phantom_count_as_drawn(project: Path, written: str) -> None:
    (project / "conf" / "study" / "other.yaml").write_text(written, newline="")
    raw = project / "data" / "raw" / "other"
    put(raw / "mine" / "a.mp4", raw / "more" / "a.mp4", raw / "layout" / "a.mp4", raw / "drawn" / "a.mp4")
    make_clean(project)
    assert sorted(path.name for path in raw.iterdir()) == ["layout", "mine", "more"]


@pytest.fixture
def demonstration(project: Path) -> Path:
    """A project whose environment is there already, and whose DVC and demo.sh only say that they were called."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "conf", project / "conf", dirs_exist_ok=True)
    programs = {
        "bootstrap.sh": "",
        "demo.sh": "echo called demo.sh",
        ".venv/bin/dvc": "echo called dvc $1",
        ".venv/bin/python": f'PYTHONPATH={ROOT} exec {sys.executable} "$@"',
    }
    for name, does in programs.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f"#!/bin/sh\n{does}\n")
        (project / name).chmod(0o755)
    return project


@pytest.mark.parametrize(
    ("study", "says"), [("phantom", ""), ("lung", "params.yaml is not the demonstration (it is study lung)")]
)
def test_the_demonstration_runs_no_other_study(study: str, says: str, demonstration: Path) -> None:
    params = demonstration / "params.yaml"
    params.write_text(params.read_text().replace("study: phantom", f"study: {study}", 1))
    # As from a shell, though `make test` may have started this: a make below another tells of its folders.
    inherited = {"DVC_ROOT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in inherited}
    done = subprocess.run(
        ["make", "demo"], cwd=demonstration, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ([] if says else ["called dvc repro", "called demo.sh"]), done.stderr
    assert (done.returncode != 0) == bool(says)
    if says:
        problem, remedy, *_ = done.stderr.splitlines()
        assert problem.startswith("echolung: ") and says in problem
        assert "dvc exp run -S study=phantom -S scale=demo" in remedy


NO_CHAMPION = "echolung: echolung-phantom-pocus-pathology has no champion yet."


@pytest.mark.parametrize(
    ("command", "says", "code"),
    [
        ("none", "", 0),
        ("predict", NO_CHAMPION, 0),
        ("predict", "Traceback (most recent call last):", 1),
        ("predict", "echolung: encoder.safetensors is damaged.", 1),
        ("promote", "echolung: the candidate is no better than the champion on the same patients: 1 to 2.", 0),
        ("promote", "ImportError: no such module", 1),
        ("show", NO_CHAMPION, 1),
    ],
)
def test_the_demonstration_goes_on_after_a_refusal_and_after_no_other_failure(
    command: str, says: str, code: int, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "demo.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "echolung"
    fake.write_text(f'#!/bin/sh\necho "called $1"\n[ "$1" != {command} ] || {{ echo "{says}" >&2; exit 1; }}\n')
    fake.chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "demo.sh"], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert ("called show" in done.stdout) == (code == 0 or command == "show")


@pytest.mark.parametrize("says", ["the candidate does not beat the majority class", "the candidate is no better than"])
def test_the_untrained_encoder_stands_for_election_where_the_pretrained_one_beats_nothing(
    says: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "demo.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "echolung"
    refusal = f'[ "$1 $2 $3" != "promote pocus-pathology " ] || {{ echo "echolung: {says}." >&2; exit 1; }}'
    fake.write_text(f'#!/bin/sh\necho "called $*"\n{refusal}\n')
    fake.chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "demo.sh"], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = [line for line in done.stdout.splitlines() if line.startswith("called promote")]
    second = ["called promote pocus-pathology --arm random"] if "does not beat" in says else []
    assert asked == ["called promote pocus-pathology", *second, "called promote blues-covid"]
