"""Encoders: preprocessing, settings and files. Files that are damaged or foreign are refused; nothing is unpickled."""

import json
import pickle
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from echolung.core.errors import CheckpointError, SettingsError
from echolung.core.runtime import sha256_file
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.encoders import ENCODERS, initial_encoder
from echolung.models.vit import VideoViT
from echolung.models.weights import RECORD, WEIGHTS, EncoderRecord, initialise, load_encoder, save_encoder

torch.set_num_threads(1)

SETTINGS = VideoViT.Settings(width=36, depth=2, heads=2, image_size=16, frames=4, clip_fps=8.0, patch=8)


class MeanSettings(ClipSettings):
    kind: Literal["mean"] = "mean"
    features: int = 5


class Mean(Encoder):
    """One token per frame: random features of its mean."""

    Settings = MeanSettings
    settings: MeanSettings

    def __init__(self, settings: MeanSettings) -> None:
        super().__init__(settings)
        self.mix = torch.nn.Linear(1, settings.features)

    @property
    def width(self) -> int:
        return self.settings.features

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.settings.frames, 1, 1

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.mix(pixels.mean(dim=(1, 3, 4))[..., None])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "seed0", initial_encoder(SETTINGS, 0), record())
    return tmp_path / "seed0"


def record() -> EncoderRecord:
    return EncoderRecord(settings=SETTINGS, arm="jepa", objective="jepa", seed=0, steps=7, trained_on=("ab", "cd"))


def clips(size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, size, size), dtype=torch.uint8)


def test_a_clip_becomes_tokens_on_the_grid() -> None:
    encoder = VideoViT(SETTINGS)
    tokens = encoder.encode(clips())
    assert encoder.grid == (2, 2, 2)
    assert tokens.shape == (2, encoder.tokens, encoder.width) == (2, 8, 36)
    assert tokens.dtype == torch.float32 and not tokens.requires_grad


def test_pixels_are_normalised_and_resized() -> None:
    pixels = VideoViT(SETTINGS).pixels(torch.full((1, 4, 40, 40), 255, dtype=torch.uint8))
    assert pixels.shape == (1, 1, 4, 16, 16)
    torch.testing.assert_close(pixels, torch.full_like(pixels, (1 - SETTINGS.mean) / SETTINGS.std))


def test_three_channels_repeat_the_grey_one() -> None:
    colour, grey = VideoViT(SETTINGS.model_copy(update={"channels": 3})), VideoViT(SETTINGS)
    weights = colour.state_dict()
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].sum(1, keepdim=True)
    grey.load_state_dict(weights)
    frames = clips()
    torch.testing.assert_close(colour.encode(frames), grey.encode(frames), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"heads": 5}, "heads"), ({"image_size": 20}, "patch"), ({"frames": 5}, "tubelet"), ({"witdh": 3}, "width")],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, int], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        VideoViT.Settings.parse(SETTINGS.model_dump() | change, "params.yaml")


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = initial_encoder(SETTINGS, 1).state_dict()
    state = torch.random.get_rng_state()
    second = initial_encoder(SETTINGS, 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())
    other = initial_encoder(SETTINGS, 2).state_dict()
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_a_saved_encoder_loads_as_the_same_encoder(saved: Path) -> None:
    state = torch.random.get_rng_state()
    encoder, found = load_encoder(saved)
    assert torch.equal(state, torch.random.get_rng_state())
    frames = clips()
    assert torch.equal(encoder.encode(frames), initial_encoder(SETTINGS, 0).encode(frames))
    assert found.model_copy(update={"weights_sha256": ""}) == record()
    assert found.weights_sha256 == sha256_file(saved / WEIGHTS)
    assert {path.name for path in saved.iterdir()} == {WEIGHTS, RECORD}


def test_an_encoder_of_a_registered_kind_is_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MeanSettings(image_size=16, frames=4, clip_fps=8.0)
    with monkeypatch.context() as patch:
        patch.setitem(ENCODERS, "mean", Mean)
        (row,) = initialise(settings, [3], tmp_path, "means").to_dict("records")
        encoder, found = load_encoder(tmp_path / "seed3")
        assert isinstance(encoder, Mean) and found.settings == settings
        assert (row["arm"], row["seed"], row["weights_sha256"]) == ("means", 3, found.weights_sha256)
        assert encoder.encode(clips()).shape == (2, 4, 5)
    with pytest.raises(CheckpointError, match=r"no kind 'mean'.*known: video-vit"):
        load_encoder(tmp_path / "seed3")


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


def test_pickled_weights_are_refused_unread(saved: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "vitl.pt"
    pickled.write_bytes(pickle.dumps({"encoder": Bomb()}))
    with pytest.raises(CheckpointError, match="never loaded"):
        load_encoder(pickled)
    (saved / WEIGHTS).write_bytes(pickled.read_bytes())
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_encoder(saved)


def test_truncated_weights_are_refused(saved: Path) -> None:
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_encoder(saved)


def test_weights_that_lack_a_tensor_are_refused(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    del weights["norm.bias"]
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(CheckpointError, match=r'does not fit the settings.*"norm\.bias"'):
        load_encoder(saved)


def test_settings_of_another_model_are_refused(saved: Path) -> None:
    values = json.loads((saved / RECORD).read_text())
    values["settings"]["width"] = 48
    (saved / RECORD).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not fit the settings"):
        load_encoder(saved)


@pytest.mark.parametrize("text", ["", "[1, 2]", "not json", '{"settings": {}, "extra": 1}', '"text"', "\udcff"])
def test_foreign_records_are_refused(saved: Path, text: str) -> None:
    (saved / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError) as caught:
        load_encoder(saved)
    assert str(saved / RECORD) in caught.value.problem and "dvc repro" in caught.value.remedy


def test_missing_folder_and_missing_weights_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_encoder(tmp_path / "nowhere")
    (saved / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no encoder\.safetensors"):
        load_encoder(saved)
