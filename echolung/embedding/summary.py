"""Statistics of a recording's tokens: what logistic regressions and the distance of novelty read instead of all tokens.
Dimension letters: V views, N tokens, D width, G regions, P statistics."""

import numpy as np
import torch
from torch.nn import functional as F

REGIONS = 3  # along either side of a frame
STATISTICS = ("mean", "std", "change")
PARTS = 1 + REGIONS**2


def summarise(tokens: torch.Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Tokens (V, N, D) of one recording on a grid (time, height, width) -> float32 (G, P, D): after a LayerNorm without
    parameters, of every channel the mean, the standard deviation and the mean absolute change from one time step to the
    next, over all views; first over the frame, then in each of 3 x 3 regions, row by row."""
    x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6).unflatten(1, grid)
    change = (x[:, 1:] - x[:, :-1]).abs() if grid[0] > 1 else torch.zeros_like(x)
    # Maps (D, height, width), averaged over views and time.
    mean, square, moved = (values.mean(dim=(0, 1)).permute(2, 0, 1) for values in (x, x**2, change))
    parts = []
    for regions in (1, REGIONS):
        means, squares, moves = (F.adaptive_avg_pool2d(each, regions).flatten(1) for each in (mean, square, moved))
        parts.append(torch.stack([means, (squares - means**2).clamp(min=0).sqrt(), moves]).permute(2, 0, 1))
    return torch.cat(parts).numpy()
