"""Joint-embedding prediction on video, V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985).

A student encodes what a mask shows of a clip; a predictor tells from it the tokens that a teacher, a slow copy of the
student, computes for the hidden places of the whole clip.

Dimension letters: B clips of the batch over all workers, b those of this worker, T frames, N tokens of a clip, D width.
"""

from __future__ import annotations

import copy

import pydantic
import torch
import torch.nn.functional as F
from torch import nn

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.models.encoder import Encoder, EncoderSettings
from echolung.models.predictor import Predictor
from echolung.models.weights import initial_encoder
from echolung.pretraining.masking import MaskSettings, sample_masks


class JepaSettings(Parameters):
    """Joint-embedding prediction; the defaults are the paper's for ViT-L."""

    predictor_width: int = pydantic.Field(default=384, gt=0)
    predictor_depth: int = pydantic.Field(default=12, gt=0)
    predictor_heads: int = pydantic.Field(default=12, gt=0)
    masks: tuple[MaskSettings, ...] = pydantic.Field(
        default=(MaskSettings(blocks=8, scale=0.15), MaskSettings(blocks=2, scale=0.7)), min_length=1
    )
    ema: float = pydantic.Field(default=0.99925, ge=0, le=1)
    """Part of the teacher that is kept at each step."""


class Jepa(nn.Module):
    """Student, predictor and teacher; what is handed on is the teacher."""

    def __init__(self, encoder: EncoderSettings, settings: JepaSettings, seed: int) -> None:
        super().__init__()
        if encoder.grid[1] < 2:
            raise SettingsError(
                "a frame of one token cannot be masked", "Choose a smaller encoder.patch or a larger image_size."
            )
        self.settings = settings
        self.encoder = initial_encoder(encoder, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("predictor", seed))
            self.predictor = Predictor(
                encoder_width=encoder.width,
                width=settings.predictor_width,
                depth=settings.predictor_depth,
                heads=settings.predictor_heads,
                mlp_ratio=encoder.mlp_ratio,
                grid=encoder.grid,
                mask_tokens=len(settings.masks),
            )
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def draw(self, clips: int, generator: torch.Generator) -> list[torch.Tensor]:
        """The random part of one step: visible tokens, bool (B, N), of each mask generator."""
        grid = self.encoder.settings.grid
        return [sample_masks(mask, clips, grid, generator) for mask in self.settings.masks]

    def forward(
        self, clips: torch.Tensor, masks: list[torch.Tensor], rows: slice
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and diagnostics of clips uint8 (b, T, H, W), which are `rows` of the batch that `masks` (B, N) are for.

        The loss is the mean of |prediction - normalised target| over the hidden tokens of the batch, averaged over the
        mask generators; its mean over workers is the loss of the whole batch, however unevenly masks fall on them.
        """
        pixels = self.encoder.pixels(clips)
        with torch.no_grad():
            teacher = self.teacher(pixels).float()
            targets = F.layer_norm(teacher, teacher.shape[-1:])  # without affine parameters, as in the paper
        losses = []
        for number, mask in enumerate(masks):
            visible = mask[rows]
            predicted = self.predictor(self.encoder(pixels, visible), visible, number)
            hidden = (~visible).flatten().nonzero()[:, 0].to(pixels.device)
            total = (predicted.float() - targets.flatten(0, 1)[hidden]).abs().sum()
            share = len(mask) / len(visible)
            losses.append(total * share / (int((~mask).sum()) * targets.shape[-1]))
        spread = targets.flatten(0, 1).std(dim=0).mean()
        return torch.stack(losses).mean(), {"target_std": spread}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher: teacher <- ema * teacher + (1 - ema) * student."""
        teacher: list[torch.Tensor] = list(self.teacher.parameters())
        student: list[torch.Tensor] = list(self.encoder.parameters())
        torch._foreach_lerp_(teacher, student, 1 - self.settings.ema)  # one kernel launch for all tensors

    @property
    def result(self) -> Encoder:
        """The encoder that training is for."""
        return self.teacher


def weight_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices decay; biases and norms, which are one-dimensional, do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
