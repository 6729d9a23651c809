"""The training loop: it learns, it goes on bit for bit, and it starts afresh when anything that matters changed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from echolung.core.errors import CheckpointError, DataError, SettingsError, TrialError
from echolung.data.clips import ClipStore
from echolung.models.encoder import EncoderSettings
from echolung.models.rank import effective_rank
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import HISTORY, PretrainSettings, Trained, fingerprint, train
from echolung.pretraining.sampling import CropSettings, TrainingClips, fixed_clips
from echolung.pretraining.schedule import ScheduleSettings

torch.set_num_threads(1)

ENCODER = EncoderSettings(width=24, depth=2, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)
TRAINING: dict[str, Any] = {
    "steps": 6, "batch": 4, "learning_rate": 2e-3, "warmup_steps": 2, "cooldown_steps": 2, "clip_gradient": 1.0,
    "rank_clips": 5, "log_every": 2, "rank_every": 4, "checkpoint_every": 1,
}  # fmt: skip


def settings(**training: Any) -> PretrainSettings:
    values = {
        "arms": {"jepa": {"objective": "jepa", "pool": "hearts"}},
        "training": TRAINING | training,
        "jepa": {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.9},
    }
    return PretrainSettings.parse(values, "pretrain")


def make_store(directory: Path, videos: int = 7, change: int = 0) -> ClipStore:
    """Moving textures of several lengths and rates."""
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    clips = {}
    for number in range(videos):
        frames = 3 + 5 * number
        texture = rng.integers(0, 256, (24, 24), dtype=np.uint8)
        video = np.stack([np.roll(texture, shift, axis=1) for shift in range(frames)])
        sha = f"{number}{change}"
        np.save(directory / f"{sha}.npy", video)
        clips[f"hearts/{number}"] = {"sha256": sha, "fps": 20.0 + number, "frames": frames}
    (directory / "index.json").write_text(json.dumps({"size": 24, "clips": clips}))
    return ClipStore.open(directory)


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return make_store(tmp_path / "clips")


def quiet(step: int, values: dict[str, float | None]) -> None:
    pass


def run(store: ClipStore, directory: Path, seed: int = 0, on_metrics: Any = quiet, **training: Any) -> Trained:
    return train("jepa", ENCODER, settings(**training), store, seed, directory, on_metrics)


class Killed(Exception):
    pass


def killed_at(step: int) -> Any:
    def on_metrics(now: int, values: dict[str, float | None]) -> None:
        if now >= step:
            raise Killed

    return on_metrics


def same(first: Trained, second: Trained) -> bool:
    ours, theirs = first.encoder.state_dict(), second.encoder.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


UNTIMED = ["step", "loss", "learning_rate", "ema", "effective_rank", "target_std", "gradient_norm"]


def test_an_interrupted_run_equals_an_uninterrupted_one(store: ClipStore, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "whole", log_every=1)
    for step in (2, 3, 5):
        with pytest.raises(Killed):
            run(store, tmp_path / "parts", on_metrics=killed_at(step), log_every=1)
    parts = run(store, tmp_path / "parts", log_every=1)
    assert same(whole, parts)
    pd.testing.assert_frame_equal(whole.history[UNTIMED], parts.history[UNTIMED])
    written = pd.read_csv(tmp_path / "parts" / HISTORY)
    assert written["step"].tolist() == [1, 2, 3, 4, 5, 6]
    pd.testing.assert_frame_equal(written[UNTIMED], whole.history[UNTIMED], check_dtype=False)


def test_losses_between_log_lines_survive_an_interruption(store: ClipStore, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "whole", log_every=4, checkpoint_every=3)
    with pytest.raises(Killed):
        run(store, tmp_path / "parts", on_metrics=killed_at(4), log_every=4, checkpoint_every=3)
    progress = checkpoint.read_progress(tmp_path / "parts")
    assert progress is not None and progress.step == 3 and len(progress.losses) == 3
    parts = run(store, tmp_path / "parts", log_every=4, checkpoint_every=3)
    assert parts.history["step"].tolist() == [4, 6]
    assert parts.history["loss"].tolist() == whole.history["loss"].tolist()


def test_a_finished_run_is_not_repeated(store: ClipStore, tmp_path: Path) -> None:
    first = run(store, tmp_path / "run")
    again = run(store, tmp_path / "run", on_metrics=killed_at(0))
    assert same(first, again)
    pd.testing.assert_frame_equal(first.history, again.history)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"learning_rate": 1e-3}, "training.learning_rate"), ({"steps": 7}, "training.steps"), ({"seed": 1}, "seed")],
)
def test_other_parameters_start_afresh(store: ClipStore, tmp_path: Path, change: dict[str, Any], key: str) -> None:
    run(store, tmp_path / "run")
    before = checkpoint.read_progress(tmp_path / "run")
    changed = run(store, tmp_path / "run", **change)
    after = checkpoint.read_progress(tmp_path / "run")
    assert same(changed, run(store, tmp_path / "fresh", **change))
    assert before is not None and after is not None
    (line,) = checkpoint.differences(after.fingerprint, before.fingerprint)
    assert line.startswith(f"{key}: ")


def test_other_videos_start_afresh(store: ClipStore, tmp_path: Path) -> None:
    run(store, tmp_path / "run")
    other = make_store(tmp_path / "other", change=1)
    assert same(run(other, tmp_path / "run"), run(other, tmp_path / "fresh"))
    assert run(other, tmp_path / "run", on_metrics=killed_at(0)).history["step"].iloc[-1] == 6


@pytest.mark.parametrize("change", [{"size": 32}, {"fingerprint": "another decoder"}])
def test_other_frames_of_the_same_videos_start_afresh(store: ClipStore, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "clips" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before, after = (
        fingerprint("jepa", ENCODER, settings(), one, 0) for one in (store, ClipStore.open(tmp_path / "clips"))
    )
    (line,) = checkpoint.differences(after, before)
    assert line.startswith("frames")


def test_what_cannot_change_the_result_does_not_start_afresh(store: ClipStore, tmp_path: Path) -> None:
    run(store, tmp_path / "run")
    run(store, tmp_path / "run", on_metrics=killed_at(0), log_every=1, checkpoint_every=2, rank_every=3, loaders=2)


def test_clips_prepared_by_other_processes_are_the_same(store: ClipStore, tmp_path: Path) -> None:
    assert same(run(store, tmp_path / "here", steps=4), run(store, tmp_path / "there", steps=4, loaders=2))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-50],
        lambda data: b"\x80\x04pickle",
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),  # one bit of one weight
        lambda data: data.replace(b'\\"step\\": 6', b'\\"step\\": 2', 1),
    ],
)
def test_a_damaged_checkpoint_is_an_error_with_a_remedy(store: ClipStore, tmp_path: Path, damage: Any) -> None:
    run(store, tmp_path / "run")
    path = tmp_path / "run" / checkpoint.NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        run(store, tmp_path / "run")
    assert str(path) in caught.value.remedy


def test_it_learns(store: ClipStore, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float | None]] = {}
    trained = run(store, tmp_path / "run", on_metrics=seen.__setitem__, steps=60, log_every=10, rank_every=30)
    losses = trained.history["loss"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]
    assert list(seen) == trained.history["step"].tolist() == [10, 20, 30, 40, 50, 60]
    ranks = trained.history["effective_rank"]
    assert ranks.notna().tolist() == [False, False, True, False, False, True]
    assert 1 <= ranks.iloc[-1] <= 5
    assert seen[60]["eta_seconds"] == 0 and (seen[60]["clips_per_second"] or 0) > 0
    assert seen[20]["effective_rank"] is None


def test_a_loss_that_is_no_number_is_told_with_a_remedy(store: ClipStore, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="diverged") as caught:
        run(store, tmp_path / "run", learning_rate=1e30, clip_gradient=None, warmup_steps=0)
    assert "learning_rate" in caught.value.remedy


def test_a_pool_without_videos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no videos"):
        run(make_store(tmp_path / "empty", videos=0), tmp_path / "run")


def test_unknown_objective_is_an_error() -> None:
    with pytest.raises(SettingsError, match="jepa"):
        PretrainSettings.parse(
            settings().model_dump() | {"arms": {"x": {"objective": "jeppa", "pool": "hearts"}}}, "pretrain"
        )


def test_schedule_warms_up_holds_and_cools_down() -> None:
    rates = ScheduleSettings(steps=10, learning_rate=1.0, warmup_steps=4, warmup_from=0.2, cooldown_steps=4)
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [rates.rate(step) for step in range(10)] == pytest.approx(expected)
    constant = ScheduleSettings(steps=3, learning_rate=0.5)
    assert [constant.rate(step) for step in range(3)] == [0.5] * 3


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(np.eye(6)) == pytest.approx(6, abs=1e-3)
    assert effective_rank(np.ones((5, 8))) == pytest.approx(1, abs=1e-3)
    p = np.array([0.7, 0.2, 0.1])
    assert effective_rank(np.diag(p)) == pytest.approx(math.exp(-(p * np.log(p)).sum()), abs=1e-3)
    assert effective_rank(np.array([[1.0, np.nan]])) == 0


def clips_of(store: ClipStore, rows: slice | None = None, **changes: Any) -> TrainingClips:
    return TrainingClips(store, ENCODER, CropSettings(**changes), seed=0, batch=4, rows=rows)


def test_every_video_is_seen_once_per_epoch_in_a_new_order(store: ClipStore) -> None:
    clips = clips_of(store)
    seen = [sample_id for step in range(7) for sample_id in clips.videos(step)]  # 28 = 4 epochs of 7
    epochs = [seen[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == store.sample_ids for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_workers_share_the_batch(store: ClipStore) -> None:
    whole = clips_of(store)[5]
    parts = [clips_of(store, slice(0, 2))[5], clips_of(store, slice(2, 4))[5]]
    assert whole.shape == (4, 4, 16, 16) and whole.dtype == torch.uint8
    assert torch.equal(torch.cat(parts), whole)


def test_crop_is_the_same_for_all_frames_and_within_its_scale(store: ClipStore) -> None:
    clips = clips_of(store, scale=(0.5, 0.6), aspect=(0.8, 1.25))
    rng = np.random.default_rng(1)
    for _ in range(100):
        top, left, height, width = clips._box(100, rng.random(4))
        assert 0 <= top <= 100 - height and 0 <= left <= 100 - width
        assert 0.48 < height * width / 10_000 < 0.62 and 0.78 < width / height < 1.28
    still = np.broadcast_to(np.arange(24, dtype=np.uint8) * 10, (30, 24, 24))
    np.save(store.directory / "60.npy", np.concatenate([still, still[:3]]))
    clip = clips._clip("hearts/6", rng.random(5))
    assert torch.equal(clip, clip[:1].expand_as(clip))


def test_fixed_clips_are_whole_frames_of_videos_across_the_store(store: ClipStore) -> None:
    clips = fixed_clips(store, ENCODER, 3)
    assert clips.shape == (3, 4, 24, 24)
    assert torch.equal(clips[0, 0], torch.from_numpy(store.frames("hearts/0")[0].copy()))
    assert len(fixed_clips(store, ENCODER, 100)) == 7
