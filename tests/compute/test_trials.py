"""Trials by Ray Tune: each runs once, a killed one is retried once, and a failure names its configuration."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from echolung.compute.trials import run_trials
from echolung.core import progress
from echolung.core.errors import DataError, Stopped, TrialError

pytestmark = pytest.mark.usefixtures("session")
WORKERS = 2


def log(config: dict[str, Any]) -> None:
    with open(Path(config["log"]), "a") as stream:
        stream.write(f"{config['x']}\n")


def runs(directory: Path) -> list[int]:
    return sorted(int(line) for line in (directory / "log").read_text().split())


def square(config: dict[str, Any]) -> dict[str, Any]:
    log(config)
    table = pd.DataFrame({"x": [config["x"]], "name": ["a"], "half": [0.1 + 0.2]})
    return {"square": config["x"] ** 2, "table": table, "draw": [random.random(), np.random.rand()]}


def troubled(config: dict[str, Any]) -> dict[str, Any]:
    log(config)
    if config["x"] == 1 and runs(Path(config["log"]).parent).count(1) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if config["x"] == 2:
        raise DataError("2 patients, 5 folds", "Ask for fewer folds.")
    if config["x"] == 3:
        raise ZeroDivisionError("no patients")
    return {"threads": os.environ["OMP_NUM_THREADS"]}


def configurations(directory: Path, *numbers: int) -> list[dict[str, Any]]:
    return [{"x": x, "log": str(directory / "log"), "_key": x} for x in numbers]


def test_results_are_in_order_and_exact_and_no_trial_runs_twice(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    place = (tmp_path / "t", "fit", WORKERS, lambda *p: seen.append(p))
    first = run_trials(square, configurations(tmp_path, 3, 1, 2), *place)
    assert [result["square"] for result in first] == [9, 1, 4]
    pd.testing.assert_frame_equal(first[1]["table"], pd.DataFrame({"x": [1], "name": ["a"], "half": [0.1 + 0.2]}))
    assert len({tuple(result["draw"]) for result in first}) == 3, "every trial has its own random numbers"
    assert seen[0] == (0, 3) and seen[-1] == (3, 3) and seen == sorted(seen)
    seen.clear()
    changed = run_trials(square, configurations(tmp_path, 2, 5, 3), *place)
    assert [result["square"] for result in changed] == [4, 25, 9] and changed[2]["draw"] == first[0]["draw"]
    assert seen[0] == (2, 3) and seen[-1] == (3, 3)
    assert runs(tmp_path) == [1, 2, 3, 5]
    assert len(list((tmp_path / "t").iterdir())) == 3, "results of unused parameters are removed"


def stepwise(config: dict[str, Any]) -> dict[str, Any]:
    for step in range(100):
        progress.report(step + 1, 100)
    return {}


def test_a_long_trial_shows_how_far_it_is(tmp_path: Path) -> None:
    seen: list[tuple[float, int]] = []
    run_trials(stepwise, [{"x": 1}, {"x": 2}], tmp_path / "t", "fit", WORKERS, lambda *p: seen.append(p))
    assert seen == sorted(seen) and seen[0] == (0, 2) and seen[-1] == (2, 2)
    assert {done for done, _ in seen} >= {0.1, 0.5, 0.9}, "tenths of a trial"


def test_a_killed_trial_is_retried_and_failing_ones_are_named_after_the_others_have_finished(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    place = (tmp_path / "t", "fit", WORKERS)
    with pytest.raises(TrialError, match=r"2 of 4 fit trials failed: ") as caught:
        run_trials(troubled, configurations(tmp_path, 3, 2, 0, 1), *place, lambda *p: seen.append(p))
    for part in ("2 patients, 5 folds [x 2]", "ZeroDivisionError: no patients [x 3]", ". Ask for fewer folds. "):
        assert part in str(caught.value)
    assert max(seen) == (4, 4)
    details = Path(caught.value.remedy.split("Details: ")[1]).read_text()
    assert details.count("in troubled") == 2 and "'x': 3" in details
    assert run_trials(troubled, configurations(tmp_path, 0, 1), *place) == [{"threads": "1"}] * 2
    assert runs(tmp_path) == [0, 1, 1, 2, 3], "1 was killed and retried, and kept"


def test_a_local_session_listens_on_the_loopback_address_only() -> None:
    found = [one for child in psutil.Process().children(recursive=True) for one in child.net_connections("inet")]
    listening = {one.laddr.ip.removeprefix("::ffff:") for one in found if one.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::1"}


def test_damaged_results_cost_only_those_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = (configurations(tmp_path, 1, 2, 3, 4), tmp_path / "t", "fit", WORKERS)
    first = run_trials(square, *place)
    results = (tmp_path / "t").glob("*/result.json")
    folders = {json.loads(path.read_text())["values"]["square"]: path.parent for path in results}
    (folders[4] / "result.json").write_text('{"tables": ')
    table = folders[9] / "table.parquet"
    table.write_bytes(table.read_bytes()[:500])
    (folders[16] / "table.parquet").unlink()
    capsys.readouterr()
    again = run_trials(square, *place)
    assert capsys.readouterr().err.count("and will be recomputed") == 3 and runs(tmp_path) == [1, 2, 2, 3, 3, 4, 4]
    assert [result["draw"] for result in again] == [result["draw"] for result in first]


def last(config: dict[str, Any]) -> dict[str, Any]:
    Path(config["log"]).with_name("stop").write_text("stop")
    return square(config)


def test_no_trial_begins_once_it_is_asked_to_stop_and_the_next_call_does_the_rest(tmp_path: Path) -> None:
    place, stop = (configurations(tmp_path, 1, 2, 3), tmp_path / "t", "fit", WORKERS), tmp_path / "stop"
    seen: list[int] = []
    with pytest.raises(Stopped, match=r"2 fit trials are left: not begun \[x 2 and 1 more\]") as caught:
        run_trials(last, *place, lambda done, total: seen.append(done), at_once=1, stop=stop)
    assert (caught.value.exit_code, caught.value.remedy, runs(tmp_path)) == (75, "Call again.", [1]) and max(seen) == 1
    stop.write_text("")
    assert [one["square"] for one in run_trials(square, *place, stop=stop)] == [1, 4, 9] and runs(tmp_path) == [1, 2, 3]


SCRIPT = """
import sys, time
from pathlib import Path
from echolung.compute.trials import run_trials

def slow(config):
    (Path(config["directory"]) / f"started-{config['x']}").touch()
    time.sleep(600 if config["x"] else 0)
    return {"x": config["x"]}

directory = Path(sys.argv[1])
run_trials(slow, [{"x": x, "directory": str(directory)} for x in (0, 1)], directory / "t", "fit", 1)
"""


def test_a_stopped_call_leaves_no_process_and_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    while not (tmp_path / "started-1").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) > 2
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None and b"KeyboardInterrupt" in driver.stderr.read()
    assert driver.wait() != 0 and not psutil.wait_procs(children, timeout=120)[1]
    finished = (tmp_path / "t").glob("*/result.json")
    assert [json.loads(path.read_text())["values"] for path in finished] == [{"x": 0}]
