"""Joint-embedding prediction on video, V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985). A student encodes the visible
part of a clip; a predictor tells the tokens that its slow copy, the teacher, gives the hidden part of the whole."""

import copy
from typing import ClassVar

import pydantic
import torch
import torch.nn.functional as F

from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.predictor import Predictor
from echolung.pretraining.masking import MaskSettings, sample_masks
from echolung.pretraining.objective import Objective, follow, following, maskable_encoder
from echolung.pretraining.sampling import CropSettings


class JepaSettings(Parameters):
    """Joint-embedding prediction; the defaults are the paper's for ViT-L."""

    predictor_width: int = pydantic.Field(default=384, gt=0)
    predictor_depth: int = pydantic.Field(default=12, gt=0)
    predictor_heads: int = pydantic.Field(default=12, gt=0)
    predictor_mlp_ratio: float = pydantic.Field(default=4.0, gt=0)
    masks: tuple[MaskSettings, ...] = pydantic.Field(
        default=(MaskSettings(blocks=8, scale=0.15), MaskSettings(blocks=2, scale=0.7)), min_length=1
    )
    ema: float | None = pydantic.Field(default=0.99925, ge=0, le=1)
    """Fraction of the teacher that is kept at each step. null follows the length of the run: a horizon of 5% of its
    steps at first, of 1,000 steps (.999) at the end; .99925 would leave a third of a 1,400-step teacher untrained."""
    crop: CropSettings = CropSettings()


class Jepa(Objective):
    """Student, predictor and teacher; handed on is whichever predicts held-out videos better, else the teacher."""

    Settings: ClassVar[type[JepaSettings]] = JepaSettings

    def __init__(self, encoder: ClipSettings, settings: JepaSettings, seed: int, steps: int) -> None:
        super().__init__(encoder, settings, seed, steps)
        self.encoder = maskable_encoder(encoder, seed, "jepa")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("predictor", seed))
            self.predictor = Predictor(
                self.encoder,
                width=settings.predictor_width,
                depth=settings.predictor_depth,
                heads=settings.predictor_heads,
                mlp_ratio=settings.predictor_mlp_ratio,
                mask_tokens=len(settings.masks),
            )
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    @property
    def handed_on(self) -> Encoder:
        return self.teacher

    @property
    def choices(self) -> dict[str, Encoder]:
        return {"teacher": self.teacher, "student": self.encoder}

    def momentum(self, step: int) -> float:
        """Fraction of the teacher that is kept at `step`."""
        return following(step, self.steps) if self.settings.ema is None else self.settings.ema

    def draw(self, clips: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Visible tokens, bool (B, N), of each mask generator."""
        return [sample_masks(mask, clips, self.encoder.grid, generator) for mask in self.settings.masks]

    def forward(
        self, views: torch.Tensor, drawn: list[torch.Tensor], rows: slice, context: Encoder | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """Loss of clips uint8 (b, T, S, S) under the masks `drawn`, each (B, N): the mean |prediction - normalised
        target| over the hidden tokens of the whole batch, whichever worker has them, averaged over the masks."""
        pixels = self.encoder.pixels(views)
        with torch.no_grad():
            teacher = self.teacher(pixels).float()
            targets = F.layer_norm(teacher, teacher.shape[-1:])  # without affine parameters, as in the paper
        losses = []
        for number, mask in enumerate(drawn):
            visible = mask[rows]
            predicted = self.predictor((context or self.encoder)(pixels, visible), visible, number)
            hidden = (~visible).flatten().nonzero()[:, 0].to(pixels.device)
            total = (predicted.float() - targets.flatten(0, 1)[hidden]).abs().sum()
            workers = len(mask) / len(visible)
            losses.append(total * workers / (int((~mask).sum()) * targets.shape[-1]))
        spread = targets.flatten(0, 1).std(dim=0).mean()
        return torch.stack(losses).mean(), {"target_std": spread}

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        """teacher <- momentum * teacher + (1 - momentum) * student."""
        follow(self.teacher, self.encoder, self.momentum(step))
        return {"ema": self.momentum(step)}
