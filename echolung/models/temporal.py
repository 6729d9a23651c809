"""From frames to one answer: a backbone on each, attention over the whole clip, convolution over neighbouring frames.

Dimension letters: B clips, T frames (time steps), D width of what is read, C outputs, S pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echolung.core.parameters import Parameters
from echolung.models.frames import Frames
from echolung.models.vit import MLP, NORM_EPS


class TemporalShape(Parameters):
    """What the temporal part is made of."""

    temporal: Literal["lstm", "global", "hybrid"] = "hybrid"
    """An LSTM, attention over all frames, or that and depth-wise convolution."""
    pooling: Literal["mean", "attention", "max"] = "mean"
    width: int = pydantic.Field(96, ge=8, multiple_of=8)
    heads: Literal[1, 2, 4, 8] = 4
    layers: int = pydantic.Field(2, ge=1)
    kernel: Literal[3, 5, 7, 9] = 3  # frames that the convolution covers
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)


def of_valid(norm: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
    """`norm` of the valid steps of x (B, T, D); zeros at the others, whose values reach nothing."""
    found = torch.zeros_like(x)
    found[valid] = norm(x[valid]).to(x.dtype)
    return found


class Layer(nn.Module):
    """x + MHSA(LN x) + DWConv(BN GELU x), then x + FFN(LN x); without the convolution where not `local`."""

    def __init__(self, shape: TemporalShape, local: bool) -> None:
        super().__init__()
        width, kernel = shape.width, shape.kernel
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = nn.MultiheadAttention(width, shape.heads, batch_first=True)
        self.mlp, self.dropout = MLP(width, 4 * width), nn.Dropout(shape.dropout)
        self.norm = nn.BatchNorm1d(width) if local else None
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width) if local else None

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        seen = self.norm1(x)
        mixed = self.attention(seen, seen, seen, key_padding_mask=~valid, need_weights=False)[0]
        if self.norm is not None and self.conv is not None:
            mixed = mixed + self.conv(of_valid(self.norm, F.gelu(x), valid).transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.mlp(self.norm2(x)))


class Temporal(nn.Module):
    """Vectors (B, T, D), or clips uint8 (B, T, S, S) for the backbone, and which steps are frames, bool (B, T): (B, C).
    Channels get one scale and learned positions, layers mix, the valid steps, which must come first, are pooled."""

    def __init__(
        self, read: int, frames: int, outputs: int, shape: TemporalShape, backbone: Frames | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        width, local, lstm = shape.width, shape.temporal == "hybrid", shape.temporal == "lstm"
        self.norm, self.enter = nn.BatchNorm1d(read, affine=False), nn.Linear(read, width)
        self.positions = nn.Parameter(torch.empty(frames, width).normal_(std=0.02))
        self.lstm = nn.LSTM(width, width, shape.layers, batch_first=True) if lstm else None
        self.layers = nn.ModuleList([] if lstm else [Layer(shape, local) for _ in range(shape.layers)])
        self.leave, self.pooling = nn.LayerNorm(width, eps=NORM_EPS), shape.pooling
        self.query = nn.Linear(width, 1)
        self.head = nn.Sequential(MLP(width, width), nn.Dropout(shape.dropout), nn.Linear(width, outputs))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        if self.backbone is not None:  # a batch norm would see frames that are not valid
            vectors = self.backbone(self.backbone.pixels(x).transpose(1, 2)[valid][:, :, None]).mean(dim=1)
            x = vectors.new_zeros(*valid.shape, vectors.shape[-1])
            x[valid] = vectors
        x = self.enter(of_valid(self.norm, x.to(self.positions.dtype), valid)) + self.positions[: x.shape[1]]
        if self.lstm is not None:
            with torch.autocast(x.device.type, enabled=False):  # a CPU has no LSTM in half precision
                x = x + self.lstm(x.to(self.positions.dtype))[0]
        for layer in self.layers:
            x = layer(x, valid)
        x, kept = self.leave(x), valid[..., None]
        if self.pooling == "max":
            return self.head(x.masked_fill(~kept, -torch.inf).amax(dim=1))
        score = self.query(x) if self.pooling == "attention" else torch.zeros_like(x[..., :1])
        return self.head((score.masked_fill(~kept, -torch.inf).softmax(dim=1) * x).sum(dim=1))


def augmented_clips(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips uint8 (B, T, S, S), turned (15 degrees), scaled, shifted and lit by one draw for all frames of a clip."""
    draw = torch.rand(5, len(clips), 1, 1, generator=generator) - 0.5
    angle, scale, light = draw[0] * np.pi / 6, 1 + 0.3 * draw[1], torch.exp(0.7 * draw[4])[..., None]
    rows = [torch.cat([angle.cos(), -angle.sin(), 0.32 * scale * draw[2]], dim=2)]
    rows += [torch.cat([angle.sin(), angle.cos(), 0.32 * scale * draw[3]], dim=2)]
    grid = F.affine_grid(torch.cat(rows, dim=1) / scale, list(clips.shape), align_corners=False)
    moved = F.grid_sample(clips.float() / 255, grid.to(clips.device), align_corners=False)
    return (255 * moved ** light.to(clips.device)).round().to(torch.uint8)
