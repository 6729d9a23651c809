"""What nobody should have to fear: odd, lying, cut, huge and poisoned inputs end in the right frames or in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hostile_corpus.cases import Case, Place, decoded, frames_of, speckle
from hostile_corpus.surgery import written

from echolung.core.errors import VideoError

ROOT = Path(__file__).parents[1]
NAMES = [case.name for case in hostile.CORPUS]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """How every case ends: each is read in a process of its own, which is killed if it hangs."""
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {result["name"]: result for result in json.loads(done.stdout)}


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_in_the_right_frames_or_in_one_line(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[name]["right"], results[name]["outcome"]
    assert results[name]["megabytes"] < hostile.MOST_MEGABYTES


def test_the_corpus_is_wide_and_its_page_lists_it() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 60
    page = (ROOT / "docs" / "hostile-inputs.md").read_text()
    for name in NAMES:
        assert f"| `{hostile._cell(name)}` |" in page, f"python benchmarks/hostile.py --write: {name} is missing"


def test_the_page_says_what_the_benchmark_would_write_above_its_figures() -> None:
    begins = hostile.table([hostile.Result("a.mp4", "", "", True, 0.0, 0.0)]).split("**")[0]
    page = (ROOT / "docs" / "hostile-inputs.md").read_text()
    assert page.startswith(begins)
    third = [line for line in page.splitlines() if "frames (1 of" in line or "(cut short" in line]
    assert third and "or in the frames that are there, with what is missing or wrong named" in " ".join(begins.split())
    assert "`forbidden.mp4`" in begins and "root" in begins


def test_the_judge_notices_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a hundred right ends would mean nothing."""
    hostile.warm_up()
    truth = speckle(6)
    make = written(truth, "mjpeg")

    def outcome(case: Case) -> str:
        result = hostile.run(case, port=9)
        assert not result.right
        return result.outcome

    def refuse(place: Place) -> str:
        raise VideoError("two\nlines", "and a remedy")

    def large(place: Place) -> str:
        return str(np.ones(200 << 20, np.uint8).sum())

    assert "dB" in outcome(Case("other.avi", "", make, frames_of(truth[::-1], 34)))
    assert "came of" in outcome(Case("fewer.avi", "", make, frames_of(truth[:5], 34)))
    assert "frames per second" in outcome(Case("rate.avi", "", make, frames_of(truth, 34, fps=24.0)))
    assert "should be refused" in outcome(Case("kept.avi", "", make, decoded, refused="limit"))
    assert "should not be" in outcome(Case("gone.avi", "", lambda place: None, decoded))
    assert "for another reason" in outcome(Case("gone.avi", "", lambda place: None, decoded, refused="limit"))
    assert "more than one line" in outcome(Case("lines.avi", "", make, refuse, refused="two"))
    assert "KeyError" in outcome(Case("broken.avi", "", make, lambda place: {}["x"]))
    assert outcome(Case("code.avi", "", make, lambda place: place.canary.write_text("x") and "read")) == "ran code"
    assert hostile.run(Case("large.avi", "", make, large), port=9).megabytes > 190
    monkeypatch.setattr(hostile, "KILLED_AFTER", 2.0)
    assert "hung" in outcome(Case("hangs.avi", "", make, lambda place: str(time.sleep(600))))
