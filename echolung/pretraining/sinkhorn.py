"""Balanced assignment of tokens to prototypes by Sinkhorn's iteration (Cuturi 2013; SwAV, Caron et al. 2020,
arXiv 2006.09882).

Dimension letters: n tokens of this worker, K prototypes.
"""

import torch
import torch.distributed


def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int, workers: int = 1) -> torch.Tensor:
    """Cosines (n, K) -> the share of each token that each prototype gets, float32 (n, K); a token's shares sum to 1.

    `iterations` times exp(scores / epsilon) is scaled so that every prototype gets 1 / K of all tokens, then so that
    every token counts 1 / n. With several workers, "all tokens" are those of all of them.
    """
    kernel = ((scores.float() - 1) / epsilon).exp()  # a cosine is 1 at most
    tokens = len(kernel) * workers
    of_token = kernel.new_full((len(kernel),), 1 / tokens)
    of_prototype = kernel.new_zeros(kernel.shape[1])
    for _ in range(iterations):  # only the two factors change: the matrix is read, not written
        mass = of_token @ kernel
        if workers > 1:
            torch.distributed.all_reduce(mass)
        of_prototype = 1 / (kernel.shape[1] * mass)
        of_token = 1 / (tokens * (kernel @ of_prototype))
    return kernel * of_prototype * (of_token * tokens)[:, None]
