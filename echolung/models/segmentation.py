"""Networks that draw structures: a U-Net on frames, a light decoder on frozen tokens, and what both train with.

Dimension letters: B frames, S side of the store's frames, C classes (background first), h w grid of tokens, D width.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echolung.core.errors import SettingsError
from echolung.models.exchange import fit, read_tensors

MEAN, STD = 0.449, 0.226  # ImageNet's, of grey pixels
SMOOTH = 1.0  # pixels


class UNet(nn.Module):
    """segmentation-models-pytorch's U-Net; frames uint8 (B, S, S) -> logits (B, C, S, S).

    `encoder`: `mit_b0` ..., or `tu-<any timm model>`; weights of natural images from a file, else random ones.
    """

    def __init__(self, encoder: str, attention: str, size: int, classes: int, weights: str = "") -> None:
        super().__init__()
        import segmentation_models_pytorch as smp  # seconds to import

        self.size = size
        kind = None if attention == "none" else attention
        try:
            self.net = smp.Unet(encoder, encoder_weights=None, classes=classes, decoder_attention_type=kind)
        except (KeyError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())[:120]
            raise SettingsError(f"no encoder '{encoder}' ({told})", "Take mit_b0, or tu-<a timm model>.") from None
        if weights:
            body = getattr(self.net.encoder, "model", self.net.encoder)
            tensors = read_tensors(weights)
            ours = [name for name, tensor in body.state_dict().items() if tensor.is_floating_point()]
            if not set(ours) & tensors.keys():  # the same tensors in the same order, under other names
                tensors = dict(zip(ours, tensors.values(), strict=False))
            fit(body, tensors, what=f"{weights} does not hold the weights of {encoder}")

    def forward(self, frames: Tensor) -> Tensor:
        x = F.interpolate(frames[:, None].float(), (self.size, self.size), mode="bilinear", antialias=True)
        logits = self.net(((x / 255 - MEAN) / STD).expand(-1, 3, -1, -1))
        return F.interpolate(logits.float(), frames.shape[1:], mode="bilinear")


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
    """Frames uint8 and labels int64 (B, S, S), turned, scaled and shifted alike; brightness of the frames changed.

    Turns up to 15 degrees, scales .85 to 1.15, shifts up to 8%; gamma .7 to 1.4, and gain that falls or rises by up to
    half towards the far field. Black stays black, so the sector stays one, and nothing is mirrored: left is left.
    """
    count = len(frames)
    draw = torch.rand(6, count, generator=generator)
    angle, scale = (draw[0] - 0.5) * np.pi / 6, 0.85 + 0.3 * draw[1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    theta = torch.cat([turn / scale[:, None, None], (draw[2:4].T[..., None] - 0.5) * 0.32], dim=2).to(frames.device)
    grid = F.affine_grid(theta, [count, 1, *frames.shape[1:]], align_corners=False)
    moved = F.grid_sample(frames[:, None].float(), grid, align_corners=False)[:, 0]
    drawn = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()
    gamma = torch.exp((draw[4] - 0.5) * 0.7).to(frames.device)[:, None, None]
    depth = torch.linspace(0, 1, frames.shape[1], device=frames.device)[:, None]
    gain = 1 + (draw[5] - 0.5).to(frames.device)[:, None, None] * depth
    return (255 * (moved / 255) ** gamma * gain).clamp(0, 255).round().to(torch.uint8), drawn


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


def in_bf16(precision: Literal["auto", "bf16", "float32"], device: str) -> bool:
    """Whether to train in bfloat16; auto: where the device has instructions for it, as pretraining decides."""
    able = torch.cpu.get_capabilities() if device == "cpu" else {}
    return precision == "bf16" or (
        precision == "auto" and bool(device == "cuda" or able.get("amx_bf16") or able.get("avx512_bf16"))
    )
