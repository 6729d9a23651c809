"""What an encoder sorts recordings by: a map of its mean tokens, coloured by label, patient and collection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from echolung.core.drawing import COLOURS, hide, new_figure, note, subtitle
from echolung.data.manifest import read_manifest
from echolung.embedding.features import Features
from echolung.kinds.task import Task

MOST, FEWEST, ARMS = 1000, 10, 4  # recordings of a map, at most (evenly spaced) and at least; arms of a task


@dataclass(frozen=True)
class Map:
    """Of one arm's first seed on the scored recordings of one task."""

    title: str
    points: np.ndarray  # (n, 2)
    facts: pd.DataFrame  # label, patient and collection, as text (n rows)
    nearest: Mapping[str, tuple[float, float]]  # fact -> share that agree in it: of nearest recordings, of all others


def maps(tasks: Mapping[str, Task], folds: Mapping[str, pd.DataFrame], arms: Sequence[str], data: Path) -> list[Map]:
    """The first task of each source, the first ARMS arms with features of their own; `data` is data/<study>."""
    from sklearn.manifold import TSNE

    found: list[Map] = []
    for task, name in {tasks[name].source: name for name in reversed(list(tasks))}.items():
        rows = folds[name][folds[name]["fold"] >= 0].drop_duplicates("sample_id").sort_values("sample_id")
        rows = rows.iloc[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)].set_index("sample_id")
        manifest = read_manifest(data / "ingest" / task / "manifest.parquet").set_index("sample_id")
        numbers = rows["label"].nunique() > len(COLOURS)  # quarters of an ejection fraction, say
        label = pd.qcut(rows["y"], 4, duplicates="drop") if numbers else rows["label"]
        collection = manifest["collection"].reindex(rows.index)
        text = pd.DataFrame({"label": label, "patient": rows["patient_id"], "collection": collection}).astype(str)
        stores = [folder for arm in arms for folder in sorted((data / "embed" / task / arm).glob("seed*"))[:1]]
        others = {Features.open(folder).record.key: folder for folder in reversed(stores)}  # each encoder once
        for folder in list(reversed(others.values()))[:ARMS] if len(rows) >= FEWEST else []:
            x = Features.open(folder).summarised(rows.index)[:, 0, 0].astype(float)
            drawn = TSNE(metric="cosine", init="pca", perplexity=min(30.0, len(x) / 4), random_state=0)
            found.append(Map(f"{name}, {folder.parent.name}", drawn.fit_transform(x), text, _nearest(x, text)))
    return found


def _nearest(x: np.ndarray, facts: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """By cosine in the encoder's own space; of another patient, unless it is the patient that is asked for."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    found: dict[str, tuple[float, float]] = {}
    same = {str(name): (codes := pd.factorize(facts[name])[0]) == codes[:, None] for name in facts}
    for name, agree in same.items():
        other = ~np.eye(len(x), dtype=bool) if name == "patient" else ~same["patient"]
        closest = np.where(other, unit @ unit.T, -np.inf).argmax(axis=1)
        found[name] = float(agree[np.arange(len(x)), closest].mean()), float((agree & other).sum() / other.sum())
    return found


def draw(shown: Sequence[Map]) -> Figure | None:
    """A row per map, a column per fact."""
    if not shown:
        return None
    figure, panels = new_figure(len(shown), 3, 3.2 * len(shown))
    for row, one in zip(panels, shown, strict=True):
        row[0].set_title(f"{one.title}\n")
        for panel, (name, (near, chance)) in zip(row, one.nearest.items(), strict=True):
            subtitle(panel, f"{name}: nearest agree {near:.0%} (chance {chance:.0%})")
            codes, values = pd.factorize(one.facts[name], sort=True)
            x, y = one.points.T
            if len(values) > len(COLOURS):
                panel.scatter(x, y, s=9, lw=0, c=[f"C{code}" for code in codes])
                continue
            for code, value in enumerate(values):
                mine = codes == code
                panel.scatter(x[mine], y[mine], s=9, lw=0, color=COLOURS[code], label=str(value))
            panel.legend(loc="best", markerscale=2, handletextpad=0.1)
        hide(row)
    note(figure, "t-SNE of the mean tokens: who lies beside whom has a meaning, distances between clusters have none.")
    return figure
