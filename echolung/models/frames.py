"""A timm backbone, frame by frame: weights of natural images, which pretraining on ultrasound must beat. A clip's
tokens are the backbone's last feature map of every frame."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from echolung.core.errors import SettingsError
from echolung.core.parameters import nearest
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.exchange import in_order

HEAD = 4  # tensors that a file may have beyond the backbone's: those of its classifier


class FramesSettings(ClipSettings):
    """A timm model and its weights."""

    kind: Literal["frames"] = "frames"
    model: str  # its name in timm
    channels: Literal[1, 3] = 3
    mean: float | tuple[float, float, float] = 0.449  # ImageNet's, of grey pixels
    std: float | tuple[float, float, float] = 0.226


class Frames(Encoder):
    """Every frame through the backbone; tokens (B, T * h * w, D)."""

    Settings = FramesSettings
    settings: FramesSettings

    def __init__(self, settings: FramesSettings) -> None:
        super().__init__(settings)
        import timm  # a second to import

        known = timm.list_models()
        if settings.model not in known:
            hint = nearest(settings.model, known, "Did you mean '{}'? ")
            raise SettingsError(f"timm has no model '{settings.model}'", f"{hint}timm.list_models() lists them.")
        options = {"num_classes": 0, "in_chans": settings.channels}
        try:
            self.backbone = timm.create_model(settings.model, img_size=settings.image_size, **options)
        except TypeError:  # a convolutional network takes any size
            self.backbone = timm.create_model(settings.model, **options)
        self.maskable = isinstance(self.backbone, timm.models.VisionTransformer)
        self.eval()
        with torch.no_grad():
            side = settings.image_size
            maps = self._maps(torch.zeros(1, settings.channels, side, side))
        self._shape = maps.shape[1:]

    @property
    def width(self) -> int:
        return int(self._shape[-1])

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.settings.frames, int(self._shape[0]), int(self._shape[1])

    def forward(self, pixels: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels float (B, C, T, S, S) -> tokens (B, N, D). A vision transformer takes a mask `visible` bool (B, N),
        the same in every frame of a clip: only the visible tokens, packed (L, D), clip after clip."""
        frames = pixels.transpose(1, 2).flatten(0, 1)
        if visible is None:
            return self._maps(frames).unflatten(0, (len(pixels), -1)).flatten(1, 3)
        shown = visible.unflatten(1, (self.settings.frames, -1))
        assert bool((shown == shown[:, :1]).all()), "a mask hides the same places of every frame"
        net: Any = self.backbone
        tokens = net.norm_pre(net._pos_embed(net.patch_embed(frames)))
        tokens = tokens.unflatten(0, (len(pixels), -1))  # (B, T, prefix + h * w, D)
        counts = shown[:, 0].sum(dim=1)
        found: dict[int, torch.Tensor] = {}
        for count in counts.unique():  # clips that show equally many places together
            clips = (counts == count).nonzero()[:, 0]
            places = shown[clips, 0].nonzero()[:, 1].view(len(clips), -1) + net.num_prefix_tokens
            prefix = torch.arange(net.num_prefix_tokens).expand(len(clips), -1)
            kept = torch.cat([prefix, places], dim=1)[:, None, :, None].to(tokens.device)
            some = tokens[clips.to(tokens.device)]
            some = some.gather(2, kept.expand(-1, some.shape[1], -1, some.shape[3])).flatten(0, 1)
            some = net.norm(net.blocks(some))[:, net.num_prefix_tokens :]
            found |= zip(clips.tolist(), some.unflatten(0, (len(clips), -1)).flatten(1, 2), strict=True)
        return torch.cat([found[clip] for clip in range(len(pixels))])

    def _maps(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (F, C, S, S) -> feature maps (F, h, w, D)."""
        found = self.backbone.forward_features(frames)
        if found.dim() == 3:  # tokens of a transformer
            found = found[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
            side = round(found.shape[1] ** 0.5)
            return found.unflatten(1, (side, side))
        return found.permute(0, 2, 3, 1) if found.shape[1] == self.backbone.num_features else found

    @property
    def body(self) -> nn.Module:
        return self.backbone

    def adapt(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """In the order of the file where no name agrees; positions resampled to the size of the frames."""
        theirs = in_order(self.backbone, tensors, HEAD)
        if self.maskable and "pos_embed" in theirs:  # of the frame size that the file was trained at
            from timm.layers import resample_abs_pos_embed

            net: Any = self.backbone
            size, prefix = net.patch_embed.grid_size, 0 if net.no_embed_class else net.num_prefix_tokens
            theirs["pos_embed"] = resample_abs_pos_embed(theirs["pos_embed"], size, num_prefix_tokens=prefix)
        return theirs
