"""Effective rank of an encoder's features: it drops towards 1 when the encoder collapses."""

import numpy as np


def effective_rank(features: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885) of features (V, D): exp of the entropy of the singular values.
    From 1 (all rows on one line: a collapsed encoder) to min(V, D); 0 if any feature is not finite."""
    if not np.isfinite(features).all():
        return 0.0
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    p = values / max(values.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))
