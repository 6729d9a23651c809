"""One vector per recording, and its distance to a bank of others: what `knn` and `anomaly` share.

Dimension letters: n recordings, m of the bank, F numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic

from echolung.core.errors import DataError, listed
from echolung.core.parameters import Parameters
from echolung.embedding.recordings import Recordings
from echolung.embedding.summary import STATISTICS

CODE = ("echolung.methods.pooled", "echolung.embedding.summary")


class PooledSettings(Parameters):
    """What is read of a recording."""

    reads: tuple[Literal["mean", "std", "change"], ...] = pydantic.Field(("mean",), min_length=1)
    """Statistics of every channel over the tokens (`echolung.embedding.summary`)."""


def pooled(settings: PooledSettings, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
    """float32 (n, F); raises DataError naming the recordings whose tokens are not finite."""
    places = np.array([STATISTICS.index(name) for name in settings.reads])
    found = recordings.summaries(sample_ids)[:, 0, places].reshape(len(sample_ids), -1)
    if len(bad := np.flatnonzero(~np.isfinite(found).all(axis=1))):
        raise DataError(
            f"the features of {len(bad)} videos are not finite: {listed([sample_ids[int(i)] for i in bad])}",
            "Look at these videos and at the encoder, then run `dvc repro embed`.",
        )
    return found


def nearest(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (n, k) with the nearest rows of the bank, the nearest first, and their places: of (n, F) and (m, F).

    Raises DataError if the bank has fewer than k rows.
    """
    if k > len(bank):
        raise DataError(
            f"{k} nearest neighbours are asked for, and the bank has {len(bank)} recordings",
            "Lower `k` in fit.methods, or add recordings.",
        )
    ours, theirs = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, bank))
    cosines = np.clip(ours @ theirs.T, -1, 1)
    places = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, places, axis=1), places
