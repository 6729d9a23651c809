"""Rotary position embedding over time, height and width, as in V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985).
Dimension letter: E width of one head."""

import torch

BASE = 10000.0


def rotated_width(head_width: int) -> int:
    """Channels of a head that each of the three axes rotates (even; the rest stay unrotated)."""
    return 2 * ((head_width // 3) // 2)


def rotation(ids: torch.Tensor, grid: tuple[int, int, int], head_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 (..., E), for tokens of flat index `ids` (...) on a (time, height, width) grid. The
    channels are laid out [time | height | width | unrotated]. A token keeps its index when others are masked out."""
    _, height, width = grid
    axes = (ids // (height * width), ids // width % height, ids % width)
    half = rotated_width(head_width) // 2
    frequencies = BASE ** (-torch.arange(half, dtype=torch.float32, device=ids.device) / half)
    # The released weights were trained with each axis's angles tiled (0 1 2 .. 0 1 2 ..), although `rotate` turns
    # neighbouring pairs, for which interleaved angles (0 0 1 1 2 2 ..) would be right. Keep it: a different layout
    # breaks those weights.
    turns = [axis.float()[..., None] * frequencies for axis in axes]
    angles = torch.cat([part for turn in turns for part in (turn, turn)], dim=-1)
    angles = torch.nn.functional.pad(angles, (0, head_width - angles.shape[-1]))  # cos 0 = 1, sin 0 = 0: unrotated
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys (..., E), in float32; returns the dtype of `x`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (x * cosines + turned * sines).to(x.dtype)
