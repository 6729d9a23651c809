"""Masked pixel reconstruction on video, VideoMAE (Tong et al. 2022, arXiv 2203.12602).

The encoder sees a few tubes of a clip: the same positions in every frame, so that a hidden tube cannot be copied from
its neighbours in time. A narrow decoder predicts the hidden tubelets' pixels, of mean 0 and deviation 1 in each.
"""

import pydantic
import torch

from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.predictor import Predictor
from echolung.pretraining.masking import sample_tubes
from echolung.pretraining.objective import Objective, maskable_encoder
from echolung.pretraining.sampling import CropSettings

EPSILON = 1e-6  # added to a tubelet's variance: black corners stay black


class MaeSettings(Parameters):
    """Masked reconstruction; the defaults are for a ViT-Ti on a laptop."""

    decoder_width: int = pydantic.Field(default=96, gt=0)
    decoder_depth: int = pydantic.Field(default=2, gt=0)
    decoder_heads: int = pydantic.Field(default=3, gt=0)
    decoder_mlp_ratio: float = pydantic.Field(default=4.0, gt=0)
    visible: float = pydantic.Field(default=0.2, gt=0, lt=1)  # share of the tubes that the encoder sees
    crop: CropSettings = CropSettings()


class Mae(Objective):
    """Encoder and decoder; the encoder is handed on."""

    Settings = MaeSettings

    def __init__(self, encoder: ClipSettings, settings: MaeSettings, seed: int, steps: int) -> None:
        super().__init__(encoder, settings, seed, steps)
        self.encoder = maskable_encoder(encoder, seed, "mae")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("decoder", seed))
            self.decoder = Predictor(
                self.encoder,
                width=settings.decoder_width,
                depth=settings.decoder_depth,
                heads=settings.decoder_heads,
                mlp_ratio=settings.decoder_mlp_ratio,
                mask_tokens=1,
                out=encoder.frames * encoder.image_size**2 // self.encoder.tokens,
            )

    @property
    def handed_on(self) -> Encoder:
        return self.encoder

    def draw(self, clips: int, generator: torch.Generator) -> torch.Tensor:
        """Visible tokens, bool (B, N)."""
        return sample_tubes(self.settings.visible, clips, self.encoder.grid, generator)

    def forward(
        self, views: torch.Tensor, drawn: torch.Tensor, rows: slice
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """Mean squared error over the pixels of the hidden tubelets of clips uint8 (b, T, S, S)."""
        pixels, visible = self.encoder.pixels(views), drawn[rows]
        hidden = (~visible).flatten().nonzero()[:, 0].to(pixels.device)
        target = self.encoder.tubelets(pixels).flatten(0, 1)[hidden].float()
        variance, mean = torch.var_mean(target, dim=1, keepdim=True, correction=0)
        target = (target - mean) / (variance + EPSILON).sqrt()
        predicted = self.decoder(self.encoder(pixels, visible), visible, 0).float()
        return (predicted - target).square().mean(), {}
