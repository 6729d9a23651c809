"""Does a video lie outside what a model has seen? Its distance to the training videos, and the threshold for saying so.

A video is described, for every channel of its tokens, by their mean, their spread, and how much they change from one
tubelet to the next: over the whole frame, and in each of 3 x 3 regions of it. Its distance is Mahalanobis', the
covariance shrunk by the rule of Ledoit & Wolf (2004, 10.1016/S0047-259X(03)00096-4), divided by the square root of the
number of dimensions. The threshold is a quantile of the training videos' distances, each measured with its patient left
out, so that a share of new patients' videos, named beforehand, is flagged although nothing is wrong with it. That share
is then estimated anew, on patients whom neither the distance nor the threshold has seen.

What is kept of the training videos is their mean and the directions in which they differ, not the videos' descriptions.

Dimension letters: V videos, G groups of patients, N tokens, D width, P = 30 D numbers of a description, R directions.
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
from torch.nn import functional as F

from echolung.errors import CheckpointError, DataError
from echolung.evaluation.statistics import wilson_interval
from echolung.parameters import Parameters
from echolung.runtime import atomic_path, derived_seed, sha256_file

FILE = "novelty.safetensors"
REGIONS = 3
"""Along either side of a frame."""
PARTS, PARTS_OF_MANY, MANY = 20, 5, 1000
"""Groups are left out one at a time, or, if there are more, in 20 parts; in 5 if there are more than 1000 videos."""
DIRECTIONS = 512
"""Directions of the covariance that are kept, at most; the variance in all others counts as the same."""
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

    distance: Literal["mahalanobis-of-mean-spread-change-by-region"] = "mahalanobis-of-mean-spread-change-by-region"
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
    """What descriptions are like: mean (P,), scale (P,), and of the standardised ones the directions (P, R) that they
    differ in, the variances (R,) along these, and `floor` (1,), the variance in every other direction."""

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, descriptions: np.ndarray) -> Usual:
        """Of descriptions (V, P)."""
        mean, deviation = descriptions.mean(axis=0), descriptions.std(axis=0)
        scale = np.maximum(deviation, SCALE_FLOOR * float(np.median(deviation)) + EPSILON)
        x = (descriptions - mean) / scale
        variances, directions = _principal(x)
        total = (x**2).sum() / len(x)
        shrinkage = _shrinkage(x, variances, total)
        rest = max(0.0, total - variances[:DIRECTIONS].sum()) / max(1, x.shape[1] - DIRECTIONS)
        shrunk = (1 - shrinkage) * np.append(variances[:DIRECTIONS], rest) + shrinkage * total / x.shape[1] + EPSILON
        return cls(mean, scale, directions[:, :DIRECTIONS].astype(np.float32), shrunk[:-1], shrunk[-1:])

    def distances(self, descriptions: np.ndarray) -> np.ndarray:
        """Of descriptions (V, P) to the mean, (V,): at least 0; about 1 for one that is like the others."""
        x = (descriptions - self.mean) / self.scale
        along = x @ self.directions.astype(np.float64)
        other = np.maximum((x**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.sqrt(((along**2 / self.variances).sum(axis=1) + other / self.floor) / len(self.mean))


@dataclass(frozen=True)
class Novelty:
    """What the training videos are like, and how far from them a video may lie."""

    usual: Usual
    record: NoveltyRecord


def describe(tokens: torch.Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """One video's description, float64 (P,), from its tokens (views, N, D) on a grid of (time, height, width)."""
    x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=NORM_EPSILON).unflatten(1, grid)
    change = (x[:, 1:] - x[:, :-1]).abs() if grid[0] > 1 else torch.zeros_like(x)
    # Maps (D, height, width), averaged over views and time.
    mean, square, moved = (values.mean(dim=(0, 1)).permute(2, 0, 1) for values in (x, x**2, change))
    found = []
    for regions in (1, REGIONS):
        means, squares, moves = (F.adaptive_avg_pool2d(each, regions).flatten() for each in (mean, square, moved))
        found += [means, (squares - means**2).clamp(min=0).sqrt(), moves]
    return torch.cat(found).double().cpu().numpy()


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
        return Novelty(Usual(**arrays), record)
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not hold a classifier's training statistics ({error})", remedy) from None


def _mahalanobis(known: np.ndarray) -> Distance:
    return Usual.of(known).distances


def _principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (R,), largest first, and directions (P, R) of centred x (V, P), by the smaller of its two products."""
    videos, dimensions = x.shape
    if dimensions <= videos:
        variances, directions = np.linalg.eigh(x.T @ x / videos)
    else:
        variances, along = np.linalg.eigh(x @ x.T / videos)
        kept = variances > 1e-10 * max(variances[-1], EPSILON)
        variances, directions = variances[kept], x.T @ (along[:, kept] / np.sqrt(videos * variances[kept]))
    return np.maximum(variances[::-1], 0), directions[:, ::-1]


def _shrinkage(x: np.ndarray, variances: np.ndarray, total: float) -> float:
    """How far the covariance S of centred x (V, P) is to be drawn towards the same variance m in every direction.

    The covariance's own noise over its distance from m I, at most 1 (Ledoit & Wolf 2004).
    """
    videos, dimensions = x.shape
    squares = (variances**2).sum()  # = the squared elements of S
    noise = ((x**2).sum(axis=1) ** 2).sum() / videos**2 - squares / videos
    distance = squares - total**2 / dimensions
    return float(min(1.0, noise / distance)) if distance > EPSILON else 1.0


def _parts(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Which videos are left out together, bool (V,): each group once, and always whole."""
    names = np.unique(groups)
    order = np.random.default_rng(derived_seed("novelty")).permutation(names)
    for part in np.array_split(order, min(len(names), PARTS if len(groups) <= MANY else PARTS_OF_MANY)):
        yield np.isin(groups, part)


def _group_weights(groups: np.ndarray) -> np.ndarray:
    """A weight per video, (V,): the videos of a group share one."""
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[place]
