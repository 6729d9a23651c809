"""Trials by Ray Tune: each runs once, is tried again once, and its failure names its configuration."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from echolung.compute.session import ray_session
from echolung.compute.trials import run_trials
from echolung.core.errors import DataError, TrialError

WORKERS = 2


@pytest.fixture(scope="module", autouse=True)
def one_ray_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a worker finds the functions below
        with ray_session(WORKERS):
            yield


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
    return {"threads": os.environ["OMP_NUM_THREADS"]}


def configurations(directory: Path, *numbers: int) -> list[dict[str, Any]]:
    return [{"x": x, "log": str(directory / "log")} for x in numbers]


def test_results_come_in_order_and_exactly_and_no_trial_runs_twice(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = run_trials(
        square, configurations(tmp_path, 3, 1, 2), tmp_path / "t", "probe", WORKERS, lambda *p: seen.append(p)
    )
    assert [result["square"] for result in first] == [9, 1, 4]
    pd.testing.assert_frame_equal(first[1]["table"], pd.DataFrame({"x": [1], "name": ["a"], "half": [0.1 + 0.2]}))
    assert len({tuple(result["draw"]) for result in first}) == 3, "every trial draws its own numbers"
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    seen.clear()
    changed = run_trials(
        square, configurations(tmp_path, 2, 5, 3), tmp_path / "t", "probe", WORKERS, lambda *p: seen.append(p)
    )
    assert [result["square"] for result in changed] == [4, 25, 9]
    assert changed[2]["draw"] == first[0]["draw"]
    assert seen == [(2, 3), (3, 3)]
    assert runs(tmp_path) == [1, 2, 3, 5]
    assert len(list((tmp_path / "t").iterdir())) == 3, "no result outlives its parameters"


def test_other_data_means_other_trials_and_the_same_work_the_same_random_numbers(tmp_path: Path) -> None:
    draws = [
        run_trials(square, configurations(tmp_path, 1), tmp_path / "t", "probe", 1, fingerprint=data)[0]["draw"]
        for data in ("folds a", "folds b", "folds a")
    ]
    assert runs(tmp_path) == [1, 1, 1]
    assert draws[0] == draws[2] != draws[1]


def test_a_killed_trial_is_tried_again_and_a_failing_one_named_after_the_others_have_finished(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with pytest.raises(TrialError, match=r"1 of 3 probe trials failed: .*2 patients, 5 folds.*\[x 2\]") as error:
        run_trials(
            troubled, configurations(tmp_path, 2, 0, 1), tmp_path / "t", "probe", WORKERS, lambda *p: seen.append(p)
        )
    assert runs(tmp_path) == [0, 1, 1, 2], "1 was killed and tried again; wrong data are wrong the second time too"
    assert max(seen) == (3, 3)
    details = Path(error.value.remedy.split("Details: ")[1])
    assert "troubled" in json.loads(next(details.iterdir()).read_text())["traceback"]
    kept = run_trials(troubled, configurations(tmp_path, 0, 1), tmp_path / "t", "probe", WORKERS)
    assert kept == [{"threads": "1"}] * 2


def large(config: dict[str, Any]) -> dict[str, Any]:
    """Trial 1 meets a disk on which there is no room for its table, until somebody makes some."""
    log(config)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = config["x"] == 1 and not Path(config["log"]).with_name("room").exists()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000 if full else hard, hard))
    return {"x": config["x"], "draw": random.random(), "table": pd.DataFrame({"half": np.random.rand(10_000)})}


def test_a_disk_without_room_and_edited_results_cost_those_trials_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = (configurations(tmp_path, 1, 2, 3, 4, 5), tmp_path / "t", "probe", WORKERS)
    with pytest.raises(TrialError, match=r"1 of 5 probe trials failed: .*larger than is allowed.*\[x 1\]") as error:
        run_trials(large, *place)
    assert "Finished trials are kept" in error.value.remedy
    assert runs(tmp_path) == [1, 2, 3, 4, 5], "another try on the same disk would end the same way"
    assert not list((tmp_path / "t").glob(".*parquet*"))
    results = [(path.parent, json.loads(path.read_text())["values"]) for path in (tmp_path / "t").glob("*/result.json")]
    folders = {values["x"]: folder for folder, values in results}
    draws = {values["x"]: values["draw"] for _, values in results}
    tables = {x: pd.read_parquet(folder / "table.parquet") for x, folder in folders.items()}

    (tmp_path / "room").touch()
    edited = folders[2] / "result.json"
    edited.write_text(edited.read_text().replace('"x": 2', '"x": 7'))
    tables[3].assign(half=0.31).to_parquet(folders[3] / "table.parquet", index=False)
    (folders[4] / "table.parquet").unlink()
    capsys.readouterr()
    again = run_trials(large, *place)
    assert "3 finished probe trials were changed or damaged: they are computed again." in capsys.readouterr().err
    assert runs(tmp_path) == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [result["x"] for result in again] == [1, 2, 3, 4, 5]
    assert [result["draw"] for result in again[1:]] == [draws[x] for x in (2, 3, 4, 5)]
    for result in again[1:]:
        pd.testing.assert_frame_equal(result["table"], tables[result["x"]])


def test_ctrl_c_leaves_no_process_and_the_next_call_goes_on(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from echolung.compute.trials import run_trials

def slow(config):
    (Path(config["directory"]) / f"started-{config['x']}").touch()
    time.sleep(600 if config["x"] and config["wait"] else 0)
    return {"x": config["x"]}

directory = Path(sys.argv[1])
run_trials(slow, [{"x": x, "directory": str(directory), "wait": True} for x in (0, 1)], directory / "t", "probe", 1)
"""
    (tmp_path / "script.py").write_text(script)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    while not (tmp_path / "started-1").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) > 2
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    assert b"KeyboardInterrupt" in driver.stderr.read()
    assert driver.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    finished = (tmp_path / "t").glob("*/result.json")
    assert [json.loads(path.read_text())["values"] for path in finished] == [{"x": 0}]
