"""Which recordings to annotate next: those on which light decoders disagree, and no two that look alike.

Each decoder of an ensemble is fitted on another bootstrap of the labelled patients. Where they draw different things, a
mask teaches most. A batch is chosen one by one (weighted k-centre, after Sener & Savarese 2018, arXiv 1708.00489): the
next is the candidate with the largest product of its weight and its distance, in the encoder's mean tokens, to the
nearest labelled or chosen one. The weight goes evenly from one half to one by the order of disagreement, about as far
apart as distances are: disagreement itself differs by orders of magnitude, and copies of the strangest recording would
fill the batch.

Dimension letters: M members, T frames, C structures, S side of the store's frames, n candidates, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from echolung.core.errors import DataError
from echolung.core.progress import Progress
from echolung.core.runtime import derived_seed
from echolung.data.masks import STRUCTURES
from echolung.data.splits import ALWAYS_TRAINED
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask
from echolung.methods.segmentation import DecoderSettings, Light

Strategy = Literal["both", "disagreement", "k-centre", "random"]
COLUMNS = ("rank", "sample_id", "patient_id", "frame", "disagreement", "distance")


def ensemble(
    task: SegmentationTask, settings: DecoderSettings, recordings: Recordings, labelled: pd.DataFrame, seed: int,
    members: int = 4,
) -> list[Light]:  # fmt: skip
    """Decoders fitted on bootstraps of the patients in `labelled` (sample_id, patient_id), all of which have masks."""
    alone = settings.model_copy(update={"curve": ()})
    patients, found = labelled["patient_id"].unique(), []
    for member in range(members):
        drawn = np.random.default_rng([seed, member]).choice(patients, len(patients))
        rows = pd.DataFrame({"patient_id": drawn}).merge(labelled, on="patient_id").assign(inner=ALWAYS_TRAINED)
        found.append(Light.fit(alone, task, recordings, rows, derived_seed(seed, "member", member), Path()))
    return found


def drawn_by(members: Sequence[Light], recordings: Recordings, sample_id: str) -> np.ndarray:
    """Probabilities float32 (M, T, C, S, S) of the task's structures on the frames of `Recordings.frame_tokens`."""
    shown = [STRUCTURES.index(name) + 1 for name in members[0].task.structures]
    return np.stack([one.probabilities(recordings, sample_id, None)[:, shown] for one in members])


def disagreement(p: np.ndarray) -> np.ndarray:
    """1 - the mean soft Dice of all pairs of members and all structures: float64 (T,), from 0 to 1. `p`: (M, T, C, S,
    S). Large structures do not count more than small ones."""
    flat = np.moveaxis(p, 0, 2).reshape(p.shape[1], p.shape[2], len(p), -1).astype(np.float64)
    both = flat @ flat.swapaxes(-1, -2)
    own = both.diagonal(axis1=-2, axis2=-1)
    dice = (2 * both + 1e-9) / (own[..., :, None] + own[..., None, :] + 1e-9)
    one, other = np.triu_indices(len(p), 1)
    return np.asarray(1 - dice[..., one, other].mean(axis=(1, 2)))


def choose(x: np.ndarray, known: np.ndarray, worth: np.ndarray, budget: int, spread: bool) -> list[tuple[int, float]]:
    """Places in `x` (n, D), best first, each with its distance to the nearest of `known` (m, D) and those before it.
    The next maximises `worth` (n,), times that distance if `spread`."""
    near, found = cdist(x, known).min(axis=1), []
    left = np.ones(len(x), bool)
    for _ in range(min(budget, len(x))):
        value = worth * near if spread else worth
        best = int(np.where(left, value, -np.inf).argmax())
        found.append((best, float(near[best])))
        left[best] = False
        near = np.minimum(near, np.linalg.norm(x - x[best], axis=1))
    return found


def suggest(
    task: SegmentationTask, settings: DecoderSettings, recordings: Recordings, labelled: pd.DataFrame,
    candidates: pd.DataFrame, frames: Mapping[str, Sequence[int]], budget: int, seed: int, *,
    unit: Literal["sample_id", "patient_id"] = "sample_id", strategy: Strategy = "both",
    on_progress: Progress = lambda done, total: None,
) -> tuple[pd.DataFrame, list[Light]]:  # fmt: skip
    """The `budget` units of `candidates` to annotate next, and the ensemble that said so (none if it was not asked).

    `labelled`, `candidates`: sample_id, patient_id; `frames`: those of each candidate that `frame_tokens` shows.
    Returns COLUMNS, a row per frame, by rank and within a recording by disagreement (NaN if no ensemble was asked);
    `distance` is in standard deviations of the mean tokens. Raises DataError if nothing is labelled.
    """
    if labelled.empty:
        raise DataError("no recording has masks yet", "Annotate a few first, of ten patients, say.")
    rows = pd.concat([labelled, candidates], ignore_index=True)
    x = recordings.summaries(list(rows["sample_id"]))[:, 0, 0].astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6) / np.sqrt(x.shape[1])
    old = pd.DataFrame(x[: len(labelled)]).groupby(labelled[unit].to_numpy()).mean().to_numpy()
    new = pd.DataFrame(x[len(labelled) :]).groupby(candidates[unit].to_numpy()).mean()
    asked = strategy in ("both", "disagreement")
    members = ensemble(task, settings, recordings, labelled, seed) if asked else []
    found = []
    for done, one in enumerate(candidates.itertuples(index=False), start=1):
        name = str(one.sample_id)
        apart = disagreement(drawn_by(members, recordings, name)) if asked else np.full(len(frames[name]), np.nan)
        values = zip(frames[name], apart, strict=True)
        found += [(getattr(one, unit), name, one.patient_id, int(frame), float(value)) for frame, value in values]
        on_progress(done, len(candidates))
    table = pd.DataFrame(found, columns=["unit", "sample_id", "patient_id", "frame", "disagreement"])
    worth = table.groupby("unit")["disagreement"].mean().reindex(new.index).rank(pct=True).to_numpy() / 2 + 0.5
    if not asked:
        worth = np.random.default_rng(seed).random(len(new)) if strategy == "random" else np.ones(len(new))
    chosen = choose(new.to_numpy(), old, worth, budget, strategy in ("both", "k-centre"))
    ranked = pd.DataFrame(chosen, columns=["place", "distance"]).assign(rank=np.arange(1, len(chosen) + 1))
    table = table.merge(ranked.assign(unit=new.index[ranked["place"]]), on="unit")
    order = table.sort_values(["rank", "sample_id", "disagreement"], ascending=[True, True, False])
    return order[list(COLUMNS)].reset_index(drop=True), members
