"""Does a video lie outside what a model has seen? Its distance to the training videos, and the threshold for saying so.

A video is described by three numbers per channel of its tokens: their mean, their spread, and how much they change from
one tubelet to the next. Its distance is Mahalanobis', the covariance shrunk by the rule of Ledoit & Wolf (2004,
10.1016/S0047-259X(03)00096-4), divided by the square root of the number of dimensions. The threshold is a quantile of
the training videos' distances, each measured with its patient left out, so that a share of new patients' videos, named
beforehand, is flagged although nothing is wrong with it. That share is then estimated anew, on patients whom neither
the distance nor the threshold has seen.

What is kept is the mean and the covariance of the descriptions: of no single video can its description be read off.

Dimension letters: V videos, G groups of patients, N tokens, D width, P = 3 D dimensions of a description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import linalg
from torch.nn import functional as F

from echolung.errors import CheckpointError, DataError
from echolung.evaluation.statistics import wilson_interval
from echolung.parameters import Parameters
from echolung.runtime import atomic_path, derived_seed, sha256_file

FILE = "novelty.safetensors"
PARTS = 20
"""Groups are left out one at a time, or, if there are more than this, in this many parts."""
FEWEST = 5
"""Groups of patients without which nothing can be said."""
SCALE_FLOOR = 0.01
"""A dimension that hardly varies is divided by this share of the median deviation at least."""
NORM_EPSILON = 1e-6
EPSILON = 1e-9
"""Keeps what does not vary at all from dividing by 0."""


class NoveltySettings(Parameters):
    """`false_alarms`: the share of new patients' videos, of the kind the model was trained on, that may be flagged."""

    false_alarms: float = pydantic.Field(0.05, gt=0, lt=0.5)


class NoveltyRecord(Parameters):
    """What is known of a fitted threshold."""

    distance: Literal["mahalanobis-of-mean-spread-change"] = "mahalanobis-of-mean-spread-change"
    threshold: float = pydantic.Field(gt=0)
    """A video at a greater distance is outside."""
    wanted: float
    """The share of false alarms that the threshold was set for: as asked, or 1 / (G + 1) where fewer patients than it
    takes are there to show so small a share."""
    measured: float
    """The share that was flagged of patients whom neither distance nor threshold had seen, every group counting as one;
    as for `wanted`, new patients from where the training videos come from, not from elsewhere."""
    measured_low: float
    measured_high: float
    """Its 95% interval (Wilson), the groups being the trials."""
    videos: int
    groups: int
    sha256: str = ""
    """Of the file that holds the numbers."""


Distance = Callable[[np.ndarray], np.ndarray]
"""From descriptions (V, P) to how far away each is, (V,)."""


@dataclass(frozen=True)
class Usual:
    """What descriptions are like: mean (P,), scale (P,), and the Cholesky factor (P, P) of the shrunk covariance of
    the standardised ones."""

    mean: np.ndarray
    scale: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, descriptions: np.ndarray) -> Usual:
        """Of descriptions (V, P)."""
        mean, deviation = descriptions.mean(axis=0), descriptions.std(axis=0)
        scale = np.maximum(deviation, SCALE_FLOOR * float(np.median(deviation)) + EPSILON)
        covariance = _shrunk_covariance((descriptions - mean) / scale)
        return cls(mean, scale, np.linalg.cholesky(covariance + EPSILON * np.eye(len(mean))))

    def distances(self, descriptions: np.ndarray) -> np.ndarray:
        """Of descriptions (V, P) to the mean, (V,): at least 0; about 1 for one that is like the others."""
        whitened = linalg.solve_triangular(self.factor, ((descriptions - self.mean) / self.scale).T, lower=True)
        return np.linalg.norm(whitened, axis=0) / np.sqrt(len(self.mean))


@dataclass(frozen=True)
class Novelty:
    """What the training videos are like, and how far from them a video may lie."""

    usual: Usual
    record: NoveltyRecord


def describe(tokens: torch.Tensor, time: int) -> np.ndarray:
    """One video's description, float64 (P,), from its tokens (views, N, D), whose first axis on the grid is `time`."""
    x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=NORM_EPSILON).unflatten(1, (time, -1))
    flat = x.flatten(0, 2)
    change = (x[:, 1:] - x[:, :-1]).abs().flatten(0, 2)
    moved = change.mean(dim=0) if len(change) else torch.zeros(x.shape[-1])
    return torch.cat([flat.mean(dim=0), flat.std(dim=0, correction=0), moved.to(flat)]).double().cpu().numpy()


def fit_novelty(descriptions: np.ndarray, groups: np.ndarray, settings: NoveltySettings) -> Novelty:
    """Distance and threshold from training descriptions (V, P) and the group of patients each belongs to, (V,).

    Raises DataError if there are fewer groups than FEWEST, or a description is not a number.
    """
    names = np.unique(groups)
    if len(names) < FEWEST:
        raise DataError(f"{len(names)} patients do not show what is usual", f"Add videos of {FEWEST} or more patients.")
    if not np.isfinite(descriptions).all():
        raise DataError("a training video's tokens are not numbers", "Run `dvc repro embed`.")
    threshold = fit_threshold(_mahalanobis, descriptions, groups, settings.false_alarms)
    alarms = np.empty(len(groups))
    for held in _parts(groups):
        known, rest = descriptions[~held], groups[~held]
        limit = fit_threshold(_mahalanobis, known, rest, settings.false_alarms)
        alarms[held] = _mahalanobis(known)(descriptions[held]) > limit
    measured = float(_group_weights(groups) @ alarms) / len(names)
    low, high = wilson_interval(measured * len(names), len(names))
    record = NoveltyRecord(
        threshold=threshold,
        wanted=max(settings.false_alarms, 1 / (len(names) + 1)),
        measured=measured,
        measured_low=low,
        measured_high=high,
        videos=len(groups),
        groups=len(names),
    )
    return Novelty(Usual.of(descriptions), record)


def fit_threshold(
    fit: Callable[[np.ndarray], Distance], descriptions: np.ndarray, groups: np.ndarray, false_alarms: float
) -> float:
    """The distance that a share `false_alarms` of new groups' videos exceeds at most, on average.

    `fit` makes a distance of known descriptions. Every video is measured with its group left out, and the videos of a
    group share one weight. The threshold is the conformal quantile (Vovk et al. 2005): the new group counts as one
    more, farther out than all that are known. With too few groups for that share it is the largest distance, which one
    group of G + 1 exceeds.
    """
    distances = np.empty(len(groups))
    for held in _parts(groups):
        distances[held] = fit(descriptions[~held])(descriptions[held])
    order = np.argsort(distances)
    reached = np.cumsum(_group_weights(groups)[order])
    needed = (1 - false_alarms) * (len(np.unique(groups)) + 1)
    place = int(np.searchsorted(reached, needed - 1e-9))
    return float(distances[order][min(place, len(order) - 1)])


def save_novelty(directory: Path, novelty: Novelty) -> NoveltyRecord:
    """Write `novelty.safetensors`; returns the record with the digest of it."""
    with atomic_path(directory / FILE) as temporary:
        arrays = vars(novelty.usual)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    return novelty.record.model_copy(update={"sha256": sha256_file(directory / FILE)})


def load_novelty(directory: Path, record: NoveltyRecord) -> Novelty:
    """What `save_novelty` wrote; raises CheckpointError if the file is gone, damaged, or not the record's."""
    path = directory / FILE
    remedy = "Promote a model again: `echolung promote TASK`."
    try:
        if sha256_file(path) != record.sha256:
            raise CheckpointError(f"{path} is not the file that the classifier was registered with", remedy)
        arrays = load_file(path)
        return Novelty(Usual(arrays["mean"], arrays["scale"], arrays["factor"]), record)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not hold a classifier's training statistics ({error})", remedy) from None


def _mahalanobis(known: np.ndarray) -> Distance:
    return Usual.of(known).distances


def _shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """The covariance of centred x (V, P), drawn towards a multiple of the identity as far as its own noise asks for.

    (1 - s) S + s m I, where m is the mean variance, and s the noise of S over its distance from m I, at most 1.
    """
    videos, dimensions = x.shape
    covariance = x.T @ x / videos
    mean = np.trace(covariance) / dimensions
    squares = (covariance**2).sum()
    noise = ((x**2).sum(axis=1) ** 2).sum() / videos**2 - squares / videos
    distance = squares - dimensions * mean**2
    share = min(1.0, noise / distance) if distance > 0 else 1.0
    return (1 - share) * covariance + share * mean * np.eye(dimensions)


def _parts(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Which videos are left out together, bool (V,): each group once, and always whole."""
    names = np.unique(groups)
    order = np.random.default_rng(derived_seed("novelty")).permutation(names)
    for part in np.array_split(order, min(len(names), PARTS)):
        yield np.isin(groups, part)


def _group_weights(groups: np.ndarray) -> np.ndarray:
    """A weight per video, (V,): the videos of a group share one."""
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[place]
