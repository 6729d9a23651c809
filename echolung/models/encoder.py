"""The encoder: grey clips in, tokens out, with its preprocessing as part of it."""

from __future__ import annotations

from typing import Literal, Self

import pydantic
import torch
import torch.nn.functional as F

from echolung.core.parameters import Parameters
from echolung.models.rope import rotated_width
from echolung.models.vit import VisionTransformer


class EncoderSettings(Parameters):
    """Shape of the encoder and what a clip must be to enter it."""

    width: int = pydantic.Field(gt=0, le=16384)
    depth: int = pydantic.Field(gt=0, le=256)
    heads: int = pydantic.Field(gt=0)
    mlp_ratio: float = pydantic.Field(4.0, gt=0, le=16)
    image_size: int = pydantic.Field(gt=0, le=4096)
    """Side of the square frames that enter the encoder, in pixels."""
    frames: int = pydantic.Field(gt=0, le=4096)
    """Frames of a clip."""
    clip_fps: float = pydantic.Field(gt=0)
    """Frames per second at which a clip is sampled, whatever the video's own rate."""
    tubelet: int = pydantic.Field(2, gt=0)
    patch: int = pydantic.Field(16, gt=0)
    channels: Literal[1, 3] = 1
    """1 takes the grey frame as it is; 3 repeats it, for weights that were trained on colour."""
    mean: float = 0.15
    std: float = pydantic.Field(0.2, gt=0)
    """Mean and standard deviation of pixel / 255, for normalisation; ultrasound is mostly dark."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads or rotated_width(self.width // self.heads) < 2:
            raise ValueError("width must be a multiple of heads, with at least 6 channels per head")
        if self.image_size % self.patch:
            raise ValueError("image_size must be a multiple of patch")
        if self.frames % self.tubelet:
            raise ValueError("frames must be a multiple of tubelet")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along (time, height, width)."""
        return self.frames // self.tubelet, self.image_size // self.patch, self.image_size // self.patch


class Encoder(VisionTransformer):
    """A vision transformer together with its preprocessing; its weights are drawn from torch's default generator."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            mlp_ratio=settings.mlp_ratio,
            channels=settings.channels,
            tubelet=settings.tubelet,
            patch=settings.patch,
        )
        self.settings = settings

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def tokens(self) -> int:
        """Tokens of one clip."""
        time, height, width = self.settings.grid
        return time * height * width

    def pixels(self, clips: torch.Tensor) -> torch.Tensor:
        """Grey clips uint8 (B, T, H, W) -> resized and normalised float (B, C, T, S, S) on the encoder's device."""
        settings = self.settings
        assert clips.dtype == torch.uint8 and clips.dim() == 4, "clips are uint8 (B, T, H, W)"
        pixels = clips.to(self.norm.weight.device, non_blocking=True).float()
        if pixels.shape[2:] != (settings.image_size, settings.image_size):
            size = (settings.image_size, settings.image_size)
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        pixels = (pixels / 255 - settings.mean) / settings.std
        return pixels[:, None].expand(-1, settings.channels, -1, -1, -1)

    @torch.no_grad()
    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Grey clips uint8 (B, T, H, W) of `settings.frames` frames -> tokens float32 (B, N, D), without gradient.

        On a GPU the arithmetic is bfloat16, as in training.
        """
        assert clips.shape[1] == self.settings.frames, "a clip has the encoder's number of frames"
        pixels = self.pixels(clips)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            return self(pixels).float()
