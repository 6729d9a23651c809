"""A few frames of some videos of a task, as a contact sheet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from echolung.core.drawing import WIDTH, hide, new_figure
from echolung.data.clips import ClipStore
from echolung.kinds.task import Task


@dataclass(frozen=True)
class Sample:
    """A few frames of one video, uint8 (n, H, W), and what it shows."""

    caption: str
    frames: np.ndarray


def samples(
    tasks: Mapping[str, Task], folds: Mapping[str, pd.DataFrame], shown: Collection[str], ingest: Path, frames: int = 6
) -> list[Sample]:
    """The first scored video of each stratum (class) of the tasks whose source is among `shown`, evenly spaced frames.

    `ingest` is the folder of the sources' clip stores.
    """
    found = []
    for name in [name for name, task in tasks.items() if task.source in shown]:
        store = ClipStore.open(ingest / tasks[name].source / "clips")
        rows = folds[name][folds[name]["fold"] >= 0].sort_values(["stratum", "sample_id"]).drop_duplicates("stratum")
        for sample_id, label in rows[["sample_id", "label"]].itertuples(index=False, name=None):
            video = store.frames(sample_id)
            places = np.linspace(0, len(video) - 1, frames).round().astype(int)
            found.append(Sample(f"{label} · {sample_id}", np.asarray(video[places])))
    return found


def sample_frames(samples: Sequence[Sample]) -> Figure | None:
    """A contact sheet: one video per row, time from left to right."""
    if not samples:
        return None
    columns = max(len(sample.frames) for sample in samples)
    figure, panels = new_figure(len(samples), columns, (0.22 + WIDTH / columns) * len(samples))
    figure.set_facecolor("#0b0f14")
    for row, sample in zip(panels, samples, strict=True):
        hide(row)
        for panel, frame in zip(row, sample.frames, strict=False):
            panel.imshow(frame, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        caption = row[0].text(0, 1.04, sample.caption, transform=row[0].transAxes, color="#dfe6ee", fontweight="bold")
        caption.set_in_layout(False)  # it is wider than its panel
    figure.set_layout_engine("constrained", h_pad=0.16, w_pad=0.06)
    return figure
