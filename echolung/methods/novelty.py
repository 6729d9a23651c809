"""Novelty: how far a recording lies from the training recordings, and the threshold from which it is flagged.

A recording is described twice: by its `tokens` (`echolung.embedding.summary`) and by `handmade` brightness, texture and
motion, because an encoder may ignore what it was never trained on. A model without an encoder has only the latter. The
distance is the mean of the two Mahalanobis distances (PCA coordinates, Ledoit-Wolf covariance). The threshold is a
conformal quantile of the training distances, each measured with its group of patients left out; the rate of false
alarms is measured on groups that neither distance nor threshold has seen.

Dimension letters: V recordings, G groups of patients, D width of a token, P numbers of a description, K directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic
from safetensors.numpy import load_file, save_file

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.embedding.recordings import Recordings
from echolung.evaluation.statistics import wilson_interval
from echolung.methods.handmade import handmade_table

FILE = "novelty.safetensors"
PARTS = 20  # groups are left out one at a time, or in so many parts if there are more
DIRECTIONS = 256  # principal directions of a description that are kept, at most
FEWEST = 5  # groups that a threshold needs
SCALE_FLOOR, FARTHEST = 1e-3, 10.0  # a number that hardly varies must not decide alone
EPSILON = 1e-9
NOT_FITTED = np.zeros(0)
Descriptions = Mapping[str, np.ndarray]
"""`tokens` (V, 30 D) if there is an encoder, `handmade` (V, about 40); or the coordinates of both."""


class NoveltySettings(Parameters):
    """`false_alarms`: the share of new patients, of the kind the model was trained on, that may be flagged."""

    false_alarms: float = pydantic.Field(default=0.05, gt=0, lt=0.5)


class NoveltyRecord(Parameters):
    """The threshold and its false alarms (groups count as one each; the interval is Wilson's, 95%)."""

    threshold: float = pydantic.Field(gt=0)  # a recording at a greater distance is outside
    wanted: float
    """False alarm rate that the threshold was set for: as asked, or 1 / (G + 1) if G groups cannot show less."""
    measured: float  # false alarm rate on groups left out of distance and threshold: of new patients of the same origin
    measured_low: float
    measured_high: float
    videos: int
    groups: int


class Usual(NamedTuple):
    """Where one description of the training recordings lies. Its coordinates (V, K + 1) are those along the principal
    `directions` (P, K), and the distance from all of them."""

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    centre: np.ndarray = NOT_FITTED
    precision: np.ndarray = NOT_FITTED  # inverse covariance (K + 1, K + 1)

    @classmethod
    def axes(cls, name: str, x: np.ndarray) -> Usual:
        """Of descriptions (V, P); the covariance is still to be `fitted`."""
        from sklearn.decomposition import PCA

        # The hand-made numbers have different scales. With fewer recordings than DIRECTIONS, PCA only turns the axes:
        # leaving some out afterwards is exact.
        mean, scale = x.mean(axis=0), np.ones(x.shape[1])
        if name == "handmade":
            scale = np.maximum(x.std(axis=0), SCALE_FLOOR)
        pca = PCA(min(DIRECTIONS, len(x) - 1, x.shape[1]), random_state=0).fit((x - mean) / scale)
        return cls(mean, scale, pca.components_.T)

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """Descriptions (V, P) -> (V, K + 1)."""
        x = np.clip((x - self.mean) / self.scale, -FARTHEST, FARTHEST)
        along = x @ self.directions
        off = np.sqrt(np.maximum((x**2).sum(axis=1) - (along**2).sum(axis=1), 0))
        return np.column_stack([along, off])

    def fitted(self, x: np.ndarray) -> Usual:
        """With the covariance of coordinates (V, K + 1); off the directions, the variance is what shrinkage adds."""
        from scipy.linalg import block_diag
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf(store_precision=False).fit(x[:, :-1])
        covariance = found.covariance_ + EPSILON * np.eye(x.shape[1] - 1)
        floor = found.shrinkage_ * np.diag(covariance).mean() + EPSILON
        precision = block_diag(np.linalg.inv(covariance), 1 / floor)
        return self._replace(centre=np.append(found.location_, 0), precision=precision)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Of coordinates (V, K + 1), (V,): about 1 for a recording like the others."""
        apart = x - self.centre
        return np.sqrt(((apart @ self.precision) * apart).sum(axis=1) / self.directions.shape[1])


@dataclass(frozen=True)
class Novelty:
    """Where the training recordings lie, and how far from them a recording may."""

    usual: Mapping[str, Usual]
    record: NoveltyRecord

    def distances(self, described: Descriptions) -> np.ndarray:
        """Of V recordings, (V,)."""
        return _distances(self.usual, {name: one.coordinates(described[name]) for name, one in self.usual.items()})

    def save(self, directory: Path) -> None:
        arrays = {f"{name}.{part}": array for name, one in self.usual.items() for part, array in one._asdict().items()}
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, directory / FILE)

    @classmethod
    def load(cls, directory: Path, record: NoveltyRecord) -> Novelty:
        """What `save` wrote."""
        arrays = load_file(directory / FILE)
        names = sorted({key.split(".")[0] for key in arrays})
        return cls({name: Usual(*(arrays[f"{name}.{part}"] for part in Usual._fields)) for name in names}, record)


def describe(recordings: Recordings, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The descriptions of V recordings, of their tokens if they have any."""
    found = {"handmade": handmade_table(recordings, sample_ids).to_numpy(np.float64)}
    if recordings.parts[0].features is not None:
        summaries = recordings.summaries(sample_ids).astype(np.float64)
        found = {"tokens": summaries.reshape(len(summaries), -1), **found}
    return found


def fit_novelty(descriptions: Descriptions, groups: np.ndarray, settings: NoveltySettings) -> Novelty:
    """From the training recordings' descriptions and the group of patients each belongs to (V,). Raises DataError if
    there are fewer groups than FEWEST, or a description is not finite."""
    names, groups = np.unique(groups, return_inverse=True)
    if len(names) < FEWEST:
        remedy = f"Add recordings: of {FEWEST} patients at least."
        raise DataError(f"{len(names)} groups of patients are too few to tell what is unusual", remedy)
    if not all(np.isfinite(each).all() for each in descriptions.values()):
        raise DataError("a training recording's tokens are not finite", "Run `dvc repro embed`.")
    usual = {name: Usual.axes(name, each) for name, each in descriptions.items()}
    known = {name: one.coordinates(descriptions[name]) for name, one in usual.items()}
    alarms = np.empty(len(groups))
    for rest, held, distances in _left_out(usual, known, groups):
        others = {name: x[rest] for name, x in known.items()}
        alarms[held] = distances > _threshold(usual, others, groups[rest], settings.false_alarms)
    measured = float(alarms @ (1 / np.bincount(groups)[groups]))
    low, high = wilson_interval(measured, len(names))
    record = NoveltyRecord(
        threshold=_threshold(usual, known, groups, settings.false_alarms),
        wanted=max(settings.false_alarms, 1 / (len(names) + 1)),
        measured=measured / len(names), measured_low=low, measured_high=high,
        videos=len(groups), groups=len(names),
    )  # fmt: skip
    return Novelty(_fit(usual, known), record)


def _fit(usual: Mapping[str, Usual], x: Descriptions) -> dict[str, Usual]:
    return {name: one.fitted(x[name]) for name, one in usual.items()}


def _distances(usual: Mapping[str, Usual], x: Descriptions) -> np.ndarray:
    return np.mean([one.distances(x[name]) for name, one in usual.items()], axis=0)


def _threshold(usual: Mapping[str, Usual], known: Descriptions, groups: np.ndarray, false_alarms: float) -> float:
    """The distance that at most a share `false_alarms` of new groups' recordings exceeds, on average. The conformal
    quantile (Vovk et al. 2005): the new group counts as one more, farther out than all that are known."""
    distances = np.empty(len(groups))
    for _, held, found in _left_out(usual, known, groups):
        distances[held] = found
    count = len(np.unique(groups))
    share = min(1.0, (1 - false_alarms) * (count + 1) / count - EPSILON)
    return float(np.quantile(distances, share, weights=1 / np.bincount(groups)[groups], method="inverted_cdf"))


def _left_out(
    usual: Mapping[str, Usual], known: Descriptions, groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Leaves out whole groups: places of the rest and of those held out, and the distances of these from the rest."""
    from sklearn.model_selection import GroupKFold

    for rest, held in GroupKFold(min(len(np.unique(groups)), PARTS)).split(groups, groups=groups):
        fitted = _fit(usual, {name: x[rest] for name, x in known.items()})
        yield rest, held, _distances(fitted, {name: x[held] for name, x in known.items()})
