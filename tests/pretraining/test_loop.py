"""The training loop learns, resumes bit for bit after a kill, and starts over when what decides its result changes."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from drawn import pretraining, save_clips
from safetensors.torch import save_file

from echolung.core.errors import CheckpointError, DataError, SettingsError, Stopped, TrialError
from echolung.data.clips import ClipStore
from echolung.models.encoder import Encoder
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining import checkpoint, loop
from echolung.pretraining import run as run_module
from echolung.pretraining.jepa import Jepa
from echolung.pretraining.loop import Trained, train
from echolung.pretraining.run import SeedRun
from echolung.pretraining.sampling import CropSettings, TrainingClips
from echolung.pretraining.settings import PretrainSettings, TrainingSettings

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)
TRAINING: dict[str, Any] = {
    "steps": 6, "batch": 4, "learning_rate": 2e-3, "warmup_steps": 2, "cooldown_steps": 2, "clip_gradient": 1.0,
    "rank_clips": 5, "log_every": 2, "rank_every": 4, "checkpoint_every": 1,
}  # fmt: skip


def settings(**training: Any) -> PretrainSettings:
    jepa = {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.9}
    return pretraining(TRAINING | training, "jepa", jepa)


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    """Moving textures of several lengths and rates."""
    rng, moving = np.random.default_rng(0), {}
    for number in range(7):
        texture = rng.integers(0, 256, (24, 24), dtype=np.uint8)
        moving[f"hearts/{number}"] = np.stack([np.roll(texture, t, axis=1) for t in range(3 + 5 * number)])
    return save_clips(tmp_path / "clips", moving, [20.0 + number for number in range(7)])


def run(store: ClipStore, directory: Path, seed: int = 0, on_metrics: Any = None, **training: Any) -> Trained:
    one = SeedRun("hearts", settings(**training), ENCODER, (store.directory,), seed, directory)
    return train(one, on_metrics or (lambda step, values: None))


def same(first: Trained, second: Trained) -> bool:
    """Weights and history, but for what the clock says."""
    ours, theirs = (one.encoder.state_dict() for one in (first, second))
    clock = ["seconds", "clips_per_second", "eta_seconds"]
    histories = [one.history.drop(columns=clock) for one in (first, second)]
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and histories[0].equals(histories[1])


@pytest.mark.parametrize(("where", "done"), [("step", 2), ("write", 3)])
def test_a_run_killed_in_a_step_or_a_checkpoint_resumes_bit_for_bit(store, tmp_path, monkeypatch, where, done) -> None:
    def in_step(step: int, values: dict[str, float | None]) -> None:
        if (where, step) == ("step", 3):
            os.kill(os.getpid(), signal.SIGKILL)

    def in_write(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        if (where, json.loads(metadata["progress"])["step"]) == ("write", 4):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", in_write)
        given = store, tmp_path / "parts", 0, in_step
        child = multiprocessing.get_context("fork").Process(target=run, args=given, kwargs={"log_every": 1})
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert checkpoint.read_progress(tmp_path / "parts").step == done
    parts, whole = (run(store, tmp_path / name, log_every=1) for name in ("parts", "whole"))
    assert parts.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert same(whole, parts)


def test_a_run_asked_to_stop_ends_after_the_step_and_resumes_bit_for_bit(store: ClipStore, tmp_path: Path) -> None:
    stop, seen = tmp_path / "stop", []
    one = SeedRun("hearts", settings(checkpoint_every=6), ENCODER, (store.directory,), 0, tmp_path / "parts", stop=stop)
    assert one.fingerprint() == depends(store)

    def ask(step: int, values: dict[str, float | None]) -> None:
        seen.append(step)
        stop.write_text("stop" if step == 2 else "")

    with pytest.raises(Stopped, match="hearts seed 0 stopped after step 3 of 6") as caught:
        train(one, ask)
    assert (caught.value.exit_code, caught.value.remedy) == (75, "It goes on from step 3.")
    assert checkpoint.read_progress(tmp_path / "parts").step == 3
    stop.write_text("")
    parts, whole = train(one, ask), run(store, tmp_path / "whole")
    assert same(whole, parts) and seen == [2, 4, 6]


@pytest.mark.parametrize(
    ("change", "key"),
    [({"learning_rate": 1e-3}, "training.learning_rate"), ({"steps": 7}, "training.steps"), ({"seed": 1}, "seed")],
)
def test_only_what_changes_the_result_starts_over(store: ClipStore, tmp_path: Path, change: dict, key: str) -> None:
    run(store, tmp_path / "run")
    same_result = {"log_every": 1, "checkpoint_every": 2, "rank_every": 3, "loaders": 2}
    run(store, tmp_path / "run", on_metrics=pytest.fail, **same_result)  # it takes no step
    before = checkpoint.read_progress(tmp_path / "run")
    changed = run(store, tmp_path / "run", **change)
    after = checkpoint.read_progress(tmp_path / "run")
    assert same(changed, run(store, tmp_path / "fresh", **change))
    (line,) = checkpoint.differences(after.fingerprint, before.fingerprint)
    assert line.startswith(f"{key}: ")


def depends(store: ClipStore, device: str = "cpu") -> dict[str, Any]:
    """Everything that decides the result of a run."""
    return SeedRun("hearts", settings(), ENCODER, (store.directory,), 0, Path()).fingerprint(device)


def test_another_precision_is_another_run(store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(precision: str, device: str) -> str:
        return settings(precision=precision).of("hearts").precision_on(device)

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert resolved("auto", "cpu") == "float32"
    (line,) = checkpoint.differences(depends(store, device="cuda"), depends(store))
    assert line == "training.precision: float32 -> bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert resolved("auto", "cpu") == "bf16"
    rounded, exact = (run(store, tmp_path / name, precision=name, steps=4) for name in ("auto", "float32"))
    assert not same(rounded, exact)
    for name, weight in rounded.encoder.state_dict().items():
        torch.testing.assert_close(weight, exact.encoder.state_dict()[name], atol=2e-3, rtol=0)


def test_a_damaged_checkpoint_is_an_error_with_a_remedy(store: ClipStore, tmp_path: Path) -> None:
    run(store, tmp_path / "run")
    path = tmp_path / "run" / checkpoint.NAME
    for damaged in (path.read_bytes()[:-50], b"\x80\x04pickle", b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            run(store, tmp_path / "run")
        assert str(path) in caught.value.remedy


def test_it_learns(store: ClipStore, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float | None]] = {}
    trained = run(store, tmp_path / "run", on_metrics=seen.__setitem__, steps=60, log_every=10, rank_every=30)
    losses = trained.history["loss"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]
    assert list(seen) == trained.history["step"].tolist() == [10, 20, 30, 40, 50, 60]
    assert trained.history["clips"].tolist() == [40, 80, 120, 160, 200, 240]
    assert trained.history["seconds"].is_monotonic_increasing
    ranks = trained.history["effective_rank"]
    assert ranks.notna().tolist() == [False, False, True, False, False, True]
    assert 1 <= ranks.iloc[-1] <= 5
    assert seen[60]["eta_seconds"] == 0 and (seen[60]["clips_per_second"] or 0) > 0
    assert seen[20]["effective_rank"] is None and seen[20]["ema"] == 0.9


def test_held_out_videos_choose_what_is_kept(store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[int, set[str]] = {}
    clip = TrainingClips._clip

    def noted(self: TrainingClips, sample_id: str, *rest: Any) -> torch.Tensor:
        read.setdefault(len(self.store), set()).add(sample_id)
        return clip(self, sample_id, *rest)

    monkeypatch.setattr(TrainingClips, "_clip", noted)
    training = {"steps": 6, "log_every": 1, "rank_every": 3}
    plain = run(store, tmp_path / "plain", **training)
    assert plain.choice == "teacher" and plain.history["loss_held_out"].isna().all()
    assert read == {len(store): set(store.sample_ids)}
    read.clear()
    trained = run(store, tmp_path / "run", **training, held_out=0.25)
    assert trained.history["loss_held_out"].notna().tolist() == [False, False, True] * 2
    (few, held_out), (many, trained_on) = sorted(read.items())
    assert (few, many) == (1, len(store) - 1) and held_out | trained_on == set(store.sample_ids)
    for better in ("student", "teacher"):

        def loss(self: loop._Loop, *context: Encoder, better: str = better) -> float:
            return 0.0 if context == (self.objective.choices[better],) else 1.0

        monkeypatch.setattr(loop._Loop, "_held_out_loss", loss)
        again = run(store, tmp_path / "run", **training, held_out=0.25)
        assert again.choice == better


def test_a_group_may_scale_the_learning_rate(store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Jepa.parameter_groups
    none = {"lr_scale": 0.0}
    monkeypatch.setattr(Jepa, "parameter_groups", lambda self, decay: [one | none for one in groups(self, decay)])
    trained, initial = run(store, tmp_path / "run").encoder.state_dict(), initial_encoder(ENCODER, 0).state_dict()
    assert all(torch.equal(weight, initial[name]) for name, weight in trained.items())


def test_no_videos_a_diverging_loss_and_full_memory_are_errors(store: ClipStore, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match="no videos"):
        run(save_clips(tmp_path / "empty", {}), tmp_path / "run")
    with pytest.raises(TrialError, match=r"diverged.* at step \d \(videos hearts/\d, ") as caught:
        run(store, tmp_path / "run", learning_rate=1e30, clip_gradient=None, warmup_steps=0)
    assert "learning_rate" in caught.value.remedy
    assert checkpoint.read_progress(tmp_path / "run").step > 0, "the last good one is kept"
    for said in ("CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you"):
        monkeypatch.setattr(Jepa, "forward", Mock(side_effect=RuntimeError(said)))
        with pytest.raises(TrialError, match="out of memory at step 1, with batches of 4 clips") as caught:
            run(store, tmp_path / "full")
        assert "pretrain.training.batch" in caught.value.remedy


def test_an_encoder_overrides_the_training_and_its_objective_and_mistakes_are_named() -> None:
    values, own = settings().model_dump(), {"objective": "jepa", "pool": "lungs", "training": {"steps": 9}}
    own["settings"] = {"ema": 0.5}
    both = PretrainSettings.parse(values | {"encoders": values["encoders"] | {"lungs": own}}, "pretrain")
    assert [(both.of(name).steps, both.of(name).batch) for name in ("hearts", "lungs")] == [(6, 4), (9, 4)]
    assert [both.objective(name).model_dump()["ema"] for name in ("hearts", "lungs")] == [0.9, 0.5]
    assert both.objective("lungs").model_dump()["predictor_width"] == 24
    for change, message in (
        ({"encoders": {"x": own | {"objective": "jeppa"}}}, r"no objective 'jeppa': did you mean 'jepa'\?"),
        ({"compute": {"workers": 3}}, r"batch of 4 \(hearts\) does not divide among 3 workers"),
    ):
        with pytest.raises(SettingsError, match=message):
            PretrainSettings.parse(values | change, "pretrain")


def test_schedule_warms_up_holds_and_cools_down() -> None:
    rates = TrainingSettings(batch=1, steps=10, learning_rate=1.0, warmup_steps=4, warmup_from=0.2, cooldown_steps=4)
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [rates.rate(step) for step in range(10)] == pytest.approx(expected)
    flat = TrainingSettings(batch=1, steps=10, learning_rate=0.5, warmup_steps=0, cooldown_steps=0)
    assert {flat.rate(step) for step in range(10)} == {0.5}


def test_every_video_is_seen_once_per_epoch_in_a_new_order(store: ClipStore) -> None:
    clips = TrainingClips(store, ENCODER, CropSettings(), seed=0, batch=4, rows=slice(0, 4))
    seen = [sample_id for step in range(7) for sample_id in clips.videos(step)]  # 28 = 4 epochs of 7
    epochs = [seen[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == store.sample_ids for epoch in epochs) and epochs[0] != epochs[1]


def test_other_frames_or_rates_of_the_same_videos_start_over(store: ClipStore) -> None:
    path, before = store.directory / "index.json", depends(store)
    index = path.read_text()
    for old, new, key in [
        ('"size": 24', '"size": 32', "frames"),
        ('"fingerprint": ""', '"fingerprint": "another decoder"', "frames"),
        ('"fps": 25.0', '"fps": 24.0', "videos"),
    ]:
        path.write_text(index.replace(old, new))
        (line,) = checkpoint.differences(depends(store), before)
        assert line.startswith(key)


def test_all_code_that_an_objective_uses_is_part_of_a_run(store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(run_module, "code_digest", lambda *modules: seen.append(set(modules)) or "")
    depends(store)
    used = {f"echolung.{name}" for name in ("models.vit", "models.rope", "pretraining.loop", "pretraining.sampling")}
    assert used | {"echolung.pretraining.masking", "echolung.models.predictor"} <= seen[0]
    assert "echolung.models.encoders" not in seen[0], "it imports every kind of encoder"


def test_other_starting_weights_start_over(store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(initial_encoder(ENCODER, 1).state_dict(), tmp_path / "w.safetensors")
    encoder = ENCODER.model_copy(update={"weights": "w.safetensors"})
    run = SeedRun("hearts", settings(), encoder, (store.directory,), 0, tmp_path / "run")
    before = run.fingerprint()
    assert before != SeedRun("hearts", settings(), ENCODER, (store.directory,), 0, tmp_path / "run").fingerprint()
    monkeypatch.chdir("/")  # as a worker on another machine
    assert run.fingerprint() == before
    started = Jepa(run.start, settings().objective("hearts"), 0, 6).encoder.patch_embed.proj.weight
    assert torch.equal(started, initial_encoder(ENCODER, 1).patch_embed.proj.weight)
    save_file(initial_encoder(ENCODER, 2).state_dict(), tmp_path / "w.safetensors")
    assert run.fingerprint() != before
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(CheckpointError, match="there are no weights"):
        run.fingerprint()
