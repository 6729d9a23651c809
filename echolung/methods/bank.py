"""A bank of training recordings, one vector each, and what lies near: what `knn` and `anomaly` share.

Dimension letters: n recordings, m of the bank, F numbers of a vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pydantic
from safetensors.numpy import load_file, save_file

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings, refuse_not_finite
from echolung.embedding.summary import STATISTICS
from echolung.methods.method import Method


class BankSettings(Parameters):
    """What is read of a recording."""

    reads: tuple[Literal["mean", "std", "change"], ...] = pydantic.Field(("mean",), min_length=1)
    """Statistics of every channel over the tokens (`echolung.embedding.summary`)."""
    k: int = pydantic.Field(10, gt=0)  # neighbours


class Bank(Method):
    """Arrays `held` of which `bank`, float32 (m, F), is one."""

    reads_tokens = True
    code: ClassVar[tuple[str, ...]] = ("echolung.methods.bank", "echolung.embedding.summary")

    def __init__(self, settings: Any, held: dict[str, np.ndarray]) -> None:
        self.settings, self.held = settings, held

    def save(self, directory: Path) -> None:
        write_json(directory / "bank.json", self.settings.model_dump(mode="json"))
        save_file(self.held, directory / "bank.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        settings = cls.Settings.parse(read_json(directory / "bank.json"), str(directory / "bank.json"))
        return cls(settings, load_file(directory / "bank.safetensors"))


def pooled(settings: BankSettings, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
    """float32 (n, F); raises DataError naming the recordings whose tokens are not finite."""
    places = [STATISTICS.index(name) for name in settings.reads]
    found = recordings.summaries(sample_ids)[:, 0][:, places].reshape(len(sample_ids), -1)
    refuse_not_finite(sample_ids, np.isfinite(found).all(axis=1))
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
    cosines = np.clip(ours @ theirs.T, -1, 1).astype(float)
    places = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, places, axis=1), places
