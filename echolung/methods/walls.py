"""The method `hybrid-walls`: the hybrid's temporal part on the walls that a U-Net draws, for events of a few frames.

A token is one frame's ventricle: how far each wall is from the long axis at every height, and how long the axis is, as
shares of its length at end-diastole and less their mean over the recording. The U-Net is that of `segmentation`, fitted
on the traced frames of the training recordings.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pydantic

from echolung.core.runtime import read_json, write_json
from echolung.data.clips import clip_indices, evaluation_starts
from echolung.embedding.features import Features
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.hearts import volumes
from echolung.kinds.task import Task
from echolung.methods.ejection_fraction import EjectionFraction, drawn_task, traced_rows
from echolung.methods.hybrid import Clip, EndToEnd, OnTokens, Read, TemporalSettings
from echolung.methods.method import Curve, Maps, Method, Rows
from echolung.methods.segmentation import Segmentation, UNetSettings

RECORD = "walls.json"


class WallsSettings(TemporalSettings):
    """The temporal part, the U-Net, and clips spread over a recording: as many `views` as leave no event out."""

    unet: UNetSettings = UNetSettings.parse({}, "hybrid-walls")
    frames: int = pydantic.Field(32, ge=2)
    clip_fps: float = pydantic.Field(25.0, gt=0)
    views: int = pydantic.Field(3, ge=1)


class OnShapes(OnTokens):
    """The temporal part; the steps after the end of a video have the shape NaN."""

    def reader(self, recordings: Recordings) -> Read:
        def read(name: str, random: np.random.Generator | None) -> Clip:
            x = recordings.tokens([name])[0].astype(np.float32)
            x = x if random is None else x[random.integers(len(x), size=1)]
            return x, ~np.isnan(x).any(axis=2)

        return read


class OnWalls(Method):
    """Two fits, one on the other."""

    kinds = ("classification",)
    gpus = 1.0
    Settings = WallsSettings
    code = (*EjectionFraction.code, *EndToEnd.code, "echolung.methods.ejection_fraction", "echolung.methods.hybrid")

    def __init__(self, settings: Any, segmenter: Segmentation, temporal: OnShapes) -> None:
        self.settings, self.segmenter, self.temporal, self._search = settings, segmenter, temporal, temporal.search()

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        rows = traced_rows(task, recordings, training)
        of_masks = drawn_task(task, recordings, list(rows["sample_id"]))
        segmenter = Segmentation.fit(settings.unet, of_masks, recordings, rows, seed, directory)
        alone = TemporalSettings.parse(settings.model_dump(include={*TemporalSettings.model_fields}), "fit.methods")
        walls = walls_of(settings, segmenter, recordings, list(training["sample_id"]))
        return cls(settings, segmenter, OnShapes.fit(alone, task, walls, training, seed, directory))

    @classmethod
    def reads(cls, task: Task, recordings: Recordings, training: Rows) -> list[str]:
        return EjectionFraction.reads(task, recordings, training)

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        return self.temporal.predict(walls_of(self.settings, self.segmenter, recordings, sample_ids), sample_ids)

    def save(self, directory: Path) -> None:
        write_json(directory / RECORD, self.settings.model_dump(mode="json"))
        self.segmenter.save(directory)
        self.temporal.save(directory)

    @classmethod
    def load(cls, directory: Path) -> Self:
        settings = WallsSettings.parse(read_json(directory / RECORD), str(directory / RECORD))
        return cls(settings, Segmentation.load(directory), OnShapes.load(directory))

    def explain(self, recordings: Recordings, sample_id: str) -> Maps:
        maps = self.segmenter.explain(recordings, sample_id)
        assert maps.drawing is not None
        left, right = shapes(maps.drawing.labels[0])[:, :-1].reshape(-1, 2, volumes.DISCS).mean(axis=2).T
        curve = Curve(
            lines={"wall on the left of the picture": 100 * left, "on the right": 100 * right},
            seconds=np.arange(len(left)) / recordings.fps(sample_id),
            label="mean distance of a wall from the long axis, % of its length at end-diastole",
            marks={},
            readings=(),
            words="The temporal part reads how this changes, at every height of the axis.",
        )
        return dataclasses.replace(maps, curve=curve)


def walls_of(settings: Any, segmenter: Segmentation, recordings: Recordings, sample_ids: Sequence[str]) -> Recordings:
    """The same recordings, with the `motion` of a few clips as their tokens; NaN after the end of a video."""
    tokens, times = [], np.arange(settings.frames) / settings.clip_fps
    for name in sample_ids:
        every = np.arange(len(recordings.frames(name)))
        found = motion(shapes(segmenter.maps(recordings, name, every)))
        known = len(every), recordings.fps(name), settings.frames, settings.clip_fps
        starts = evaluation_starts(*known, settings.views)
        clips = np.stack([found[clip_indices(*known, start)] for start in starts])
        clips[(starts[:, None] + times) * known[1] + 1e-6 >= len(every)] = np.nan
        tokens.append(clips)
    features = Features.in_memory(sample_ids, np.array(tokens, np.float16), (settings.frames, 1, 1))
    return Recordings([Part(pd.DataFrame({"sample_id": list(sample_ids)}), HeldClips({}), features)])


def motion(found: np.ndarray) -> np.ndarray:
    """`shapes` (T, D) less their mean, since hearts differ more than a wall moves; 0 where no ventricle is drawn."""
    seen = found[:, -1:] > 0
    return (found - found.sum(axis=0) / max(1, seen.sum())) * seen


def shapes(maps: np.ndarray) -> np.ndarray:
    """Of label maps (T, S, S) both walls' distances, left before right, and the axis's length, as shares of its 95th
    percentile, which one badly drawn frame does not move: (T, 2 * DISCS + 1)."""
    rows = []
    for drawn in maps:
        ventricle = volumes.largest(drawn == 1)
        distances, length = volumes.walls(ventricle, axis=volumes.long_axis(ventricle, drawn == 3))
        rows.append([*distances.ravel(), length])
    return np.array(rows) / (np.quantile([row[-1] for row in rows], 0.95) or 1.0)
