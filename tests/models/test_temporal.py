"""The temporal part against loops over frames, and that padding is never seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from echolung.models.temporal import Layer, Temporal, TemporalShape, augmented_clips

CHOICES = [{"temporal": t, "pooling": p} for t in ("lstm", "global", "hybrid") for p in ("mean", "attention", "max")]


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, every parameter and buffer random: batch norm's statistics, too."""
    random = torch.Generator().manual_seed(0)
    for tensor in net.double().state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.2)
    return net.eval()


def test_a_layer_is_attention_and_depthwise_convolution_frame_by_frame() -> None:
    layer = randomised(Layer(TemporalShape(width=8, heads=2), local=True))
    p, x = layer.state_dict(), torch.randn(5, 8, dtype=torch.float64)

    def linear(name: str, one: Tensor, what: str = ".") -> Tensor:
        return F.linear(one, p[f"{name}{what}weight"], p[f"{name}{what}bias"])

    def scaled(name: str, one: Tensor) -> Tensor:
        return F.layer_norm(one, (8,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    qkv = [linear("attention", scaled("norm1", one), ".in_proj_").view(3, 2, 4) for one in x]
    spread = (p["norm.running_var"] + 1e-5).sqrt()
    lit = [(F.gelu(one) - p["norm.running_mean"]) / spread * p["norm.weight"] + p["norm.bias"] for one in x]
    for t, one in enumerate(x):
        heads = []
        for head in range(2):
            share = torch.stack([qkv[t][0, head] @ other[1, head] / 2 for other in qkv]).softmax(0)
            heads.append(sum(s * other[2, head] for s, other in zip(share, qkv, strict=True)))
        near = sum(p["conv.weight"][:, 0, k] * lit[t + k - 1] for k in range(3) if 0 <= t + k - 1 < 5)
        mixed = one + linear("attention.out_proj", torch.cat(heads)) + near + p["conv.bias"]
        expected = mixed + linear("mlp.fc2", F.gelu(linear("mlp.fc1", scaled("norm2", mixed))))
        torch.testing.assert_close(layer(x[None], torch.ones(1, 5, dtype=torch.bool))[0, t], expected)


@pytest.mark.parametrize("choices", CHOICES, ids=lambda one: "-".join(one.values()))
def test_a_short_video_does_not_see_its_padding(choices: dict[str, str]) -> None:
    net = randomised(Temporal(5, 7, 3, TemporalShape(width=8, heads=2, dropout=0.0, **choices)))
    clips, valid, whole = (
        torch.randn(4, 7, 5, dtype=torch.float64),
        (torch.arange(7) < 4).expand(4, -1),
        net.state_dict(),
    )
    whole = {name: tensor.clone() for name, tensor in whole.items()}
    for training in (False, True):  # batch norm's statistics, too
        told = net.train(training)(clips, valid)
        after = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        net.load_state_dict(whole)
        torch.testing.assert_close(told, net(clips[:, :4], valid[:, :4]))
        torch.testing.assert_close(dict(net.state_dict()), after)
        assert (net(clips, ~torch.zeros_like(valid)) - told).abs().max() > 1e-4


def test_augmentation_is_one_draw_for_all_frames_of_a_clip() -> None:
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 24, 24), np.uint8))
    moved = augmented_clips(frame.expand(3, 5, -1, -1), torch.Generator().manual_seed(0))
    assert (moved == moved[:, :1]).all() and len({int(one.sum()) for one in [frame[0], *moved[:, :1]]}) == 4
