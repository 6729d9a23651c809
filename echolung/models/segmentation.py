"""Networks that draw structures: a U-Net on frames, a light decoder on frozen tokens, and what both train with.

Dimension letters: B frames, S side of the store's frames, C classes (background first), h w grid of tokens, D width.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echolung.core.errors import SettingsError
from echolung.models.exchange import fit, in_order, read_tensors

MEAN, STD = 0.449, 0.226  # ImageNet's, of grey pixels
SMOOTH = 1.0  # pixels


class UNet(nn.Module):
    """segmentation-models-pytorch's U-Net; frames uint8 (B, S, S) -> logits (B, C, S, S).

    `encoder`: `mit_b0` ..., or `tu-<any timm model>`; weights of natural images from a file, else random ones. With
    `clip` > 1 it sees clips (B, T, S, S) and draws their middle frame. In training it returns the logits of `sides`
    coarser stages of the decoder, too, for deep supervision: a list, the finest first.
    """

    def __init__(
        self, encoder: str, size: int, classes: int, *, decoder: Sequence[int], attention: str = "none", clip: int = 1,
        sides: int = 0, weights: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        import segmentation_models_pytorch as smp  # seconds to import

        self.size, self.clip = size, clip
        try:
            self.net = smp.Unet(encoder, encoder_weights=None, classes=classes, decoder_channels=tuple(decoder))
        except (KeyError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())[:120]
            raise SettingsError(f"no encoder '{encoder}' ({told})", "Take mit_b0, or tu-<a timm model>.") from None
        widths = self.net.encoder.out_channels
        self.attention = nn.ModuleList(attentive(attention, width) for width in widths)
        self.time = AcrossFrames(widths[-1], clip) if clip > 1 else None
        self.sides = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in decoder[-2 : -2 - sides : -1])
        if weights:
            body = getattr(self.net.encoder, "model", self.net.encoder)
            fit(body, in_order(body, read_tensors(weights)), what=f"{weights} does not hold the weights of {encoder}")

    def forward(self, frames: Tensor) -> Tensor | list[Tensor]:
        every = frames.flatten(0, -3)[:, None].float()
        x = F.interpolate(every, (self.size, self.size), mode="bilinear", antialias=True)
        x = ((x / 255 - MEAN) / STD).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features = self.net.encoder(x)
        if self.time is not None:
            middle = [one.unflatten(0, (-1, self.clip))[:, self.clip // 2] for one in features[:-1]]
            features = [*middle, self.time(features[-1])]
        features = [attend(one) for attend, one in zip(self.attention, features, strict=True)]
        stages: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _, __, output: stages.append(output))
            for block in self.net.decoder.blocks[: -1 if self.training else 0]
        ]
        told = [self.net.segmentation_head(self.net.decoder(features))]
        for hook in hooks:
            hook.remove()
        if self.training:
            told += [side(stage) for side, stage in zip(self.sides, reversed(stages), strict=False)]
        told = [F.interpolate(one.float(), frames.shape[-2:], mode="bilinear") for one in told]
        return told if len(told) > 1 else told[0]


def attentive(kind: str, width: int) -> nn.Module:
    """What a feature map of the encoder passes on its way to the decoder: none, se, cbam (timm) or danet."""
    from timm.layers import SEModule
    from timm.layers.cbam import CbamModule

    kinds: dict[str, Callable[[int], nn.Module]] = {"se": SEModule, "cbam": CbamModule, "danet": DualAttention}
    return kinds[kind](width) if width > 3 and kind in kinds else nn.Identity()  # not the frame itself


class DualAttention(nn.Module):
    """DANet's attention over places and over channels (Fu et al. 2019, 1809.02983), both with a learned share from 0.
    Over places where the map has at most `PLACES` of them: the cost grows with their square."""

    PLACES = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(width, max(1, width // 8), 1) for _ in range(2))
        self.value = nn.Conv2d(width, width, 1)
        self.shares = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # (B, channels, places)
        alike = flat @ flat.mT
        found = flat + self.shares[0] * ((alike.amax(dim=-1, keepdim=True) - alike).softmax(dim=-1) @ flat)
        if flat.shape[-1] <= self.PLACES:
            query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))
            found = found + self.shares[1] * (value @ (query.mT @ key).softmax(dim=-1).mT)
        return found.view_as(x)


class AcrossFrames(nn.Module):
    """A transformer layer over the frames of a clip, at each place of a map: (B * T, D, h, w) -> (B, D, h, w), of the
    middle frame."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.when = nn.Parameter(0.02 * torch.randn(frames, width))
        heads = math.gcd(width, 8)
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        frames, (height, width) = len(self.when), x.shape[-2:]
        clips = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)  # (B h w, T, D)
        middle = self.layer(clips + self.when)[:, frames // 2]
        return middle.view(-1, height, width, middle.shape[-1]).permute(0, 3, 1, 2)


class LightDecoder(nn.Module):
    """Tokens (B, h * w, D) -> logits (B, C, S, S): every channel's own scale, then three convolutions between which the
    grid doubles."""

    def __init__(self, grid: tuple[int, int], size: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.net = nn.Sequential(
            nn.BatchNorm2d(width), nn.Conv2d(width, channels, 1), nn.GELU(), up,
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.GELU(), up,
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.GELU(),
            nn.Conv2d(channels, classes, 1),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6)
        logits = self.net(x.transpose(1, 2).unflatten(2, self.grid))
        return F.interpolate(logits.float(), (self.size, self.size), mode="bilinear")


def dice_and_entropy(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """1 - soft Dice + cross-entropy; labels int64 (B, S, S), known bool (B, C): which structures are traced there.

    A structure that nobody traced is part of the background for that frame, not an error. Dice is over the batch, of
    each known structure.
    """
    known = known.clone()
    known[:, 0] = True
    log_p = logits.log_softmax(dim=1)
    rest = log_p.masked_fill(known[:, :, None, None], -torch.inf)
    rest[:, 0] = log_p[:, 0]
    log_p = torch.cat([rest.logsumexp(dim=1, keepdim=True), log_p[:, 1:]], dim=1)
    entropy = F.nll_loss(log_p, labels)
    of_class = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2) * known[:, :, None, None]
    p = log_p.exp() * known[:, :, None, None]
    both, all_ = (part[:, 1:].sum(dim=(0, 2, 3)) for part in (p * of_class, p + of_class))
    dice = (2 * both + SMOOTH) / (all_ + SMOOTH)
    return entropy + 1 - dice[known[:, 1:].any(dim=0)].mean()


def augmented(frames: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames uint8 (B, S, S), or clips (B, T, S, S), and labels int64 (B, S, S), turned, scaled and shifted alike, and
    all frames of a clip alike; brightness of the frames changed.

    Turns up to 15 degrees, scales .85 to 1.15, shifts up to 8%; gamma .7 to 1.4, and gain that falls or rises by up to
    half towards the far field. Black stays black, so the sector stays one, and nothing is mirrored: left is left.
    """
    count = len(frames)
    draw = torch.rand(6, count, generator=generator)
    angle, scale = (draw[0] - 0.5) * np.pi / 6, 0.85 + 0.3 * draw[1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    theta = torch.cat([turn / scale[:, None, None], (draw[2:4].T[..., None] - 0.5) * 0.32], dim=2).to(frames.device)
    grid = F.affine_grid(theta, [count, 1, *labels.shape[1:]], align_corners=False)
    moved = F.grid_sample(frames.view(count, -1, *labels.shape[1:]).float(), grid, align_corners=False)
    drawn = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()
    gamma = torch.exp((draw[4] - 0.5) * 0.7).to(frames.device)[:, None, None, None]
    depth = torch.linspace(0, 1, labels.shape[1], device=frames.device)[:, None]
    gain = 1 + (draw[5] - 0.5).to(frames.device)[:, None, None, None] * depth
    return (255 * (moved / 255) ** gamma * gain).clamp(0, 255).round().to(torch.uint8).view_as(frames), drawn


def prepared(frames: np.ndarray, clahe: bool, bilateral: bool) -> np.ndarray:
    """Frames uint8 (T, S, S) after a bilateral filter (speckle) and contrast-limited equalisation, where asked for."""
    found = np.array(frames)
    if not (clahe or bilateral):
        return found
    import cv2  # a quarter of a second to import

    equaliser = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    for at, frame in enumerate(found):
        smooth = cv2.bilateralFilter(frame, 5, 40, 5) if bilateral else frame
        found[at] = equaliser.apply(smooth) if clahe else smooth
    return found
