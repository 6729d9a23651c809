"""What a killed owner leaves of a Ray session is cleared away by the next one; what lives, or is not ours, is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from echolung.compute.session import SESSION, _session_directory

OWN = f"""
import os, subprocess, sys
from echolung.compute.session import _session_directory
with _session_directory() as directory:
    environment = {{**os.environ, "{SESSION}": str(directory)}}
    sleeper = subprocess.Popen(["sleep", "600"], env=environment, stdout=subprocess.DEVNULL)
    print(directory, sleeper.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as parent:
        monkeypatch.setenv("RAY_TMPDIR", parent)
        yield Path(parent)


def test_a_killed_session_is_cleared_away_and_a_living_one_is_not(parent: Path) -> None:
    owners = [
        subprocess.Popen([sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [owner.stdout.readline().split() for owner in owners if owner.stdout]
    (killed, left), (living, working) = [(Path(directory), psutil.Process(int(pid))) for directory, pid in told]
    foreign = parent / "el-somebody-else-s"
    foreign.mkdir()
    try:
        owners[0].kill()
        owners[0].wait()
        assert left.is_running() and killed.is_dir()
        with _session_directory() as directory:
            assert {path.name for path in parent.iterdir()} == {living.name, foreign.name, directory.name}
            psutil.wait_procs([left], timeout=20)
            assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
            assert working.is_running()
        assert not directory.exists()
        owners[1].communicate()
        assert not living.exists()
    finally:
        for process in (left, working):
            if process.is_running():
                os.kill(process.pid, 9)


def test_its_name_is_short_enough_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with _session_directory() as directory:
        # Ray appends session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store, 71 characters with a long pid.
        assert len(str(directory)) + 71 < 107
