"""A run that starts from a file: its content decides the result, wherever the run is computed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_loop import ENCODER, make_store, settings

from echolung.core.errors import CheckpointError
from echolung.models.encoders import initial_encoder
from echolung.pretraining.jepa import Jepa
from echolung.pretraining.run import SeedRun


def test_other_starting_weights_start_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "clips")
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
