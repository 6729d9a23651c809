"""Does a video lie outside what a model has seen? Its distance to the training videos, and the threshold for saying so.

A video is described twice. By what the encoder makes of it: for every channel of its tokens their mean, their spread,
and how much they change from one tubelet to the next, over the whole frame and in each of 3 x 3 regions of it. And by
what it looks like: the hand-made numbers of brightness, texture and motion, for an encoder does not tell apart what it
was never taught to. Either distance is Mahalanobis', the covariance shrunk by the rule of Ledoit & Wolf (2004,
10.1016/S0047-259X(03)00096-4), divided by the square root of the number of dimensions; the distance is their mean. The
threshold is a quantile of the training videos' distances, each measured with its patient left out, so that a share of
new patients' videos, named beforehand, is flagged although nothing is wrong with it. That share is then estimated anew,
on patients whom neither the distance nor the threshold has seen.

What is kept of the training videos is their mean and the directions in which they differ, not the videos' descriptions.

Dimension letters: V videos, G groups of patients, N tokens, D width, P numbers of a description (30 D of the tokens),
R directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F

from echolung.core.errors import CheckpointError, DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_path, derived_seed, sha256_file
from echolung.data.clips import ClipStore
from echolung.embedding.features import Features
from echolung.evaluation.statistics import wilson_interval
from echolung.methods.handmade import handmade_features

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
FARTHEST = 10.0
"""Standard deviations at which a value counts as no farther away: one number that hardly ever varies must not decide
alone, neither that a video is outside nor, having been met in training, that nothing ever is."""
NORM_EPSILON = 1e-6
EPSILON = 1e-9
"""Keeps what does not vary at all from dividing by 0."""


class NoveltySettings(Parameters):
    """`false_alarms`: the share of new patients' videos, of the kind the model was trained on, that may be flagged."""

    false_alarms: float = pydantic.Field(0.05, gt=0, lt=0.5)


class NoveltyRecord(Parameters):
    """What is known of a fitted threshold."""

    distance: Literal["mahalanobis-of-tokens-and-handmade"] = "mahalanobis-of-tokens-and-handmade"
    threshold: float = pydantic.Field(gt=0)
    """A video at a greater distance is outside."""
    wanted: float
    """The share of false alarms that the threshold was set for: as asked, or 1 / (G + 1) where fewer patients than it
    takes are there to show so small a share."""
    measured: float
    """The share that was flagged of patients whom neither distance nor threshold had seen, every group counting as one:
    what this way of setting a threshold does, not this very threshold, which all patients have seen. As for `wanted`,
    of new patients from where the training videos come from, not from elsewhere."""
    measured_low: float
    measured_high: float
    """Its 95% interval (Wilson), the groups being the trials."""
    videos: int
    groups: int
    sha256: str = ""
    """Of the file that holds the numbers."""


@dataclass(frozen=True)
class Descriptions:
    """Of V videos: what the encoder makes of them, and what they look like; each (V, its own P)."""

    tokens: np.ndarray
    handmade: np.ndarray

    @classmethod
    def stack(cls, each: Iterable[tuple[np.ndarray, np.ndarray]]) -> Descriptions:
        """Of what `describe` returns, one per video."""
        tokens, handmade = zip(*each, strict=True)
        return cls(np.stack(tokens), np.stack(handmade))

    def __getitem__(self, videos: np.ndarray) -> Descriptions:
        return Descriptions(self.tokens[videos], self.handmade[videos])

    @property
    def finite(self) -> bool:
        """Whether all are numbers."""
        return bool(np.isfinite(self.tokens).all() and np.isfinite(self.handmade).all())


Distance = Callable[[Descriptions], np.ndarray]
"""From descriptions of V videos to how far away each is, (V,)."""


@dataclass(frozen=True)
class Usual:
    """What descriptions of one kind are like: mean (P,), scale (P,), and of the standardised ones the directions (P, R)
    that they differ in, the variances (R,) along these, and `floor` (1,), the variance in every other direction."""

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
        x = _standardised(descriptions, mean, scale)
        variances, directions = _principal(x)
        total = (x**2).sum() / len(x)
        shrinkage = _shrinkage(x, variances, total)
        rest = max(0.0, total - variances[:DIRECTIONS].sum()) / max(1, x.shape[1] - DIRECTIONS)
        shrunk = (1 - shrinkage) * np.append(variances[:DIRECTIONS], rest) + shrinkage * total / x.shape[1] + EPSILON
        return cls(mean, scale, directions[:, :DIRECTIONS].astype(np.float32), shrunk[:-1], shrunk[-1:])

    def distances(self, descriptions: np.ndarray) -> np.ndarray:
        """Of descriptions (V, P) to the mean, (V,): at least 0; about 1 for one that is like the others."""
        x = _standardised(descriptions, self.mean, self.scale)
        along = x @ self.directions.astype(np.float64)
        other = np.maximum((x**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.sqrt(((along**2 / self.variances).sum(axis=1) + other / self.floor) / len(self.mean))


@dataclass(frozen=True)
class UsualVideos:
    """What videos are like, by both descriptions."""

    tokens: Usual
    handmade: Usual

    @classmethod
    def of(cls, known: Descriptions) -> UsualVideos:
        """Of the descriptions of V videos."""
        return cls(Usual.of(known.tokens), Usual.of(known.handmade))

    def distances(self, asked: Descriptions) -> np.ndarray:
        """Of V videos, (V,): the mean of the two distances."""
        return (self.tokens.distances(asked.tokens) + self.handmade.distances(asked.handmade)) / 2


@dataclass(frozen=True)
class Novelty:
    """What the training videos are like, and how far from them a video may lie."""

    usual: UsualVideos
    record: NoveltyRecord


def describe(tokens: torch.Tensor, grid: tuple[int, int, int], frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One video's two descriptions, float64 (30 D,) and (K,).

    From its tokens (views, N, D) on a grid of (time, height, width), and its letterboxed frames uint8 (T, S, S).
    """
    x = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=NORM_EPSILON).unflatten(1, grid)
    change = (x[:, 1:] - x[:, :-1]).abs() if grid[0] > 1 else torch.zeros_like(x)
    # Maps (D, height, width), averaged over views and time.
    mean, square, moved = (values.mean(dim=(0, 1)).permute(2, 0, 1) for values in (x, x**2, change))
    found = []
    for regions in (1, REGIONS):
        means, squares, moves = (F.adaptive_avg_pool2d(each, regions).flatten() for each in (mean, square, moved))
        found += [means, (squares - means**2).clamp(min=0).sqrt(), moves]
    looks = np.array(list(handmade_features(frames).values()))
    return torch.cat(found).double().cpu().numpy(), looks


def described_videos(
    features: Features, clips: ClipStore, grid: tuple[int, int, int], sample_ids: Iterable[str]
) -> Descriptions:
    """Of the study's own videos, from its feature store and its clip store.

    Raises DataError where a video is missing from either, or they hold different versions of it.
    """
    names = list(sample_ids)
    places = features.positions(names)
    contents = features.videos["sha256"].to_numpy()
    for name, place in zip(names, places, strict=True):
        if clips.sha256(name) != contents[place]:
            raise DataError(f"the features of {name} were made from another version of it", "Run `dvc repro`.")
    return Descriptions.stack(
        describe(torch.tensor(features.tokens[place]), grid, np.asarray(clips.frames(name)))
        for name, place in zip(names, places, strict=True)
    )


def fit_novelty(descriptions: Descriptions, groups: np.ndarray, settings: NoveltySettings) -> Novelty:
    """Distance and threshold from the training videos' descriptions and the group of patients each belongs to, (V,).

    Raises DataError if there are fewer groups than FEWEST, or a description is not a number.
    """
    names = np.unique(groups)
    if len(names) < FEWEST:
        raise DataError(f"{len(names)} patients do not show what is usual", f"Add videos of {FEWEST} or more patients.")
    if not descriptions.finite:
        raise DataError("a training video's tokens are not numbers", "Run `dvc repro embed`.")
    threshold = fit_threshold(_distance_to, descriptions, groups, settings.false_alarms)
    alarms = np.empty(len(groups))
    for held in _parts(groups):
        known, rest = descriptions[~held], groups[~held]
        limit = fit_threshold(_distance_to, known, rest, settings.false_alarms)
        alarms[held] = UsualVideos.of(known).distances(descriptions[held]) > limit
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
    return Novelty(UsualVideos.of(descriptions), record)


def fit_threshold(
    fit: Callable[[Descriptions], Distance], descriptions: Descriptions, groups: np.ndarray, false_alarms: float
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
        arrays = {
            f"{kind}.{name}": np.ascontiguousarray(array)
            for kind, usual in vars(novelty.usual).items()
            for name, array in vars(usual).items()
        }
        save_file(arrays, temporary)
    return novelty.record.model_copy(update={"sha256": sha256_file(directory / FILE)})


def load_novelty(directory: Path, record: NoveltyRecord) -> Novelty:
    """What `save_novelty` wrote; raises CheckpointError if the file is gone, damaged, or not the record's."""
    path = directory / FILE
    remedy = "Promote a model again: `echolung promote TASK`."
    try:
        if sha256_file(path) != record.sha256:
            raise CheckpointError(f"{path} is not the file that the classifier was registered with", remedy)
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, array in load_file(path).items():
            kind, _, part = name.partition(".")
            parts.setdefault(kind, {})[part] = array
        return Novelty(UsualVideos(**{kind: Usual(**arrays) for kind, arrays in parts.items()}), record)
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not hold a classifier's training statistics ({error})", remedy) from None


def _distance_to(known: Descriptions) -> Distance:
    return UsualVideos.of(known).distances


def _standardised(descriptions: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip((descriptions - mean) / scale, -FARTHEST, FARTHEST)


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
