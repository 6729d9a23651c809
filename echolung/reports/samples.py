"""A few frames of a video of every class, as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from echolung.reports.style import WIDTH, hide, new_figure

if TYPE_CHECKING:  # it brings torch, which a figure does not need
    from echolung.data.clips import ClipStore


@dataclass(frozen=True)
class Sample:
    """A few frames of one video, uint8 (n, H, W), and what it shows."""

    caption: str
    frames: np.ndarray


def one_per_class(labels: pd.DataFrame, store: ClipStore, frames: int = 6) -> list[Sample]:
    """The first video of each class that the store holds, as evenly spaced frames; labels: sample_id, label."""
    held = labels[[sample_id in store for sample_id in labels["sample_id"]]].sort_values("sample_id")
    chosen = held.drop_duplicates("label").sort_values("label")
    samples = []
    for sample_id, label in chosen[["sample_id", "label"]].itertuples(index=False, name=None):
        video = store.frames(sample_id)
        shown = np.linspace(0, len(video) - 1, frames).round().astype(int)
        samples.append(Sample(f"{label} · {sample_id}", np.asarray(video[shown])))
    return samples


def sample_frames(samples: Sequence[Sample]) -> Figure:
    """A contact sheet: one video per row, time from left to right."""
    columns = max(len(sample.frames) for sample in samples)
    figure, panels = new_figure(len(samples), columns, (0.22 + WIDTH / columns) * len(samples))
    figure.set_facecolor("#0b0f14")
    for row, sample in zip(panels, samples, strict=True):
        hide(row)
        for panel, frame in zip(row, sample.frames, strict=False):
            panel.imshow(frame, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        caption = row[0].text(0, 1.04, sample.caption, transform=row[0].transAxes, color="#dfe6ee", fontweight="bold")
        caption.set_in_layout(False)  # it runs on over the next panels; the layout would widen the first one for it
    figure.set_layout_engine("constrained", h_pad=0.16, w_pad=0.06)
    return figure
