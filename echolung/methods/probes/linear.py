"""The method `linear`: logistic regression on statistics of an encoder's frozen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from torch.nn import functional as F

from echolung.embedding.recordings import Recordings
from echolung.embedding.summary import STATISTICS
from echolung.methods.method import Maps
from echolung.methods.tabular import LogisticSettings, Tabular


class LinearSettings(LogisticSettings):
    """The search, and what is read."""

    reads: tuple[Literal["mean", "std", "change"], ...] = pydantic.Field(("mean", "std"), min_length=1)
    """Statistics of every channel over all tokens (`echolung.embedding.summary`)."""


class Linear(Tabular):
    """On the statistics named in `reads`, over the whole frame."""

    reads_tokens = True
    Settings = LinearSettings
    code = (*Tabular.code, "echolung.embedding.summary")

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        whole = recordings.summaries(sample_ids)[:, 0]
        names = [f"{name}_{channel}" for name in STATISTICS for channel in range(whole.shape[2])]
        return pd.DataFrame(whole.reshape(len(whole), -1), index=list(sample_ids), columns=names)

    @classmethod
    def columns_of(cls, settings: Any, table: pd.DataFrame) -> list[str]:
        return [str(name) for name in table if str(name).split("_")[0] in settings.reads]

    def explain(self, recordings: Recordings, sample_id: str) -> Maps:
        """What each token adds to the logit of the answer. Exact: a deviation is a sum over tokens, too.

        std = sum_n (x_n - mean)^2 / (N std), and a change is shared by the two tokens it lies between.
        """
        features = recordings.features[0]
        grid, tokens = features.record.grid, torch.from_numpy(recordings.tokens([sample_id])[0])
        x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6).double().unflatten(1, grid)
        mean = x.mean(dim=(0, 1, 2, 3))
        std = (x - mean).square().mean(dim=(0, 1, 2, 3)).sqrt().clamp_min(1e-9)
        moved = (x[:, 1:] - x[:, :-1]).abs() * grid[0] / max(grid[0] - 1, 1) / 2
        change = F.pad(moved, (0, 0) * 3 + (1, 0)) + F.pad(moved, (0, 0) * 3 + (0, 1))
        shares = {"mean": x, "std": (x - mean).square() / std, "change": change}
        answer = int(self.predict(recordings, [sample_id])[0].argmax())
        weights = pd.Series(self.weights["coefficients"][answer], index=self.columns)
        total = np.zeros(x.shape[:-1])
        for name, share in shares.items():
            mine = [f"{name}_{channel}" for channel in range(x.shape[-1])]
            total += (share @ torch.from_numpy(weights.reindex(mine, fill_value=0.0).to_numpy())).numpy()
        words = "what each token adds to the logit of the answer (exact for this linear probe), times the tokens"
        return Maps(weights=total, signed=True, words=words)
