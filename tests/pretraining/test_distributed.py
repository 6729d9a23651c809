"""Pretraining under Ray: the very run of the plain loop, replaced workers, and failures that name their seed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from echolung.data.clips import ClipStore
from echolung.errors import TrialError
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import load_encoder
from echolung.pretraining.distributed import pretrain_arm, ray_session
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
    """Writes what it is told to a file, and kills its worker the first time it is told of `deadly`."""

    def __init__(self, path: Path, deadly: int = 0) -> None:
        self.path, self.deadly = path, deadly

    def __call__(self, step: int, values: dict[str, float | None]) -> None:
        seen = self.path.read_text() if self.path.exists() else ""
        self.path.write_text(f"{seen}{step} ")
        if step == self.deadly and f"{step} " not in seen:
            os._exit(1)


def plain(pool: Path, seed: int, directory: Path, **training: Any) -> dict[str, torch.Tensor]:
    trained = train(
        "jepa", ENCODER, settings([seed], **training), ClipStore.open(pool), seed, directory, lambda step, values: None
    )
    return trained.encoder.state_dict()


def test_equals_the_plain_loop_for_every_seed_even_when_a_worker_dies(pool: Path, tmp_path: Path) -> None:
    recorders = {0: Recorder(tmp_path / "seen0"), 1: Recorder(tmp_path / "seen1", deadly=3)}
    progress: list[tuple[int, int]] = []
    table = pretrain_arm(
        "jepa", settings([0, 1]), ENCODER, pool, tmp_path / "runs", tmp_path / "out",
        on_metrics=recorders, on_progress=lambda done, total: progress.append((done, total)),
    )  # fmt: skip
    for seed in (0, 1):
        encoder, record = load_encoder(tmp_path / "out" / f"seed{seed}")
        expected = plain(pool, seed, tmp_path / f"plain{seed}")
        assert all(torch.equal(weight, expected[name]) for name, weight in encoder.state_dict().items())
        assert (record.arm, record.objective, record.seed, record.steps) == ("jepa", "jepa", seed, 4)
        assert record.trained_on == tuple(f"sha{number}" for number in range(5))
        assert record.trained_on_source == "hearts"
        assert pd.read_csv(tmp_path / "out" / f"seed{seed}" / HISTORY)["step"].tolist() == [1, 2, 3, 4]
    assert (tmp_path / "seen0").read_text().split() == ["1", "2", "3", "4"]
    assert (tmp_path / "seen1").read_text().split() == ["1", "2", "3", "3", "4"]
    assert progress[-1] == (8, 8)
    assert table["seed"].tolist() == [0, 1] and table["finite"].all() and (table["videos"] == 5).all()
    assert table[["loss_first", "loss_last", "effective_rank"]].notna().all(axis=None)
    assert table["weights_sha256"].nunique() == 2
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"seed0", "seed1"}

    messages: list[str] = []
    again = pretrain_arm(
        "jepa", settings([0]), ENCODER, pool, tmp_path / "runs", tmp_path / "again", on_message=messages.append
    )
    assert messages == ["jepa seed 0: going on from step 4 of 4"]
    assert again["weights_sha256"].tolist() == table["weights_sha256"].tolist()[:1]


def test_two_workers_come_to_what_one_comes_to(pool: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    plain(pool, 0, tmp_path / "runs" / "seed0", steps=3)
    pretrain_arm(
        "jepa", settings([0], workers=2), ENCODER, pool, tmp_path / "runs", tmp_path / "out",
        on_message=messages.append,
    )  # fmt: skip
    assert messages == ["jepa seed 0: starting afresh, because of training.steps: 3 -> 4"]
    encoder, _ = load_encoder(tmp_path / "out" / "seed0")
    expected = plain(pool, 0, tmp_path / "plain")
    for name, weight in encoder.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-4)


def test_a_failure_names_the_seed_and_the_remedy(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"jepa with seed 7 failed: .*diverged") as caught:
        pretrain_arm("jepa", settings([7], learning_rate=1e30), ENCODER, pool, tmp_path / "runs", tmp_path / "out")
    assert "learning_rate" in caught.value.remedy
