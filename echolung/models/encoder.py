"""What every encoder has in common: its settings, its preprocessing, and tokens on a known grid.

Dimension letters in `echolung.models`: B clips, C channels, T frames, H W height and width of the stored frames, S side
of the encoder's frames, N tokens of a clip, L packed tokens, D width.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import nn

from echolung.core.parameters import Parameters
from echolung.models.exchange import fit, read_tensors


class ClipSettings(Parameters):
    """What a clip must be to enter an encoder; each kind of encoder adds its own shape."""

    kind: str  # name in ENCODERS
    image_size: int = pydantic.Field(gt=0, le=4096)  # side of the square frames, in pixels
    frames: int = pydantic.Field(gt=0, le=4096)  # frames of a clip; 1 for an encoder of single images
    clip_fps: float = pydantic.Field(gt=0)
    """Frames per second at which a clip is sampled, whatever the video's own rate."""
    channels: Literal[1, 3] = 1
    """1 takes the grey frame as it is; 3 repeats it, for weights that were trained on colour."""
    mean: float | tuple[float, float, float] = 0.15
    std: float | tuple[float, float, float] = 0.2
    """Mean and standard deviation of pixel / 255, for normalisation; ultrasound is mostly dark. One per channel for
    weights that were trained on colour."""
    weights: str = ""  # what it starts from: a file or folder, from the project's folder; empty for random ones

    @pydantic.model_validator(mode="after")
    def _normalisation(self) -> Self:
        if self.channels == 1 and not (isinstance(self.mean, float) and isinstance(self.std, float)):
            raise ValueError("with one channel, mean and std are one number each")
        if np.min(self.std) <= 0:
            raise ValueError("std must be greater than 0")
        return self


def in_bf16(precision: Literal["auto", "bf16", "float32"], device: str) -> bool:
    """Whether to train in bfloat16 on a device of type cuda or cpu; auto: where it has instructions for it."""
    able = torch.cpu.get_capabilities() if device == "cpu" else {}
    has = device == "cuda" or able.get("amx_bf16") or able.get("avx512_bf16")
    return precision == "bf16" or (precision == "auto" and bool(has))


def effective_rank(features: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885) of features (V, D): exp of the entropy of the singular values,
    from 1 (all rows on one line: a collapsed encoder) to min(V, D); 0 if any feature is not finite."""
    if not np.isfinite(features).all():
        return 0.0
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    p = values / max(values.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def tubelets(pixels: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Pixels (B, C, T, S, S) cut into a grid (time, height, width) of tokens: (B, N, C * pixels of a tubelet)."""
    time, height, width = grid
    cut = pixels.unflatten(4, (width, -1)).unflatten(3, (height, -1)).unflatten(2, (time, -1))
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


class Encoder(nn.Module):
    """Grey clips to tokens. A kind of encoder sets `Settings` and defines `width`, `grid` and `forward`."""

    Settings: ClassVar[type[ClipSettings]]
    maskable: bool = False
    """Whether `forward(pixels, visible)` encodes only the tokens that a mask bool (B, N) shows, packed (L, D)."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings: ClipSettings = settings

    @property
    def origin(self) -> str:
        """What its weights are before training: `none` for random ones, `imported` for those of a file."""
        return "imported" if self.settings.weights else "none"

    @property
    def body(self) -> nn.Module:
        """The module that weights are loaded into."""
        return self

    def adapt(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Other people's tensors under the names of `body`."""
        return tensors

    def start(self) -> None:
        """Load what the encoder starts from, if anything; raises CheckpointError if it belongs to another model."""
        if place := self.settings.weights:
            what = f"{place} does not hold the weights of {getattr(self.settings, 'model', 'this encoder')}"
            fit(self.body, self.adapt(read_tensors(place)), what=what)

    @property
    def width(self) -> int:
        """Channels of a token."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of one clip along (time, height, width); a token's flat index runs over width fastest."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Tokens of one clip."""
        return math.prod(self.grid)

    def pixels(self, clips: torch.Tensor) -> torch.Tensor:
        """Grey clips uint8 (B, T, H, W) -> resized and normalised float (B, C, T, S, S) on the encoder's device."""
        settings = self.settings
        assert clips.dtype == torch.uint8 and clips.dim() == 4, "clips are uint8 (B, T, H, W)"
        pixels = clips.to(next(self.parameters()).device, non_blocking=True).float()
        size = (settings.image_size, settings.image_size)
        if pixels.shape[2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(one, device=pixels.device).view(-1, 1, 1, 1) for one in (settings.mean, settings.std))
        return ((pixels[:, None] / 255 - mean) / std).expand(-1, settings.channels, -1, -1, -1)

    def tubelets(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, T, S, S) -> (B, N, P): the grey pixels that each token covers, from the first channel."""
        return tubelets(pixels[:, :1], self.grid)

    @torch.no_grad()
    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Grey clips uint8 (B, T, H, W) -> tokens float32 (B, N, D), without gradient; bfloat16 inside on a GPU."""
        assert clips.shape[1] == self.settings.frames, f"a clip has {self.settings.frames} frames"
        pixels = self.pixels(clips)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            return self(pixels).float()
