"""V-JEPA 2: equal to an independent implementation; weights of every published format come in, and go out again."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_encoder import Bomb
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from echolung.core.errors import CheckpointError, SettingsError
from echolung.models.encoders import initial_encoder
from echolung.models.exchange import IMAGENET, as_huggingface, as_meta, export, fit, read_tensors, vit_shape
from echolung.models.predictor import Predictor
from echolung.models.vit import VideoViT

WIDTH, DEPTH, HEADS, GRID = 192, 2, 3, (2, 3, 3)
PREDICTOR = {"width": 96, "depth": 2, "heads": 3, "mlp_ratio": 4.0, "mask_tokens": 10}


@pytest.fixture(scope="module")
def theirs() -> VJEPA2Model:
    torch.manual_seed(0)
    config = VJEPA2Config(
        crop_size=48, frames_per_clip=4, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        pred_hidden_size=96, pred_num_hidden_layers=2, pred_num_attention_heads=3, initializer_range=0.2,
    )  # fmt: skip
    model = VJEPA2Model(config).eval()
    with torch.no_grad():  # biases, norms and mask tokens start at constants that hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def settings(**changes: Any) -> Any:
    shape = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "image_size": 48, "frames": 4, "clip_fps": 8.0, **IMAGENET}
    return VideoViT.Settings(**shape | changes)


def ours(theirs: VJEPA2Model) -> tuple[VideoViT, Predictor]:
    encoder, state = VideoViT(settings()).eval(), theirs.state_dict()
    assert fit(encoder, as_meta(state)).whole
    predictor = Predictor(encoder, **PREDICTOR)
    names = {"predictor.embeddings.predictor_embeddings.": "predictor_embed."}
    names |= {"predictor.layernorm.": "predictor_norm.", "predictor.proj.": "predictor_proj."}
    layers = {name.replace("predictor.", "encoder."): one for name, one in state.items() if "predictor.layer." in name}
    own = {name.replace("blocks.", "predictor_blocks."): one for name, one in as_meta(layers).items()}
    for name, tensor in state.items():
        own |= {new + name.removeprefix(old): tensor for old, new in names.items() if name.startswith(old)}
    own |= {f"mask_tokens.{k}": one[None] for k, one in enumerate(state["predictor.embeddings.mask_tokens"][:, 0])}
    assert fit(predictor, own).whole
    return encoder, predictor.eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def test_encoder_and_predictor_equal_the_independent_implementation(theirs: VJEPA2Model) -> None:
    encoder, predictor = ours(theirs)
    pixels = torch.randn(2, 3, 4, 48, 48)
    video = pixels.transpose(1, 2)
    visible = torch.zeros(2, 18, dtype=torch.bool)
    visible[0, [0, 3, 7, 10, 16]] = visible[1, [1, 2, 9, 12, 17]] = True
    context, hidden = (torch.stack([one.nonzero()[:, 0] for one in mask]) for mask in (visible, ~visible))
    every = theirs(video, skip_predictor=True).last_hidden_state
    close(encoder(pixels), every)
    masked = encoder(pixels, visible).unflatten(0, (2, -1))  # their encoder takes no mask, its layers do
    x = theirs.encoder.embeddings(video).gather(1, context[..., None].expand(-1, -1, WIDTH))
    for layer in theirs.encoder.layer:
        x = layer(x, position_mask=context)[0]
    close(masked, theirs.encoder.layernorm(x))
    seen = every.gather(1, context[..., None].expand(-1, -1, WIDTH))
    found = theirs.predictor(every, [context], [hidden]).last_hidden_state
    close(predictor(seen.flatten(0, 1), visible, 1).unflatten(0, (2, -1)), found)


def published(theirs: VJEPA2Model, folder: Path) -> dict[str, Path]:
    """The same encoder in the layouts in which people publish it."""
    meta = {name: one for name, one in as_meta(theirs.state_dict()).items() if not name.startswith("predictor")}
    other = {name: torch.zeros_like(one) for name, one in meta.items()}

    def wrapped(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {prefix + name: one for name, one in tensors.items()}

    torch.save(
        {
            "encoder": wrapped("module.backbone.", other), "predictor": {}, "epoch": 3, "lr": 1e-4,
            "target_encoder": wrapped("module.backbone.", {**meta, "pos_embed": torch.zeros(1, 18, WIDTH)}),
        },
        folder / "vitl.pt",
    )  # fmt: skip
    extra = {"patch_embed_img.proj.weight": torch.zeros(2), "img_mod_embed": torch.zeros(2)}
    torch.save({"ema_encoder": wrapped("backbone.", meta | extra), "encoder": other}, folder / "echojepa.pt")
    save_file({name: one.contiguous() for name, one in meta.items()}, folder / "plain.safetensors")
    theirs.save_pretrained(folder / "hf")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["vitl.pt", "echojepa.pt", "plain.safetensors", "hf"])
def test_every_published_layout_gives_the_same_encoder(theirs: VJEPA2Model, tmp_path: Path, name: str) -> None:
    path = published(theirs, tmp_path)[name]
    tensors = as_meta(read_tensors(path))
    shape = vit_shape(tensors, path)
    assert {key: shape[key] for key in ("width", "depth", "heads", "patch", "tubelet", "mlp_ratio", "channels")} == {
        "width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch": 16, "tubelet": 2, "mlp_ratio": 4.0, "channels": 3
    }  # fmt: skip
    encoder = initial_encoder(settings(weights=str(path)), 0)
    assert encoder.origin == "imported"
    clips = torch.randint(0, 255, (2, 4, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] for name in ("mean", "std"))
    video = (clips[:, :, None] / 255 - mean) / std
    with torch.no_grad():
        close(encoder.encode(clips), theirs(video, skip_predictor=True).last_hidden_state)


def test_what_a_file_has_too_much_or_too_little_is_listed(theirs: VJEPA2Model, tmp_path: Path) -> None:
    tensors = as_meta(read_tensors(published(theirs, tmp_path)["echojepa.pt"]))
    encoder = VideoViT(settings())
    assert sorted(fit(encoder, tensors).unused) == ["img_mod_embed", "patch_embed_img.proj.weight"]
    del tensors["norm.bias"]
    tensors["blocks.1.attn.qkv.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError, match=r"2 of 28 tensors differ, blocks.1.attn.qkv.bias"):
        fit(encoder, tensors)
    before = encoder.norm.bias.detach().clone()
    match = fit(encoder, tensors, partial=True)
    assert (match.missing, match.misshaped) == (["norm.bias"], {"blocks.1.attn.qkv.bias": "(5,), not (576,)"})
    assert len(match.used) == 26 and torch.equal(encoder.norm.bias, before)
    assert "1 missing: norm.bias" in match.lines()


@pytest.mark.parametrize("form", ["vjepa2", "huggingface"])
def test_what_goes_out_comes_back_bit_for_bit(theirs: VJEPA2Model, tmp_path: Path, form: str) -> None:
    encoder, _ = ours(theirs)
    target = tmp_path / ("out.pt" if form == "vjepa2" else "out")
    export(encoder, settings().model_dump(mode="json"), target, form)
    again = as_meta(read_tensors(target))
    state = encoder.state_dict()
    assert again.keys() == state.keys() and all(torch.equal(again[name], one) for name, one in state.items())
    assert as_meta(as_huggingface(state)).keys() == state.keys()
    if form == "huggingface":
        model = VJEPA2Model.from_pretrained(target)
        video = torch.randn(1, 4, 3, 48, 48)
        with torch.no_grad():
            close(model(video, skip_predictor=True).last_hidden_state, encoder(video.transpose(1, 2)))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"encoder": Bomb()}))
    torch.save({"encoder": {"a": 1}}, tmp_path / "empty.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"{}")
    (tmp_path / "folder").mkdir()
    for name in ("evil.pt", "empty.pt", "cut.safetensors", "folder", "absent.pt"):
        with pytest.raises(CheckpointError, match=rf"{name} cannot be read as weights"):
            read_tensors(tmp_path / name)
    with pytest.raises(CheckpointError, match="holds no video ViT"):
        vit_shape({"conv_stem.weight": torch.zeros(3)}, "lite0.pth")
    odd = {"patch_embed.proj.weight": torch.zeros(100, 1, 2, 16, 16), "blocks.0.mlp.fc1.weight": torch.zeros(400, 100)}
    with pytest.raises(SettingsError, match="no ViT of width 100"):
        vit_shape(odd, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 5}))
    assert vit_shape(odd, tmp_path)["heads"] == 5
