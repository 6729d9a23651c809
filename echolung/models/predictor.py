"""The predictor of V-JEPA 2: visible tokens in, hidden tokens out (Assran et al. 2025, arXiv 2506.09985)."""

import torch
from torch import nn

from echolung.models.encoder import Encoder
from echolung.models.rope import rotation
from echolung.models.vit import NORM_EPS, Block, initialise


class Predictor(nn.Module):
    """A narrow transformer over all positions of an encoder's clip: encoded tokens where visible, mask tokens, one per
    mask generator, elsewhere. It predicts `out` numbers per token, by default the encoder's width."""

    def __init__(
        self, encoder: Encoder, *, width: int, depth: int, heads: int, mlp_ratio: float, mask_tokens: int, out: int = 0
    ) -> None:
        super().__init__()
        self.grid, self.head_width = encoder.grid, width // heads
        self.predictor_embed = nn.Linear(encoder.width, width)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, width)) for _ in range(mask_tokens))
        self.predictor_blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.predictor_proj = nn.Linear(width, out or encoder.width)
        initialise(self, self.predictor_blocks)

    def forward(self, seen: torch.Tensor, visible: torch.Tensor, generator: int) -> torch.Tensor:
        """Packed encoded tokens (L, D) and a mask `visible` bool (B, N) on the CPU -> the hidden tokens (B*N-L, D)."""
        hidden = (~visible).flatten().nonzero()[:, 0].to(seen.device)
        return self._read(self._everywhere(seen, visible, generator)[hidden])

    def everywhere(self, seen: torch.Tensor, visible: torch.Tensor, generator: int) -> torch.Tensor:
        """The same at every position, hidden or not, in the order of the token indices: (B, N, D)."""
        return self._read(self._everywhere(seen, visible, generator)).unflatten(0, visible.shape)

    def _everywhere(self, seen: torch.Tensor, visible: torch.Tensor, generator: int) -> torch.Tensor:
        """Every position holds either a visible or a mask token, so each clip is a full sequence: (B * N, width)."""
        clips, tokens = visible.shape
        shown = visible.flatten().nonzero()[:, 0].to(seen.device)
        embedded = self.predictor_embed(seen)
        mask = self.mask_tokens[generator].to(embedded.dtype).view(1, -1).expand(clips * tokens, -1)
        x = mask.index_copy(0, shown, embedded).unflatten(0, (clips, tokens))
        turn = rotation(torch.arange(tokens, device=seen.device), self.grid, self.head_width)
        for block in self.predictor_blocks:
            x = block(x, turn)
        return x.flatten(0, 1)

    def _read(self, x: torch.Tensor) -> torch.Tensor:
        return self.predictor_proj(self.predictor_norm(x))
