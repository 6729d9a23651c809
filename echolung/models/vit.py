"""The video vision transformer of V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985).

Pre-norm blocks, fused qkv with bias, exact GELU, rotary positions on queries and keys, no class token, no learned
positions. Parameters are named as in the published checkpoints.

Clips of which each shows another number of tokens are *packed*: their tokens stand one after the other in a single
sequence (1, L, D) with the `lengths` of the clips beside it. Nothing is padded or cut to a common length, so no
token is favoured by where it lies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from echolung.models.rope import rotate, rotation

Rotation = tuple[torch.Tensor, torch.Tensor]

INIT_STD = 0.02
NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, turn: Rotation, lengths: list[int] | None) -> torch.Tensor:
        """Tokens (B, N, D) -> (B, N, D); with `lengths`, (1, L, D) in which every clip attends to itself alone."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, E)
        attended = _attend(rotate(query, *turn), rotate(key, *turn), value, lengths)
        return self.proj(attended.transpose(1, 2).flatten(2))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    if lengths is None:
        return F.scaled_dot_product_attention(query, key, value)
    # One call per clip costs nothing beside the arithmetic on a CPU; a GPU has a kernel for it
    # (torch.nn.attention.varlen), and this is the one place where it goes.
    clips = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*clip) for clip in clips], dim=2)


class MLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(self, x: torch.Tensor, turn: Rotation, lengths: list[int] | None = None) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), turn, lengths)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Linear embedding of the tubelets that a mask shows."""

    def __init__(self, width: int, channels: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        # Weights are kept, named and initialised as a convolution's; they are applied as a matrix,
        # so that tubelets which nobody sees are not computed.
        self.proj = nn.Conv3d(channels, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def grid(self, pixels: torch.Tensor) -> tuple[int, int, int]:
        """(time, height, width) of the tokens of pixels (B, C, T, S, S)."""
        frames, height, width = pixels.shape[2:]
        return frames // self.tubelet, height // self.patch, width // self.patch

    def forward(self, pixels: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels (B, C, T, S, S) -> (B, N, D), or (L, D) for flat token indices `shown` (L,) over the whole batch."""
        time, height, width = self.grid(pixels)
        cut = pixels.unflatten(4, (width, -1)).unflatten(3, (height, -1)).unflatten(2, (time, -1))
        tubelets = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)  # (B, N, C * tubelet * patch * patch)
        if shown is not None:
            tubelets = tubelets.flatten(0, 1)[shown]
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """Clips to tokens, all of them or those that a mask shows."""

    def __init__(
        self, *, width: int, depth: int, heads: int, mlp_ratio: float, channels: int, tubelet: int, patch: int
    ) -> None:
        super().__init__()
        self.head_width = width // heads
        self.patch_embed = PatchEmbedding(width, channels, tubelet, patch)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        initialise(self, self.blocks)

    def forward(self, pixels: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels float (B, C, T, S, S) -> normalised tokens (B, N, D).

        With a mask `visible` bool (B, N), kept on the CPU: the visible tokens alone, packed (L, D), clip after clip and
        each clip in the order of its token indices.
        """
        grid = self.patch_embed.grid(pixels)
        if visible is None:
            ids = torch.arange(grid[0] * grid[1] * grid[2], device=pixels.device)
            return self._transform(self.patch_embed(pixels), rotation(ids, grid, self.head_width), None)
        ids = visible.nonzero()[:, 1].to(pixels.device)
        shown = visible.flatten().nonzero()[:, 0].to(pixels.device)
        tokens = self.patch_embed(pixels, shown)[None]
        lengths = visible.sum(dim=1).tolist()
        return self._transform(tokens, rotation(ids, grid, self.head_width), lengths)[0]

    def _transform(self, tokens: torch.Tensor, turn: Rotation, lengths: list[int] | None) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens, turn, lengths)
        return self.norm(tokens)


def initialise(module: nn.Module, blocks: nn.ModuleList) -> None:
    """Truncated normal weights, zero biases, residual branches scaled down by the square root of twice their depth."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(part.weight, std=INIT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for number, block in enumerate(blocks, start=1):
            assert isinstance(block, Block)
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.div_((2.0 * number) ** 0.5)
