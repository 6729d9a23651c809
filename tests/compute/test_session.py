"""What a killed process leaves of its Ray session goes away: its processes at once, its files with the next session."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from echolung.compute.session import _temporary_directory

OWN = """
import sys
from echolung.compute.session import _temporary_directory
with _temporary_directory() as directory:
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as parent:
        monkeypatch.setenv("RAY_TMPDIR", parent)
        yield Path(parent)


def test_files_of_a_killed_session_are_removed_and_those_of_a_living_one_are_not(parent: Path) -> None:
    owners = [
        subprocess.Popen([sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, living = [Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout]
    foreign = parent / "el-of-another-program"
    foreign.mkdir()
    owners[0].kill()
    owners[0].wait()
    assert killed.is_dir()
    with _temporary_directory() as directory:
        assert {path.name for path in parent.iterdir() if path.is_dir()} == {living.name, foreign.name, directory.name}
    owners[1].communicate()
    assert [path.name for path in parent.iterdir()] == [foreign.name]


def test_its_name_is_short_enough_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with _temporary_directory() as directory:
        # Ray appends session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store, 71 characters with a long pid.
        assert len(str(directory)) + 71 < 107
