"""What decides the result of a run, and so whether it goes on or starts over."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_loop import ENCODER, depends, make_store, settings

from echolung.core.errors import CheckpointError
from echolung.data.clips import ClipStore
from echolung.models.encoders import initial_encoder
from echolung.pretraining import checkpoint
from echolung.pretraining import run as run_module
from echolung.pretraining.jepa import Jepa
from echolung.pretraining.run import SeedRun


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return make_store(tmp_path / "clips")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"size": 24', '"size": 32', "frames"),
        ('"fingerprint": ""', '"fingerprint": "another decoder"', "frames"),
        ('"fps": 25.0', '"fps": 24.0', "videos"),
    ],
)
def test_other_frames_or_rates_of_the_same_videos_start_over(store: ClipStore, old: str, new: str, key: str) -> None:
    path, before = store.directory / "index.json", depends(store)
    path.write_text(path.read_text().replace(old, new))
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
