"""The method `linear`: logistic or ridge regression on statistics of an encoder's frozen tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from torch.nn import functional as F

from echolung.embedding.recordings import Recordings
from echolung.embedding.summary import PARTS, REGIONS, STATISTICS
from echolung.methods.method import Maps
from echolung.methods.tabular import LogisticSettings, Tabular

SUFFIXES = ["", *(f"_{region}" for region in range(1, PARTS))]


class LinearSettings(LogisticSettings):
    """The search, and what is read."""

    reads: tuple[Literal["mean", "std", "change"], ...] = pydantic.Field(("mean", "std"), min_length=1)
    """Statistics of every channel over the tokens (`echolung.embedding.summary`)."""
    where: tuple[Literal["frame", "regions"], ...] = pydantic.Field(("frame", "regions"), min_length=1)
    """`frame`: over the whole frame. `regions`: in its 3 x 3 regions, too. With both, the inner folds choose."""


class Linear(Tabular):
    """On the statistics named in `reads`: columns <statistic>_<channel>, and _<region> for one of the nine."""

    reads_tokens = True
    Settings = LinearSettings
    code = (*Tabular.code, "echolung.embedding.summary")

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        found = cls.summaries(recordings, sample_ids)
        names = [
            f"{name}_{channel}{suffix}"
            for suffix in SUFFIXES
            for name in STATISTICS
            for channel in range(found.shape[3])
        ]
        return pd.DataFrame(found.reshape(len(found), -1), index=list(sample_ids), columns=names)

    @classmethod
    def summaries(cls, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 (n, regions, statistics, channels)."""
        return recordings.summaries(sample_ids)

    @classmethod
    def choices(cls, settings: Any, table: pd.DataFrame) -> dict[str, list[str]]:
        read = [str(name) for name in table if str(name).split("_")[0] in settings.reads]
        every = {"frame": [name for name in read if name.count("_") == 1], "regions": read}
        return {where: every[where] for where in settings.where}

    def explain(self, recordings: Recordings, sample_id: str) -> Maps | None:
        """What each token adds to the logit of the answer, or to the number. Exact: a deviation is a sum over tokens.
        std = sum_n (x_n - mean)^2 / (N std), and a change is shared by the two tokens it lies between."""
        time, height, width = recordings.features[0].record.grid
        tokens = torch.from_numpy(recordings.tokens([sample_id])[0])
        x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6).double().unflatten(1, (time, height * width))
        moved = (x[:, 1:] - x[:, :-1]).abs() * time / max(time - 1, 1) / 2
        change = F.pad(moved, (0, 0, 0, 0, 1, 0)) + F.pad(moved, (0, 0, 0, 0, 0, 1))
        # How much each place of the frame counts in each average: the frame, then the regions.
        places = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
        parts = torch.cat([F.adaptive_avg_pool2d(places, regions).flatten(1) for regions in (1, REGIONS)], dim=1).T
        number = "half" in self.weights
        answer = 0 if number else int(self.predict(recordings, [sample_id])[0].argmax())
        weights = pd.Series(self.weights["coefficients"][answer], index=self.columns)
        total = torch.zeros(x.shape[:-1], dtype=torch.float64)
        for part, suffix in zip(parts, SUFFIXES, strict=True):
            mean = (x.mean(dim=(0, 1)) * part[:, None]).sum(dim=0)
            std = (((x - mean).square().mean(dim=(0, 1))) * part[:, None]).sum(dim=0).sqrt().clamp_min(1e-9)
            for name, share in (("mean", x), ("std", (x - mean).square() / std), ("change", change)):
                mine = [f"{name}_{channel}{suffix}" for channel in range(x.shape[-1])]
                own = torch.tensor(weights.reindex(mine, fill_value=0.0).to_numpy())
                total += (share @ own) * part * (height * width)
        what = "number" if number else "logit of the answer"
        words = f"what each token adds to the {what} (exact for this linear probe), times the tokens"
        return Maps(weights=total.unflatten(2, (height, width)).numpy(), signed=True, words=words)


class TwoViews(Linear):
    """On the statistics of both apical views of a patient, side by side; a recording without its pair counts twice."""

    @classmethod
    def summaries(cls, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        pairs = [recordings.views_of(name) for name in sample_ids]
        both = [recordings.summaries([pair[at] for pair in pairs]) for at in (0, -1)]
        return np.concatenate(both, axis=3)

    def explain(self, recordings: Recordings, sample_id: str) -> None:
        """A map would be of one view only."""
