"""timm backbones frame by frame: tokens, and weights from files of other people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from echolung.core.errors import CheckpointError, SettingsError
from echolung.models.encoders import initial_encoder
from echolung.models.frames import Frames, FramesSettings
from echolung.models.weights import initialise, load_encoder
from echolung.pretraining.mae import Mae, MaeSettings

CLIPS = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def settings(model: str, weights: Path | str = "", size: int = 64, frames: int = 3) -> FramesSettings:
    return FramesSettings(model=model, weights=str(weights), image_size=size, frames=frames, clip_fps=8.0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return timm.create_model("test_efficientnet", num_classes=7).eval()


@pytest.mark.parametrize(
    ("model", "size", "grid"),
    [("test_efficientnet", 64, 2), ("test_vit", 64, 4), ("swin_tiny_patch4_window7_224", 224, 7)],
)
def test_tokens_are_the_last_feature_map_of_every_frame(model: str, size: int, grid: int) -> None:
    encoder = initial_encoder(settings(model, size=size), 0).eval()
    tokens = encoder.encode(CLIPS)
    assert encoder.grid == (3, grid, grid) and tokens.shape == (2, 3 * grid * grid, encoder.width)
    alone = encoder.encode(CLIPS[:, 1:2].expand(-1, 3, -1, -1))
    each = grid * grid
    torch.testing.assert_close(tokens[:, each : 2 * each], alone[:, :each], rtol=1e-4, atol=1e-5)


PUBLISHED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "plain.pth": lambda state: state,
    "nested.pt": lambda state: {"state_dict": state},
    "parallel.pth": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "renamed.pth": lambda state: {f"layer.{number}": tensor for number, tensor in enumerate(state.values())},
    "plain.safetensors": lambda state: state,
}
"""The same weights as people publish them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_found_by_name_or_order_and_travel_alone(network: nn.Module, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (torch.save if path.suffix in (".pth", ".pt") else save_file)(PUBLISHED[name](network.state_dict()), path)
    encoder = initial_encoder(settings("test_efficientnet", path), 0).eval()
    pixels = encoder.pixels(CLIPS)
    expected = network.forward_features(pixels.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(encoder(pixels), expected.permute(0, 2, 3, 1).reshape(2, 12, -1))
    initialise(encoder.settings, [0], tmp_path / "encoders", "natural")
    path.unlink()
    again, record = load_encoder(tmp_path / "encoders" / "seed0")
    torch.testing.assert_close(again.encode(CLIPS), encoder.encode(CLIPS))
    assert (record.settings, record.objective) == (encoder.settings, "imported")


def test_files_that_do_not_fit_are_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth does not hold the weights of test_vit: \d+ of \d+ tensors"):
        initial_encoder(settings("test_vit", tmp_path / "a.pth"), 0)
    state = network.state_dict()
    first, *rest = state
    torch.save({"other": state[first], **{name: state[name] for name in rest}}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors differ, {first}"):  # order is for other names
        initial_encoder(settings("test_efficientnet", tmp_path / "half.pth"), 0)
    with pytest.raises(SettingsError, match="no model 'test_efficientnt'") as caught:
        Frames(settings("test_efficientnt"))
    assert "Did you mean 'test_efficientnet'" in caught.value.remedy
    with pytest.raises(SettingsError, match="kind 'frames', which takes no masks"):  # a convolutional network
        Mae(settings("test_efficientnet"), MaeSettings(), 0, 1)


def test_masked_tokens_are_those_of_the_shown_patches_alone_and_cover_its_pixels() -> None:
    encoder = initial_encoder(settings("vit_tiny_patch16_224", size=48, frames=2), 0)
    assert isinstance(encoder, Frames) and encoder.maskable and encoder.grid == (2, 3, 3)
    pixels = encoder.pixels(torch.randint(0, 255, (3, 2, 48, 48), dtype=torch.uint8))
    assert torch.equal(encoder.tubelets(pixels)[1, 9 + 5], pixels[1, 0, 1, 16:32, 32:48].flatten())
    shown = torch.zeros(3, 9, dtype=torch.bool)
    shown[0, [1, 5]] = shown[1, [0, 4, 8]] = shown[2, [2, 3]] = True
    with torch.no_grad():
        packed = encoder(pixels, shown.repeat(1, 2))
        net, expected = encoder.backbone, []
        for clip in range(3):  # one frame at a time
            for frame in range(2):
                tokens = net._pos_embed(net.patch_embed(pixels[clip, :, frame][None]))
                kept = torch.cat([tokens[:, :1], tokens[:, 1:][:, shown[clip]]], dim=1)
                expected.append(net.norm(net.blocks(kept))[0, 1:])
        torch.testing.assert_close(packed, torch.cat(expected))
        every = encoder(pixels, torch.ones(3, 18, dtype=torch.bool))
        torch.testing.assert_close(every.view(3, 18, -1), encoder(pixels))


def test_positions_of_another_frame_size_are_resampled(tmp_path: Path) -> None:
    large = settings("vit_tiny_patch16_224", size=96, frames=1)
    weights = initial_encoder(large, 0).backbone.state_dict()
    weights["pos_embed"] = torch.linspace(-1, 1, 6).repeat_interleave(6)[None, :, None].expand(1, 36, 192).clone()
    weights["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), weights["pos_embed"]], dim=1)
    save_file(weights, tmp_path / "w.safetensors")
    small = large.model_copy(update={"image_size": 48, "weights": str(tmp_path / "w.safetensors")})
    rows = initial_encoder(small, 0).backbone.pos_embed[0, 1:].view(3, 3, 192)[..., 0]
    assert torch.allclose(rows, rows[:, :1], atol=1e-4) and (rows[1:] > rows[:-1]).all()  # a ramp
    large = settings("vit_small_patch14_reg4_dinov2", size=56, frames=1)  # its class token has no position
    weights = initial_encoder(large, 0).backbone.state_dict()
    save_file({name: one.contiguous() for name, one in weights.items()}, tmp_path / "w.safetensors")
    same = large.model_copy(update={"weights": str(tmp_path / "w.safetensors")})
    assert torch.equal(initial_encoder(same, 1).backbone.pos_embed, weights["pos_embed"])
    assert initial_encoder(same.model_copy(update={"image_size": 28}), 1).backbone.pos_embed.shape == (1, 4, 384)
