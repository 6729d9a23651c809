"""Registered encoders: found by name, with where they come from; the same weights are registered once."""

import json
from pathlib import Path
from unittest.mock import Mock

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from safetensors.torch import save_file

from echolung.core.errors import RegistryError
from echolung.models.encoders import drawn_encoder
from echolung.models.vit import VideoViT
from echolung.models.weights import EncoderRecord, load_encoder, save_encoder
from echolung.registry.encoders import load_encoder_by_name, register_encoder
from echolung.registry.models import versions
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import Store, store

SHAPE = VideoViT.Settings(width=24, depth=1, heads=2, image_size=16, frames=4, clip_fps=8.0, patch=8)


def made(place: Store, seed: int, weights: int, arm: str = "mae", study: str = "lung", start: str = "") -> Path:
    """An encoder that a stage made and registered."""
    settings, folder = SHAPE.model_copy(update={"weights": start}), place.root / study / arm / f"seed{seed}"
    facts = {"objective": "mae", "steps": 9, "trained_on": ("a", "b"), "trained_on_source": "blues", "fingerprint": "f"}
    save_encoder(folder, drawn_encoder(SHAPE, weights), EncoderRecord(settings=settings, arm=arm, seed=seed, **facts))
    with stage_run(place, study, "pretrain", arm, {}) as run:
        register_encoder(place, run, study, folder)
    return folder


def test_an_encoder_is_loaded_by_its_name_as_it_is_now_and_registered_once(tmp_path, capsys, monkeypatch) -> None:
    place, start = store(tmp_path), tmp_path / "data" / "weights" / "vitl" / "encoder.safetensors"
    start.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, start)
    (start.parent / "source.json").write_text(json.dumps({"file": "vitl.pt", "sha256": "s", "license": "MIT"}))
    for weights in (1, 1, 2, 1):  # again, changed, and changed back
        folder = made(place, 0, weights, start=str(start.relative_to(tmp_path)))
    made(place, 3, weights=4)
    made(place, 0, weights=5, study="lung-mae", arm="x")
    name = "echolung-encoder-lung-mae"
    found = versions(place, name)
    assert [number for number, _ in found] == [1, 2, 3], "two of seed 0, one of seed 3"
    facts = ("objective", "pool", "recordings", "steps", "start_file", "start_sha256", "start_license")
    assert [found[0][1][fact] for fact in facts] == ["mae", "blues", "2", "9", "vitl.pt", "s", "MIT"]

    encoder, record = load_encoder_by_name(place, "lung", "mae")
    expected, theirs = load_encoder(folder)
    assert record == theirs and found[0][1]["weights_sha256"] == record.weights_sha256
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 20, 20), dtype=np.uint8)
    mine, tokens = (one.encode(torch.from_numpy(clips)).numpy() for one in (encoder, expected))
    assert np.array_equal(mine, tokens)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    assert np.array_equal(mlflow.pyfunc.load_model(f"models:/{name}@seed0").predict(clips), tokens)
    assert not [path for path in (tmp_path / "mlruns").rglob("*") if path.suffix in (".pkl", ".pt", ".pickle")]

    with pytest.raises(RegistryError, match=f"no registered encoder {name}@seed1.*{name}@seed0, {name}@seed3"):
        load_encoder_by_name(place, "lung", "mae", seed=1)
    for path in (tmp_path / "mlruns" / "artifacts").rglob("encoder.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RegistryError, match="version 3 cannot be read"):
        load_encoder_by_name(place, "lung", "mae", seed=3)
    assert capsys.readouterr().err == ""


def test_a_store_that_fails_is_a_warning(tmp_path, capsys, monkeypatch) -> None:
    away = Mock(side_effect=MlflowException("the server is away"))
    monkeypatch.setattr("mlflow.tracking.MlflowClient.search_model_versions", away)
    made(store(tmp_path), 0, 1)
    assert "warning: echolung-encoder-lung-mae is not registered" in capsys.readouterr().err
