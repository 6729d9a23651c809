"""Odd, lying, cut, huge and poisoned files end in the right frames or in one line, within bounds of memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile
import pytest

ROOT = Path(__file__).parents[1]
MEGABYTES = 512
"""Most memory of a file above what the program held before."""


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """How every case ended, in a process of its own, which a hanging case stops."""
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    found = {result["name"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"{len(found)} cases ended, then:\n{done.stderr[-3000:]}"
    return found


@pytest.mark.parametrize("name", [case.name for case in hostile.corpus(9)])
def test_it_ends_in_the_right_frames_or_in_one_line(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[name]["right"], results[name]["ended"]
    assert results[name]["megabytes"] < MEGABYTES
