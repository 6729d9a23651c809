"""The video ViT and the predictor: the published sizes and names, and packed masking against masked attention."""

from typing import Any

import pytest
import torch

from echolung.models.predictor import Predictor
from echolung.models.vit import VideoViT

torch.set_num_threads(1)

GRID = (2, 3, 3)


def small(**changes: Any) -> VideoViT:
    shape: dict[str, Any] = {"width": 48, "depth": 3, "heads": 2, "mlp_ratio": 2.0, "tubelet": 2, "patch": 4} | changes
    return VideoViT(VideoViT.Settings(image_size=12, frames=4, clip_fps=8.0, **shape))


def test_packed_clips_equal_masked_attention() -> None:
    """Packed clips of unequal length equal full-length attention in which hidden keys are masked."""
    torch.manual_seed(1)
    model = small()
    pixels = torch.randn(3, 1, 4, 12, 12)
    visible = torch.rand(3, 18) < torch.tensor([[0.3], [0.6], [0.9]])
    assert len(set(visible.sum(1).tolist())) > 1

    expected = reference(model, pixels, visible)
    torch.testing.assert_close(model(pixels, visible), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernel_of_a_gpu_equals_one_call_per_clip() -> None:
    torch.manual_seed(1)
    model = small(width=64)
    pixels, visible = torch.randn(3, 1, 4, 12, 12), torch.rand(3, 18) < torch.tensor([[0.3], [0.6], [0.9]])
    expected = model(pixels, visible)
    expected.square().mean().backward()
    gradient = model.blocks[0].attn.qkv.weight.grad.clone()
    model.zero_grad()
    model.cuda()
    with torch.autocast("cuda", torch.bfloat16):
        found = model(pixels.cuda(), visible)
    found.square().mean().backward()
    for ours, theirs in ((found, expected), (model.blocks[0].attn.qkv.weight.grad, gradient)):
        assert (ours.cpu() - theirs).norm() / theirs.norm() < 0.02


def reference(model: VideoViT, pixels: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The same network by explicit softmax over all tokens; returns the visible ones."""
    from echolung.models.rope import rotate, rotation

    x = model.patch_embed(pixels)
    turn = rotation(torch.arange(18), GRID, model.head_width)
    masked = torch.where(visible, 0.0, float("-inf"))[:, None, None, :]
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = rotate(q, *turn) @ rotate(k, *turn).transpose(-1, -2) / model.head_width**0.5 + masked
        x = x + block.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
    return model.norm(x)[visible]


def test_a_class_token_takes_part_without_a_position() -> None:
    """Clip by clip by explicit softmax over [class token, visible tokens], the first of them not rotated."""
    from echolung.models.rope import rotate, rotation

    torch.manual_seed(3)
    model, pixels = small(class_token=True), torch.randn(3, 1, 4, 12, 12)
    visible = torch.rand(3, 18) < torch.tensor([[0.3], [0.6], [1.1]])
    expected = []
    for clip, shown in zip(pixels, visible, strict=True):
        x = torch.cat([model.class_token[None], model.patch_embed(clip[None])[0][shown]])
        turn = rotation(shown.nonzero()[:, 0], GRID, model.head_width)
        for block in model.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)
            q, k = (torch.cat([part[:, :1], rotate(part[:, 1:], *turn)], dim=1) for part in (q, k))
            attended = (q @ k.mT / model.head_width**0.5).softmax(-1) @ v
            x = x + block.attn.proj(attended.transpose(0, 1).flatten(1))
            x = x + block.mlp(block.norm2(x))
        expected.append(model.norm(x))
    summary, tokens = model.summarised(pixels, visible)
    torch.testing.assert_close(summary, torch.stack([one[0] for one in expected]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens, torch.cat([one[1:] for one in expected]), atol=1e-5, rtol=1e-5)
    whole = torch.cat([part[2].view(-1, 48) for part in model.summarised(pixels)])  # the third clip shows all
    torch.testing.assert_close(whole, expected[2], atol=1e-5, rtol=1e-5)


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


def test_token_order_is_time_then_row_then_column() -> None:
    model = small()
    pixels = torch.zeros(1, 1, 4, 12, 12)
    changed = pixels.clone()
    changed[0, 0, 2:4, 4:8, 8:12] = 1.0  # second tubelet, second row, third column
    difference = (model.patch_embed(changed) - model.patch_embed(pixels)).abs().sum(-1)[0]
    assert difference.nonzero().flatten().tolist() == [9 + 3 + 2]


def predictor() -> Predictor:
    torch.manual_seed(2)
    return Predictor(small(), width=36, depth=2, heads=2, mlp_ratio=2.0, mask_tokens=2)


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch() -> None:
    model = predictor()
    visible = torch.rand(3, 18) < 0.5
    seen = torch.randn(int(visible.sum()), 48)
    together = model(seen, visible, 0)
    apart = [model(part, visible[[index]], 0) for index, part in enumerate(seen.split(visible.sum(1).tolist()))]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)
    assert together.shape == (int((~visible).sum()), 48)
