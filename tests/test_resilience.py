"""What accidents do to a study: a stage is killed, or started twice.

What one stage made in a copy of the small study is deleted and made again, with interruptions, and compared with what
it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import Project

from echolung.tracking.moved import repair
from echolung.tracking.store import store

pytestmark = pytest.mark.pipeline
PATIENCE = 600
"""Seconds after which something that should end is taken to hang."""
PAUSES = Path(__file__).parent / "pauses"


COMMAND = ("dvc", "repro", "-fs", "pretrain@jepa")
OUTPUT = "data/phantom/encoders/pretrained/jepa"
UNFINISHED = "data/phantom-runs/pretrain/jepa"


@dataclass(frozen=True)
class Study(Project):
    """A copy of the small study, with ways to disturb it."""

    def statuses(self) -> list[str]:
        client = store(self.root).client()
        return [
            run.info.status for one in client.search_experiments() for run in client.search_runs([one.experiment_id])
        ]


@pytest.fixture(scope="module")
def study(small_study: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    root = tmp_path_factory.mktemp("resilience") / "study"
    shutil.copytree(small_study.root, root, symlinks=True)
    repair(root / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "DVC_STAGE"):
            patch.delenv(variable, raising=False)
        yield Study(root, small_study.plugins)


def assert_same(now: Path, before: Path) -> None:
    """Two folders are equal, file by file; of tables, their contents count."""
    names = sorted(path.relative_to(before) for path in before.rglob("*") if path.is_file())
    assert names and names == sorted(path.relative_to(now) for path in now.rglob("*") if path.is_file())
    for name in names:
        if name.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(now / name), pd.read_parquet(before / name))
        elif name.name != "history.csv":  # it holds times
            assert (now / name).read_bytes() == (before / name).read_bytes(), name


@dataclass
class Call:
    """A command that has come to its pause (pauses/sitecustomize.py)."""

    process: subprocess.Popen[str]
    folder: Path

    def all(self) -> list[psutil.Process]:
        """Every process that the command started and that still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CALL") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stage(self) -> int:
        """The process of the stage: the first Python that runs a script of pipelines/."""
        scripts = [one for one in self.all() if "pipelines." in " ".join(one.cmdline()) and "python" in one.name()]
        return min(scripts, key=lambda one: one.create_time()).pid

    def end(self) -> tuple[int, str]:
        """Wait until the command and everything it started have ended; its exit code, and what it printed."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        psutil.wait_procs(self.all(), timeout=PATIENCE)
        assert not self.all()
        return self.process.returncode, output


@pytest.fixture
def paused(study: Study, tmp_path: Path) -> Iterator[Callable[[], Call]]:
    """Start a pretraining that pauses at its second checkpoint; ended with all it started, whatever happens."""
    calls: list[Call] = []

    def start() -> Call:
        folder = tmp_path / f"call{len(calls)}"
        folder.mkdir()
        variables = {"PAUSE_AT": "2 */checkpoint.safetensors", "PAUSE_IN": str(folder), "CALL": str(folder)}
        path = f"{PAUSES}:{study.environment()['PYTHONPATH']}"
        calls.append(Call(study.start(*COMMAND, PYTHONPATH=path, **variables), folder))
        deadline = time.monotonic() + PATIENCE
        while not (folder / "paused").exists():
            assert time.monotonic() < deadline, "it came to no pause"
            if calls[-1].process.poll() is not None:
                pytest.fail(f"it ended before its pause: {calls[-1].process.communicate()[0]}")
            time.sleep(0.05)
        return calls[-1]

    yield start
    for call in calls:
        for left in call.all():
            left.kill()


@pytest.fixture
def before(study: Study, tmp_path: Path) -> Path:
    """A copy of the encoders that the study had; they and all that was kept to make them are deleted."""
    shutil.copytree(study.root / OUTPUT, tmp_path / "before")
    study.change(pretrain__training__checkpoint_every=2)
    for place in (OUTPUT, UNFINISHED):
        shutil.rmtree(study.root / place, ignore_errors=True)
    return tmp_path / "before"


def test_a_killed_stage_goes_on_and_its_run_is_closed(study: Study, before: Path, paused: Callable[[], Call]) -> None:
    """SIGKILL of DVC, SIGKILL of the stage, then SIGTERM. Meanwhile a second user calls the same stage."""
    call = paused()
    call.process.kill()
    code, said = call.end()
    assert code == -signal.SIGKILL
    assert "Traceback" not in said
    assert not (study.root / OUTPUT).exists(), "half an output was handed on"
    assert "RUNNING" not in study.statuses()
    shutil.rmtree(study.root / UNFINISHED)  # to come to the same pause again
    call = paused()
    second = study.run(sys.executable, "-m", "pipelines.pretrain", "jepa")
    assert second.returncode == 1
    holder = f"process {call.stage()}"
    assert second.stderr.startswith(f"echolung: stage pretrain@jepa is already running ({holder}).\n")
    os.kill(call.stage(), signal.SIGKILL)
    assert call.end()[0] != 0
    assert "RUNNING" in study.statuses()
    call = paused()
    os.kill(call.stage(), signal.SIGTERM)
    code, said = call.end()
    assert code != 0
    assert "echolung: stopped. Run the same command to continue." in said
    assert "Traceback" not in said
    assert "RUNNING" not in study.statuses()
    again = study.run(*COMMAND)
    assert again.returncode == 0, again.stderr
    assert_same(study.root / OUTPUT, before)
