"""Pretraining under Ray: the very run of the plain loop, replaced workers, and failures that name their seed."""

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from echolung.compute.pretraining import pretrain_arm
from echolung.compute.session import ray_session
from echolung.core.errors import DataError, DiskError, SettingsError, TrialError
from echolung.data.clips import ClipStore
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import load_encoder
from echolung.pretraining.arm import SeedRun
from echolung.pretraining.loop import HISTORY, PretrainSettings, train

torch.set_num_threads(1)

ENCODER = EncoderSettings(width=24, depth=2, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)


def settings(seeds: list[int], workers: int = 1, **training: Any) -> PretrainSettings:
    values = {
        "arms": {"jepa": {"objective": "jepa", "pool": "hearts"}},
        "seeds": seeds,
        "training": {
            "steps": 4, "batch": 4, "learning_rate": 1e-3, "log_every": 1, "rank_every": 2, "checkpoint_every": 1,
        } | training,
        "jepa": {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.9},
        "compute": {"workers": workers},
    }  # fmt: skip
    return PretrainSettings.parse(values, "pretrain")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find `Recorder`
        with ray_session(2):
            yield


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    clips = {}
    for number in range(5):
        np.save(directory / f"sha{number}.npy", rng.integers(0, 256, (20, 24, 24), dtype=np.uint8))
        clips[f"hearts/{number}"] = {"sha256": f"sha{number}", "fps": 20.0, "frames": 20}
    (directory / "index.json").write_text(json.dumps({"size": 24, "clips": clips}))
    return directory


class Recorder:
    """Writes what it is told to a file; a step that is `deadly` ends its worker once, a `wrong` one fails each time."""

    def __init__(self, path: Path, deadly: int = 0, wrong: int = 0) -> None:
        self.path, self.deadly, self.wrong = path, deadly, wrong

    def __call__(self, step: int, values: dict[str, float | None]) -> None:
        seen = self.path.read_text() if self.path.exists() else ""
        self.path.write_text(f"{seen}{step} ")
        if step == self.deadly and f"{step} " not in seen:
            os._exit(1)
        if step == self.wrong:
            raise DataError("the disk is full", "Make room.")


def plain(pool: Path, seed: int, directory: Path, **training: Any) -> dict[str, torch.Tensor]:
    trained = train(
        "jepa", ENCODER, settings([seed], **training), ClipStore.open(pool), seed, directory, lambda step, values: None
    )
    return trained.encoder.state_dict()


def check(directory: Path, seed: int, expected: dict[str, torch.Tensor], **tolerance: float) -> None:
    encoder, record = load_encoder(directory)
    for name, weight in encoder.state_dict().items():
        torch.testing.assert_close(weight, expected[name], **tolerance)
    assert (record.arm, record.objective, record.seed, record.steps) == ("jepa", "jepa", seed, 4)
    assert record.trained_on == tuple(f"sha{number}" for number in range(5))
    assert record.trained_on_source == "hearts"
    assert pd.read_csv(directory / HISTORY)["step"].tolist() == [1, 2, 3, 4]


def test_a_dead_worker_is_replaced_and_a_failing_seed_is_named(pool: Path, tmp_path: Path) -> None:
    """The seed whose worker died comes, bit for bit, to what the plain loop comes to; the other names its cause."""
    recorders = {3: Recorder(tmp_path / "seen3", deadly=3), 7: Recorder(tmp_path / "seen7", wrong=2)}
    with pytest.raises(TrialError, match="pretraining jepa with seed 7 failed: the disk is full") as caught:
        pretrain_arm("jepa", settings([3, 7]), ENCODER, pool, tmp_path / "runs", tmp_path / "out", on_metrics=recorders)
    assert caught.value.remedy == "Make room."
    assert "DataError: the disk is full" in (tmp_path / "runs" / "seed7" / "error.txt").read_text()
    check(tmp_path / "out" / "seed3", 3, plain(pool, 3, tmp_path / "plain"), atol=0, rtol=0)
    assert (tmp_path / "seen3").read_text().split() == ["1", "2", "3", "3", "4"]
    assert (tmp_path / "seen7").read_text().split() == ["1", "2", "2"]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"seed3", "seed7"}


def test_a_full_disk_leaves_the_last_checkpoint_and_the_next_call_goes_on(pool: Path, tmp_path: Path) -> None:
    """What a worker does, without the workers."""
    run = SeedRun("jepa", settings([3]), ENCODER, pool, 3, tmp_path / "run", tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(step: int, values: dict[str, float | None]) -> None:
        if step == 3:  # from now on there is room for small files alone
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))

    try:
        with pytest.raises(DiskError, match=r"a file would be larger.*checkpoint\.safetensors") as caught:
            run.train(fills_up, "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "call again" in caught.value.remedy
    assert not run.output.exists()
    assert sorted(path.name for path in run.directory.iterdir())[:1] == ["checkpoint.safetensors"]
    assert run.outlook() == "jepa seed 3: going on from step 2 of 4"
    run.train(lambda step, values: None, "cpu")
    assert not run.error.exists()
    check(run.output, 3, plain(pool, 3, tmp_path / "plain"), atol=0, rtol=0)


def test_two_workers_come_to_what_one_comes_to(pool: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    messages: list[str] = []
    plain(pool, 0, tmp_path / "runs" / "seed0", steps=3)
    table = pretrain_arm(
        "jepa", settings([0], workers=2), ENCODER, pool, tmp_path / "runs", tmp_path / "out",
        on_progress=lambda done, total: progress.append((done, total)), on_message=messages.append,
    )  # fmt: skip
    assert messages == ["jepa seed 0: starting afresh, because of training.steps: 3 -> 4"]
    assert progress[-1] == (4, 4)
    check(tmp_path / "out" / "seed0", 0, plain(pool, 0, tmp_path / "plain"), atol=2e-5, rtol=1e-4)
    (row,) = table.to_dict("records")
    assert (row["seed"], row["steps"], row["videos"], row["finite"]) == (0, 4, 5, True)
    assert all(row[name] > 0 for name in ("loss_first", "loss_last", "effective_rank"))


def test_more_than_ray_has_is_refused_at_once(pool: Path, tmp_path: Path) -> None:
    greedy = settings([0], workers=4)
    with pytest.raises(SettingsError, match="asks for 4 CPUs and Ray has 2"):
        pretrain_arm("jepa", greedy, ENCODER, pool, tmp_path / "runs", tmp_path / "out")
