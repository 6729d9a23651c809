"""The video ViT and the predictor: the published sizes and names, and packed masking against masked attention."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from echolung.models.predictor import Predictor
from echolung.models.rope import rotate, rotation
from echolung.models.vit import VideoViT

torch.set_num_threads(1)

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


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(2)
    model = Predictor(encoder_width=48, width=36, depth=2, heads=2, mlp_ratio=2.0, grid=GRID, mask_tokens=2)
    visible = torch.rand(3, 18) < 0.5
    seen = torch.randn(int(visible.sum()), 48)
    together = model(seen, visible, 0)
    apart = [model(part, visible[[index]], 0) for index, part in enumerate(seen.split(visible.sum(1).tolist()))]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)
    assert together.shape == (int((~visible).sum()), 48)
