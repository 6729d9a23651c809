"""`make demo` runs no other study, ends where a command is broken, and takes a refusal for a result."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def program(path: Path, does: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("study", "runs"), [("phantom", True), ("lung", False)])
def test_the_demonstration_runs_no_other_study(study: str, runs: bool, tmp_path: Path) -> None:
    """bootstrap.sh, DVC and demo.sh only say that they were called."""
    for name in ("Makefile", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    program(tmp_path / "bootstrap.sh", "")
    program(tmp_path / "demo.sh", "echo called demo.sh")
    program(tmp_path / ".venv/bin/dvc", 'echo called dvc "$@"')
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("study: phantom", f"study: {study}", 1))
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # `make test` may have started this
    environment = {key: value for key, value in os.environ.items() if key not in inherited}
    done = subprocess.run(["make", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == (["called dvc repro -q", "called demo.sh"] if runs else []), done.stderr
    assert (done.returncode == 0) == runs
    if not runs:
        assert done.stderr.startswith("echolung: params.yaml is not the demonstration.\n")
        assert "echolung run --study phantom --scale demo" in done.stderr.splitlines()[1]


def test_the_demonstration_goes_on_after_a_refusal_and_after_no_other_failure(tmp_path: Path) -> None:
    shutil.copy(ROOT / "demo.sh", tmp_path)
    environment, calls = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}, tmp_path / "calls"
    for command, exits, code, called in [
        ("promote", 3, 0, "promote promote phantom predict show"),
        ("promote", 1, 1, "promote"),
        ("predict", 3, 0, "promote promote phantom predict promote predict show"),
        ("predict", 1, 1, "promote promote phantom predict"),
        ("show", 1, 1, "promote promote phantom predict show"),
    ]:
        calls.write_text("")
        program(tmp_path / "bin/echolung", f'echo "$1" >> calls; [ "$1" != {command} ] || exit {exits}')
        done = subprocess.run(["bash", "demo.sh"], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert (done.returncode, calls.read_text().split()) == (code, called.split()), done.stderr


def test_the_environment_of_a_moved_project_is_its_own_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new place"
    venv = old / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    for name in ("bootstrap.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, old)
    subprocess.run("cat requirements.lock pyproject.toml | cksum > .venv/.installed", cwd=old, shell=True, check=True)
    (venv / ".ffmpeg").touch()
    program(venv / "bin/tool", "")
    (venv / "bin/tool").write_text(f"#!{venv}/bin/python\nimport sys\nprint(sys.prefix, sys.argv[1:])\n")
    old.rename(new)
    for said in (f"The project was moved: changing {venv} to {new}/.venv\n", ""):
        done = subprocess.run(["./bootstrap.sh"], cwd=new, capture_output=True, text=True, check=True)
        assert done.stdout == said
    ran = subprocess.run([new / ".venv/bin/tool", "a b"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{new}/.venv ['a b']\n" and f"{new}/.venv" in (new / ".venv/bin/activate").read_text()


def test_bootstrap_learns_that_ffmpeg_is_missing(tmp_path: Path) -> None:
    (tmp_path / "torchcodec.py").write_text("ffmpeg_major_version = None\n")
    check = [sys.executable, "-m", "echolung.data.ffmpeg"]
    assert f'python" -m {check[2]}' in (ROOT / "bootstrap.sh").read_text()
    blind = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(check, env=blind, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "apt-get install ffmpeg" in done.stderr
    assert subprocess.run(check, cwd=ROOT, check=False).returncode == 0
