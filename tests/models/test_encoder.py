"""Encoders: preprocessing, settings and files. Files that are damaged or foreign are refused; nothing is unpickled."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from echolung.core.errors import CheckpointError, SettingsError
from echolung.core.runtime import sha256_file
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.models.weights import RECORD, WEIGHTS, EncoderRecord, initialise, load_encoder, save_encoder

torch.set_num_threads(1)

SETTINGS = VideoViT.Settings(width=36, depth=2, heads=2, image_size=16, frames=4, clip_fps=8.0, patch=8)
RECORDED = EncoderRecord(settings=SETTINGS, arm="jepa", objective="jepa", seed=0, steps=7, trained_on=("ab", "cd"))
CLIPS = torch.randint(0, 256, (2, 4, 16, 16), dtype=torch.uint8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "seed0", initial_encoder(SETTINGS, 0), RECORDED)
    return tmp_path / "seed0"


def test_a_clip_becomes_resized_normalised_pixels_and_tokens_on_the_grid() -> None:
    encoder = VideoViT(SETTINGS)
    tokens = encoder.encode(CLIPS)
    assert encoder.grid == (2, 2, 2)
    assert tokens.shape == (2, encoder.tokens, encoder.width) == (2, 8, 36)
    assert tokens.dtype == torch.float32 and not tokens.requires_grad
    pixels = encoder.pixels(torch.full((1, 4, 40, 40), 255, dtype=torch.uint8))
    assert pixels.shape == (1, 1, 4, 16, 16)
    torch.testing.assert_close(pixels, torch.full_like(pixels, (1 - SETTINGS.mean) / SETTINGS.std))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"heads": 5}, "heads"), ({"image_size": 20}, "patch"), ({"frames": 5}, "tubelet"), ({"witdh": 3}, "width")],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, int], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        VideoViT.Settings.parse(SETTINGS.model_dump() | change, "params.yaml")


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, second, other = (initial_encoder(SETTINGS, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_a_saved_encoder_loads_as_the_same_encoder(saved: Path) -> None:
    state = torch.random.get_rng_state()
    encoder, found = load_encoder(saved)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(encoder.encode(CLIPS), initial_encoder(SETTINGS, 0).encode(CLIPS))
    assert found.model_copy(update={"weights_sha256": ""}) == RECORDED
    assert found.weights_sha256 == sha256_file(saved / WEIGHTS)
    assert {path.name for path in saved.iterdir()} == {WEIGHTS, RECORD}


def test_an_untrained_arm_has_one_encoder_per_seed(tmp_path: Path) -> None:
    table = initialise(SETTINGS, [0, 3], tmp_path)
    assert table["seed"].tolist() == [0, 3] and table["finite"].all()
    encoder, found = load_encoder(tmp_path / "seed3")
    assert (found.arm, found.objective, found.steps, found.trained_on) == ("random", "none", 0, ())
    assert found.weights_sha256 == table["weights_sha256"][1]
    expected = initial_encoder(SETTINGS, 3).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in encoder.state_dict().items())


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


def lacking(weights: Path) -> None:
    tensors = load_file(weights)
    del tensors["norm.bias"]
    save_file(tensors, weights)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda weights: weights.write_bytes(pickle.dumps({"encoder": Bomb()})), "is missing, damaged or"),
        (lacking, r'does not fit the settings.*"norm\.bias"'),
        (Path.unlink, r"encoder\.safetensors is missing"),
        (lambda weights: shutil.rmtree(weights.parent), "does not exist"),
    ],
)
def test_weights_that_are_no_encoder_s_are_refused_unread(
    saved: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(saved / WEIGHTS)
    with pytest.raises(CheckpointError, match=said):
        load_encoder(saved)


@pytest.mark.parametrize("text", ["", "[1, 2]", "not json", '{"settings": {}, "extra": 1}', '"text"', "\udcff"])
def test_foreign_records_are_refused(saved: Path, text: str) -> None:
    (saved / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="never loaded") as caught:
        load_encoder(saved)
    assert str(saved / RECORD) in caught.value.problem and "dvc repro" in caught.value.remedy
