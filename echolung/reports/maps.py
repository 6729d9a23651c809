"""What an encoder sorts recordings by: a map of its mean tokens, coloured by label, patient and collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echolung.core.drawing import COLOURS, hide, new_figure, note, subtitle
from echolung.data.manifest import read_manifest
from echolung.embedding.features import Features
from echolung.kinds.task import Task

MOST, FEWEST, ARMS = 1000, 10, 4
"""Recordings of a map, at most (evenly spaced) and at least; arms of a task."""


@dataclass(frozen=True)
class Map:
    """Of one arm's first seed on the scored recordings of one task."""

    task: str
    arm: str
    points: np.ndarray
    """(n, 2)"""
    facts: pd.DataFrame
    """Columns to colour by, text or numbers (n rows)."""
    nearest: Mapping[str, tuple[float, float]]
    """Of a column of text: the share of recordings whose nearest one has the same value, and that of a random one."""


def maps(tasks: Mapping[str, Task], folds: Mapping[str, pd.DataFrame], arms: Sequence[str], data: Path) -> list[Map]:
    """The first task of each source, the first ARMS arms with features; `data` is data/<study>."""
    found: list[Map] = []
    for name, task in {task.source: (name, task) for name, task in reversed(list(tasks.items()))}.values():
        rows = folds[name][folds[name]["fold"] >= 0].drop_duplicates("sample_id").sort_values("sample_id")
        rows = rows.iloc[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
        manifest = read_manifest(data / "ingest" / task.source / "manifest.parquet").set_index("sample_id")
        numbers = rows["label"].nunique() > len(COLOURS)
        facts = pd.DataFrame({"label": rows["y"] if numbers else rows["label"], "patient": rows["patient_id"]})
        facts["collection"] = manifest["collection"].reindex(rows["sample_id"]).fillna("unknown").to_numpy(dtype=str)
        stores = [folder for arm in arms for folder in sorted((data / "embed" / task.source / arm).glob("seed*"))[:1]]
        for folder in stores[:ARMS] if len(rows) >= FEWEST else []:
            vectors = Features.open(folder).summarised(rows["sample_id"])[:, 0, 0].astype(float)
            found.append(Map(name, folder.parent.name, _flat(vectors), facts, _nearest(vectors, facts)))
    return found


def _flat(vectors: np.ndarray) -> np.ndarray:
    """t-SNE of the cosines, from the first principal axes: the same points every time."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(vectors))


def _nearest(vectors: np.ndarray, facts: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """By cosine in the encoder's own space; of another patient, unless it is the patient that is asked for."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    found: dict[str, tuple[float, float]] = {}
    for name in [str(name) for name in facts if not pd.api.types.is_numeric_dtype(facts[name])]:
        values, patient = (pd.factorize(facts[column])[0] for column in (name, "patient"))
        other = ~np.eye(len(values), dtype=bool) if name == "patient" else patient[:, None] != patient
        asked = other.any(axis=1)
        same = values[:, None] == values
        closest = np.where(other, cosines, -np.inf).argmax(axis=1)
        chance = (same & other).sum(axis=1)[asked] / other.sum(axis=1)[asked]
        found[name] = float(same[asked, closest[asked]].mean()), float(chance.mean())
    return found


def draw(shown: Sequence[Map]) -> Figure | None:
    """A row per map, a column per fact."""
    if not shown:
        return None
    figure, panels = new_figure(len(shown), 3, 3.2 * len(shown))
    for row, one in zip(panels, shown, strict=True):
        for panel, name in zip(row, one.facts, strict=True):
            panel.set_title(f"{one.task}, {one.arm}\n" if panel is row[0] else "\n")
            near, chance = one.nearest.get(str(name), (np.nan, np.nan))
            told = f": nearest agree {near:.0%} (chance {chance:.0%})" if np.isfinite(near) else ""
            subtitle(panel, f"{name}{told}")
            _coloured(panel, one.points, one.facts[name])
            hide([panel])
    note(figure, "t-SNE of the mean tokens: who lies beside whom has a meaning, distances between clusters have none.")
    return figure


def _coloured(panel: Axes, points: np.ndarray, values: pd.Series) -> None:
    x, y = points.T
    if pd.api.types.is_numeric_dtype(values):
        panel.scatter(x, y, c=values, s=9, lw=0, cmap="viridis")
        return
    codes, names = pd.factorize(values, sort=True)
    if len(names) > len(COLOURS):
        panel.scatter(x, y, c=codes * 7919 % len(names), s=9, lw=0, cmap="hsv")
        return
    for code, name in enumerate(names):
        panel.scatter(x[codes == code], y[codes == code], s=9, lw=0, color=COLOURS[code], label=str(name))
    panel.legend(loc="best", markerscale=2, handletextpad=0.1)
