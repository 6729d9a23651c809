"""Encoders: preprocessing, settings, files, none of them unpickled; the video ViT against masked attention."""

import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from echolung.core.errors import CheckpointError, SettingsError
from echolung.core.runtime import sha256_file
from echolung.models.encoder import effective_rank
from echolung.models.encoders import initial_encoder
from echolung.models.predictor import Predictor
from echolung.models.rope import rotate, rotation
from echolung.models.vit import VideoViT
from echolung.models.weights import RECORD, WEIGHTS, EncoderRecord, initialise, load_encoder, save_encoder

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
def test_foreign_weights_are_refused_unread(saved: Path, damage: Callable, said: str) -> None:
    damage(saved / WEIGHTS)
    with pytest.raises(CheckpointError, match=said):
        load_encoder(saved)


@pytest.mark.parametrize("text", ["", "[1, 2]", "not json", '{"settings": {}, "extra": 1}', '"text"', "\udcff"])
def test_foreign_records_are_refused(saved: Path, text: str) -> None:
    (saved / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="never loaded") as caught:
        load_encoder(saved)
    assert str(saved / RECORD) in caught.value.problem and "dvc repro" in caught.value.remedy


# --- the video ViT ---

GRID = (2, 3, 3)


def small(**changes: Any) -> VideoViT:
    shape: dict[str, Any] = {"width": 48, "depth": 3, "heads": 2, "mlp_ratio": 2.0, "tubelet": 2, "patch": 4} | changes
    return VideoViT(VideoViT.Settings(image_size=12, frames=4, clip_fps=8.0, **shape))


@pytest.mark.parametrize("class_token", [False, True])
def test_packed_clips_equal_explicit_softmax_over_the_visible_tokens_of_each(class_token: bool) -> None:
    """Of unequal length; a class token comes first, and is not rotated."""
    torch.manual_seed(1)
    model, pixels, first = small(class_token=class_token), torch.randn(3, 1, 4, 12, 12), int(class_token)
    visible = torch.rand(3, 18) < torch.tensor([[0.3], [0.6], [1.1]])
    expected = []
    for clip, shown in zip(pixels, visible, strict=True):
        x = model.patch_embed(clip[None])[0][shown]
        x = torch.cat([model.class_token[None], x]) if class_token else x
        turn = rotation(shown.nonzero()[:, 0], GRID, model.head_width)
        for block in model.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)
            q, k = (torch.cat([part[:, :first], rotate(part[:, first:], *turn)], dim=1) for part in (q, k))
            attended = (q @ k.mT / model.head_width**0.5).softmax(-1) @ v
            x = x + block.attn.proj(attended.transpose(0, 1).flatten(1))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        expected.append(model.norm(x))
    tokens = torch.cat([one[first:] for one in expected])
    torch.testing.assert_close(model(pixels, visible), tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(pixels)[2], expected[2][first:], atol=1e-5, rtol=1e-5)  # the third shows all
    if class_token:
        for mask, rows in ((visible, slice(0, 3)), (None, slice(2, 3))):
            summary, wanted = model.summarised(pixels, mask)[0], torch.stack([one[0] for one in expected])
            torch.testing.assert_close(summary[rows], wanted[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_attention_in_bf16_equals_that_of_float32(device: str) -> None:
    torch.manual_seed(1)
    model = small(width=64)
    pixels, visible = torch.randn(3, 1, 4, 12, 12), torch.rand(3, 18) < torch.tensor([[0.3], [0.6], [0.9]])
    model.blocks[0].attn.qkv.weight.data *= 12  # so that attention is far from even
    expected = model(pixels, visible)
    expected[:, ::2].sum().backward()
    gradient = model.blocks[0].attn.qkv.weight.grad.clone()
    model.to(device).zero_grad()
    with torch.autocast(device, torch.bfloat16):
        found = model(pixels.to(device), visible)
    found[:, ::2].sum().backward()
    for ours, theirs in ((found, expected), (model.blocks[0].attn.qkv.weight.grad, gradient)):
        assert (ours.cpu() - theirs).norm() / theirs.norm() < 0.03


def test_attention_within_frames_is_an_image_encoder_frame_by_frame() -> None:
    torch.manual_seed(4)
    model = small(attention="frame", tubelet=1, class_token=True)
    image = VideoViT(model.settings.model_copy(update={"frames": 1, "attention": "clip"}))
    image.load_state_dict(model.state_dict())
    pixels, visible = torch.randn(2, 1, 4, 12, 12), torch.rand(2, 36) < 0.5
    frames = pixels[:, 0].flatten(0, 1)[:, None, None]
    for mask, masks in ((None, None), (visible, visible.view(8, 9))):
        for found, alone in zip(model.summarised(pixels, mask), image.summarised(frames, masks), strict=True):
            torch.testing.assert_close(found.flatten(0, -2), alone.flatten(0, -2), atol=1e-5, rtol=1e-5)
    assert model(pixels).shape == (2, model.tokens, 48)


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(2)
    model = Predictor(small(), width=36, depth=2, heads=2, mlp_ratio=2.0, mask_tokens=2)
    visible = torch.rand(3, 18) < 0.5
    seen = torch.randn(int(visible.sum()), 48)
    together = model(seen, visible, 0)
    apart = [model(part, visible[[index]], 0) for index, part in enumerate(seen.split(visible.sum(1).tolist()))]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)
    assert together.shape == (int((~visible).sum()), 48)


def test_effective_rank_of_known_spectra() -> None:
    p = np.array([0.7, 0.2, 0.1])
    for x, rank in ((np.eye(6), 6), (np.ones((5, 8)), 1), (np.diag(p), math.exp(-(p * np.log(p)).sum()))):
        assert effective_rank(x) == pytest.approx(rank, abs=1e-3)
    assert effective_rank(np.array([[1.0, np.nan]])) == 0
