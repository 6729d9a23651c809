"""The video vision transformer of V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985).

Pre-norm blocks, fused qkv with bias, exact GELU, rotary positions on queries and keys, no learned positions. Parameters
are named as in the published checkpoints. Two options are not V-JEPA's: a class token, which DISCOVR distils, and
attention within each frame, which makes an image transformer of it.

Clips that show different numbers of tokens are *packed*: their tokens follow one another in a single sequence
(1, L, D), with where each clip begins beside it. Nothing is padded or cut to a common length, so tokens at every
position are equally likely to be kept.
"""

from collections.abc import Mapping
from typing import Literal, Self

import pydantic
import torch
import torch.nn.functional as F
from torch import nn

from echolung.models.encoder import ClipSettings, Encoder, tubelets
from echolung.models.exchange import as_meta
from echolung.models.rope import rotate, rotated_width, rotation

Rotation = tuple[torch.Tensor, torch.Tensor]
Packing = list[int] | tuple[torch.Tensor, int]
"""The lengths of packed clips; for the GPU's kernel where each begins, int32 (B + 1,), and the longest possible."""

INIT_STD = 0.02
NORM_EPS = 1e-6
SHORT = 512  # tokens


class Attention(nn.Module):
    """Multi-head self-attention, with rotary positions or, where `turn` is None, without any."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, turn: Rotation | None, packing: Packing | None) -> torch.Tensor:
        """Tokens (B, N, D) -> (B, N, D); with `packing`, (1, L, D) in which a clip attends only to itself."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, E)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        attended = _attend(query, key, value, packing)
        return self.proj(attended.transpose(1, 2).flatten(2))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing | None) -> torch.Tensor:
    if packing is None:
        return _dense(query, key, value)
    if isinstance(packing, tuple):
        from torch.nn.attention.varlen import varlen_attn

        begin, longest = packing
        query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))  # each (L, H, E)
        attended = varlen_attn(query, key, value, begin, begin, longest, longest)
        assert isinstance(attended, torch.Tensor)
        return attended.transpose(0, 1)[None]
    # One call per clip is cheap next to the arithmetic on a CPU.
    clips = zip(query.split(packing, 2), key.split(packing, 2), value.split(packing, 2), strict=True)
    return torch.cat([_dense(*clip) for clip in clips], dim=2)


def _dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """In bf16 on a CPU plain products are faster than torch's own kernel (docs/benchmarks.md); SHORT bounds memory."""
    if query.is_cuda or not torch.is_autocast_enabled("cpu") or query.shape[2] > SHORT:
        return F.scaled_dot_product_attention(query, key, value)
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1) @ value


def packed(lengths: torch.Tensor, longest: int, device: torch.device) -> Packing:
    """How clips of these lengths (B,), none of them above `longest`, are packed for `device`."""
    if device.type == "cuda" and torch.is_autocast_enabled("cuda"):  # its kernel takes half precision alone
        return F.pad(lengths.cumsum(0), (1, 0)).int().to(device), longest
    return lengths.tolist()


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

    def forward(self, x: torch.Tensor, turn: Rotation | None, packing: Packing | None = None) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), turn, packing)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Linear embedding of the tubelets that a mask shows."""

    def __init__(self, width: int, channels: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        # Weights are named, shaped and initialised as a convolution's, but applied as a matrix: hidden tubelets are
        # then never computed.
        self.proj = nn.Conv3d(channels, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def grid(self, pixels: torch.Tensor) -> tuple[int, int, int]:
        """(time, height, width) of the tokens of pixels (B, C, T, S, S)."""
        frames, height, width = pixels.shape[2:]
        return frames // self.tubelet, height // self.patch, width // self.patch

    def forward(self, pixels: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels (B, C, T, S, S) -> (B, N, D), or (L, D) for flat token indices `shown` (L,) over the whole batch."""
        cut = tubelets(pixels, self.grid(pixels))
        if shown is not None:
            cut = cut.flatten(0, 1)[shown]
        return F.linear(cut, self.proj.weight.flatten(1), self.proj.bias)


class VideoViTSettings(ClipSettings):
    """Shape of the video ViT."""

    kind: Literal["video-vit"] = "video-vit"
    width: int = pydantic.Field(gt=0, le=16384)
    depth: int = pydantic.Field(gt=0, le=256)
    heads: int = pydantic.Field(gt=0)
    mlp_ratio: float = pydantic.Field(4.0, gt=0, le=16)
    tubelet: int = pydantic.Field(2, gt=0)  # frames of one token
    patch: int = pydantic.Field(16, gt=0)  # side of one token, in pixels
    attention: Literal["clip", "frame"] = "clip"
    """What a token attends to. `frame`: its own frame alone, as in an image encoder; then tubelet is 1."""
    class_token: bool = False
    """One more token per clip, or per frame under attention `frame`, that stands for the whole; not among the tokens
    that are read."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads or rotated_width(self.width // self.heads) < 2:
            raise ValueError("width must be a multiple of heads, with at least 6 channels per head")
        if self.image_size % self.patch:
            raise ValueError("image_size must be a multiple of patch")
        if self.frames % self.tubelet:
            raise ValueError("frames must be a multiple of tubelet")
        if self.attention == "frame" and self.tubelet > 1:
            raise ValueError("with attention within a frame, tubelet must be 1")
        return self


class VideoViT(Encoder):
    """Clips to tokens, all of them or those that a mask shows; weights are drawn from torch's default generator."""

    Settings = VideoViTSettings
    maskable = True
    settings: VideoViTSettings

    def __init__(self, settings: VideoViTSettings) -> None:
        super().__init__(settings)
        self.head_width = settings.width // settings.heads
        self.patch_embed = PatchEmbedding(settings.width, settings.channels, settings.tubelet, settings.patch)
        self.blocks = nn.ModuleList(
            Block(settings.width, settings.heads, settings.mlp_ratio) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(settings.width, eps=NORM_EPS)
        initialise(self, self.blocks)
        self.class_token = nn.Parameter(INIT_STD * torch.randn(settings.width)) if settings.class_token else None

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def grid(self) -> tuple[int, int, int]:
        side = self.settings.image_size // self.settings.patch
        return self.settings.frames // self.settings.tubelet, side, side

    def adapt(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return as_meta(tensors)

    def forward(self, pixels: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels float (B, C, T, S, S) -> normalised tokens (B, N, D). With a mask `visible` bool (B, N) on the CPU:
        only the visible tokens, packed (L, D), clip after clip, each clip in the order of its token indices."""
        return self.summarised(pixels, visible)[1]

    def summarised(
        self, pixels: torch.Tensor, visible: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class tokens (B, D), or (B * T, D) under attention `frame`, (0, D) if it has none; and what `forward` says. A
        frame that attends to itself is a clip of its own in all that follows."""
        clips, firsts = len(pixels), int(self.class_token is not None)  # class tokens of a clip, before the others
        if self.settings.attention == "frame":
            pixels = pixels.transpose(1, 2).flatten(0, 1)[:, :, None]
            visible = visible if visible is None else visible.view(len(pixels), -1)
        grid = self.patch_embed.grid(pixels)
        if visible is None:
            ids = torch.arange(grid[0] * grid[1] * grid[2], device=pixels.device)
            x, (cosines, sines) = self.patch_embed(pixels), rotation(ids, grid, self.head_width)
            if self.class_token is not None:  # it has no position: it is not rotated
                x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
                cosines, sines = F.pad(cosines, (0, 0, 1, 0), value=1.0), F.pad(sines, (0, 0, 1, 0))
            x = self._transform(x, (cosines, sines), None)
            return x[:, :firsts].flatten(0, 1), x[:, firsts:].reshape(clips, -1, self.width)
        clip, ids = (index.to(pixels.device) for index in visible.nonzero(as_tuple=True))
        shown = visible.flatten().nonzero()[:, 0].to(pixels.device)
        x, (cosines, sines) = self.patch_embed(pixels, shown), rotation(ids, grid, self.head_width)
        lengths, longest = visible.sum(dim=1) + firsts, visible.shape[1] + firsts
        if self.class_token is None:
            return x[:0], self._transform_packed(x, (cosines, sines), lengths, longest)
        place = torch.arange(len(x), device=x.device) + clip + 1
        first = (lengths.cumsum(0) - lengths).to(x.device)
        x = self.class_token.to(x.dtype).expand(len(x) + len(first), -1).index_copy(0, place, x)
        cosines = cosines.new_ones(len(x), self.head_width).index_copy(0, place, cosines)
        sines = sines.new_zeros(len(x), self.head_width).index_copy(0, place, sines)
        x = self._transform_packed(x, (cosines, sines), lengths, longest)
        return x[first], x[place]

    def _transform_packed(self, x: torch.Tensor, turn: Rotation, lengths: torch.Tensor, longest: int) -> torch.Tensor:
        if len(lengths.unique()) > 1:
            return self._transform(x[None], turn, packed(lengths, longest, x.device))[0]
        each = len(lengths), 1, -1  # all show as many: a batch like any other
        turn = turn[0].unflatten(0, each), turn[1].unflatten(0, each)
        return self._transform(x.unflatten(0, (len(lengths), -1)), turn, None).flatten(0, 1)

    def _transform(self, tokens: torch.Tensor, turn: Rotation, packing: Packing | None) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens, turn, packing)
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
