"""Pretraining under Ray equals the plain loop, with one worker or two; the dead are replaced, a failing seed named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, Project, made_project
from drawn import pretraining, save_clips

from echolung.compute.pretraining import pretrain, seed_runs
from echolung.core.errors import Stopped
from echolung.models.vit import VideoViT
from echolung.models.weights import WEIGHTS, load_encoder
from echolung.pretraining.checkpoint import read_progress
from echolung.pretraining.loop import train
from echolung.pretraining.run import HISTORY, SeedRun, finish, finished
from echolung.pretraining.settings import PretrainSettings

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)


def settings(seeds: list[int], workers: int = 1, **training: Any) -> PretrainSettings:
    usual = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "log_every": 1, "rank_every": 2, "checkpoint_every": 1}
    jepa = {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.9}
    return pretraining(usual | training, "jepa", jepa, seeds=seeds, compute={"workers": workers})


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    videos = {f"hearts/{number}": rng.integers(0, 256, (20, 24, 24), dtype=np.uint8) for number in range(5)}
    return save_clips(tmp_path_factory.mktemp("pool") / "echo" / "clips", videos, 20.0).directory


class Recorder:
    """Writes the steps to a file; a `deadly` step kills its worker the first time, a `last` one asks to stop."""

    def __init__(self, path: Path, deadly: int = 0, last: int = 0) -> None:
        self.path, self.deadly, self.last = path, deadly, last

    def __call__(self, step: int, values: dict[str, float | None]) -> None:
        seen = self.path.read_text() if self.path.exists() else ""
        self.path.write_text(f"{seen}{step} ")
        if step == self.deadly and f"{step} " not in seen:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.last:
            self.path.with_name("stop").write_text("stop")


def quiet(step: int, values: dict[str, float | None]) -> None:
    pass


def plain(pool: Path, seed: int, directory: Path, **training: Any) -> dict[str, torch.Tensor]:
    """The weights that the loop gives without Ray."""
    run = SeedRun("hearts", settings([seed], **training), ENCODER, (pool,), seed, directory)
    return train(run, quiet).encoder.state_dict()


def runs(pool: Path, folder: Path, seeds: list[int], **options: Any) -> list[SeedRun]:
    return seed_runs("hearts", settings(seeds, **options), ENCODER, pool.parents[1], folder / "runs")


def check(directory: Path, seed: int, expected: dict[str, torch.Tensor], **tolerance: float) -> None:
    encoder, record = load_encoder(directory)
    torch.testing.assert_close(encoder.state_dict(), expected, **tolerance)
    assert (record.arm, record.objective, record.seed, record.steps) == ("hearts", "jepa", seed, 4)
    assert (record.trained_on, record.trained_on_source) == (tuple(f"sha{number}" for number in range(5)), "echo")
    assert pd.read_csv(directory / HISTORY)["step"].tolist() == [1, 2, 3, 4]


@pytest.mark.usefixtures("session")
def test_two_workers_equal_one_though_one_of_them_dies(pool: Path, tmp_path: Path, capfd) -> None:
    progress: list[tuple[int, int]] = []
    plain(pool, 0, tmp_path / "runs" / "seed0", steps=3, precision="float32")
    asked, recorder = runs(pool, tmp_path, [0], workers=2, precision="float32"), Recorder(tmp_path / "seen", deadly=3)
    table = pretrain(asked, tmp_path / "out", on_metrics={0: recorder}, on_progress=lambda *done: progress.append(done))
    assert "hearts seed 0: starting over, because of training.steps: 3 -> 4\n" in capfd.readouterr().out
    assert (tmp_path / "seen").read_text().split() == ["1", "2", "3", "3", "4"]
    assert progress == sorted(progress) and progress[-1] == (4, 4) and len(progress) > 2
    check(tmp_path / "out" / "seed0", 0, plain(pool, 0, tmp_path / "plain", precision="float32"), atol=2e-5, rtol=1e-4)
    (row,) = table.to_dict("records")
    assert (row["seed"], row["steps"], row["videos"], row["finite"]) == (0, 4, 5, True)
    assert all(row[name] > 0 for name in ("loss_first", "loss_last", "effective_rank"))


@pytest.mark.usefixtures("session")
def test_both_workers_stop_at_the_same_step_and_the_next_call_goes_on(pool: Path, tmp_path: Path) -> None:
    options = {"workers": 2, "precision": "float32", "checkpoint_every": 4}
    asked = [replace(run, stop=tmp_path / "stop") for run in runs(pool, tmp_path, [0], **options)]
    recorder = Recorder(tmp_path / "seen", last=2)
    with pytest.raises(Stopped, match=r"stopped after step 3 of 4 \[seed 0\]\. Call again\. It goes on from step 3\."):
        pretrain(asked, tmp_path / "out", on_metrics={0: recorder})
    (tmp_path / "stop").write_text("")
    finish(asked[0], recorder, "cpu")  # by one worker
    assert (tmp_path / "seen").read_text().split() == ["1", "2", "3", "4"]
    check(asked[0].result, 0, plain(pool, 0, tmp_path / "plain", precision="float32"), atol=2e-5, rtol=1e-4)


def test_a_stage_that_gets_sigterm_ends_with_a_checkpoint_and_asks_for_another_call(pool: Path, tmp_path: Path) -> None:
    project = Project(made_project(tmp_path), plugins="toys")
    project.change(**SMALL, encoder=ENCODER.model_dump(mode="json"), pretrain__training__steps=10**6)
    shutil.copytree(pool.parent, tmp_path / "data" / "phantom" / "ingest" / "hearts")
    environment = project.environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    stage = subprocess.Popen(
        [sys.executable, "-m", "pipelines.pretrain", "jepa"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    directory = tmp_path / "data/phantom-runs/pretrain/jepa/seed0"
    while not (directory / "checkpoint.safetensors").exists():
        assert stage.poll() is None, stage.stderr
        time.sleep(0.1)
    stage.send_signal(signal.SIGTERM)
    _, said = stage.communicate()
    progress = read_progress(directory)
    assert stage.returncode == 75
    assert said.decode().splitlines()[-1] == f"Call again. It goes on from step {progress.step}."


def test_a_finished_seed_is_copied_until_it_is_damaged_or_anything_changes(pool, tmp_path: Path, capsys) -> None:
    """Without Ray: nothing starts it here."""
    (run,) = runs(pool, tmp_path, [3])
    finish(run, quiet, "cpu")
    table = pretrain([run], tmp_path / "out")
    assert capsys.readouterr().out == "hearts seed 3: already trained\n" and table["seed"].tolist() == [3]
    check(tmp_path / "out" / "seed3", 3, plain(pool, 3, tmp_path / "plain"), atol=0, rtol=0)
    assert not finished(runs(pool, tmp_path, [3], learning_rate=2e-3)[0])
    for name in (WEIGHTS, HISTORY):
        whole = (run.result / name).read_bytes()
        (run.result / name).write_bytes(whole[: len(whole) // 2] if name == WEIGHTS else b"")
        assert not finished(run)
        finish(run, quiet, "cpu")  # from the checkpoint, which is at the last step
        assert finished(run)


# --- two nodes of a Ray cluster with one CPU each, reached by RAY_ADDRESS ---

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from echolung.compute.pretraining import pretrain
from echolung.compute.session import ray_session
from echolung.compute.trials import run_trials
from test_pretraining import runs

def fit(configuration):
    (out / f"fit{configuration['x']}").touch()
    while not (out / "fit0").exists() or not (out / "fit1").exists():  # each waits for the other: no node holds both
        time.sleep(0.1)
    return {"node": ray.get_runtime_context().get_node_id()}

pool, out = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
with ray_session(1):
    pretrain(runs(pool, out, [0], workers=2, precision="float32"), out / "encoders")
    print(json.dumps(run_trials(fit, [{"x": 0}, {"x": 1}], out / "fits", "fit", 1)))
cluster.shutdown()
"""


def test_a_run_spans_two_nodes_with_the_losses_of_one_process_and_so_do_fits(pool: Path, tmp_path: Path) -> None:
    own = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/compute'}", "RAY_AUTH_TOKEN": "0" * 64}
    own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the loopback address only
    command = [sys.executable, "-c", SCRIPT, str(pool), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({one["node"] for one in json.loads(done.stdout.splitlines()[-1])}) == 2
    (alone,) = runs(pool, tmp_path / "alone", [0], precision="float32")
    finish(alone, quiet, "cpu")
    ours, theirs = (pd.read_csv(place / HISTORY) for place in (tmp_path / "encoders" / "seed0", alone.result))
    assert ours["step"].tolist() == theirs["step"].tolist() == [1, 2, 3, 4]
    assert ours["loss"].tolist() == pytest.approx(theirs["loss"].tolist(), rel=1e-5)
