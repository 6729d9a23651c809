"""The method `ejection-fraction`: masks of all frames, volumes, beats, and the fraction that each beat ejects.

A U-Net is fitted on the traced frames of the training recordings. With the set's official split these include its TRAIN
and VAL recordings that have masks and no label. Every frame of a recording is drawn; of the left ventricle the largest
piece counts. A recording answers with the mean over its beats; where none is whole, with its largest and smallest
volume. Both apical views of a patient answer together by biplane discs of their mean end-diastole and end-systole. A
recording that shows no ventricle answers like the median of the training patients.

One `offset` is fitted (the median of reference - answer) since references are not made as discs are;
`ejection-fraction-raw` is the same without it. It and the interval (split conformal) rest on the patients of the inner
fold that stopped the network: it never trained on their masks.

`ejection-fraction-class` tells which side of a cut the fraction lies on: a logistic curve, which never rises with the
fraction, makes a probability of it. It rests on the same patients: few, and often parted, so its targets are
(n + 1) / (n + 2) and 1 / (n + 2), not 1 and 0 (Platt 1999).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pydantic
from scipy import ndimage
from scipy.optimize import minimize
from scipy.special import expit

from echolung.core.errors import DataError, SettingsError
from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, write_json
from echolung.data.geometry import Letterbox
from echolung.data.masks import STRUCTURES
from echolung.embedding.recordings import Recordings
from echolung.hearts import volumes
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.regression import RegressionTask, regression_of
from echolung.kinds.segmentation import SegmentationTask
from echolung.kinds.task import Task
from echolung.methods import ridge
from echolung.methods.cohort import Cohort, of_units
from echolung.methods.method import Curve, Maps, Method, Rows
from echolung.methods.segmentation import Segmentation, Segmenter, UNetSettings

RECORD = "ejection_fraction.json"
POINTS = 10.0  # percent of ejection fraction that are one step of the logistic curve


class Reading(Parameters):
    """How masks are read."""

    views: tuple[Literal["A4C", "A2C"], ...] = ("A4C", "A2C")
    """That answer together for a patient who has them all: one view by circular discs, both by biplane ones."""
    formula: Literal["discs", "area-length"] = "discs"
    smooth: float = pydantic.Field(default=0.04, ge=0)
    """Seconds to either side over which a diameter is the median; 0: every frame for itself."""


class EjectionSettings(UNetSettings):
    """The network, and how its masks are read."""

    reading: Reading = Reading()
    length: Literal["own", "common", "chosen"] = "chosen"
    """Of the long axis at end-systole: its own, that of end-diastole, as the references of CAMUS have it (which reads 8
    points lower), or what errs less on the inner fold."""


class EjectionFraction(Method):
    """With the offset."""

    kinds = ("regression",)
    gpus = 1.0
    Settings = EjectionSettings
    shifted: ClassVar[bool] = True
    code: ClassVar[tuple[str, ...]] = (*Segmenter.code, *Segmentation.code, "echolung.hearts", "echolung.methods.ridge")

    def __init__(self, segmenter: Segmentation, reading: Reading, facts: dict[str, float]) -> None:
        """`facts`: offset and half (of the interval), in points; fallback, without a ventricle; common: 0 or 1."""
        self.segmenter, self.reading, self.facts = segmenter, reading, facts

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        rows = traced_rows(task, recordings, training)
        of_masks = drawn_task(task, recordings, list(rows["sample_id"]))
        network = UNetSettings.parse(settings.model_dump(exclude={"length", "reading"}), "fit.methods")
        segmenter = Segmentation.fit(network, of_masks, recordings, rows, seed, directory)
        fallback = float(training.groupby("patient_id")["y"].mean().median())
        held_out = training[training["inner"] == _first(rows["inner"])]
        known = held_out if len(held_out) else training
        one = cls(segmenter, settings.reading, {"fallback": fallback})
        beats = one.mean_beats(recordings, [str(name) for name in known["sample_id"]])
        fits = []
        for common in (False, True) if settings.length == "chosen" else (settings.length == "common",):
            told = one.fractions(beats, common)
            error = (known["y"] - told).groupby(known["patient_id"]).mean().to_numpy()
            offset = float(np.median(error)) if cls.shifted else 0.0
            half = ridge.conformal(np.abs(error - offset), regression_of(task).coverage)
            facts = {"offset": offset, "half": half, "fallback": fallback, "common": float(common)}
            fits.append((float(np.abs(error - offset).mean()), facts))
        return cls(segmenter, settings.reading, min(fits, key=lambda one: one[0])[1])

    @classmethod
    def reads(cls, task: Task, recordings: Recordings, training: Rows) -> list[str]:
        return sorted({*training["sample_id"], *traced_rows(task, recordings, training)["sample_id"]})

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        told = self.fractions(self.mean_beats(recordings, sample_ids), bool(self.facts["common"]))
        return ridge.with_interval(told, self.facts["half"])

    def fractions(self, beats: list[list[np.ndarray]], common: bool) -> np.ndarray:
        """Of `mean_beats`, with the offset; float64 (n,)."""
        offset, formula = self.facts.get("offset", 0.0), self.reading.formula
        found = [fraction(one, common, formula) + offset if one else self.facts["fallback"] for one in beats]
        return np.array(found)

    def mean_beats(self, recordings: Recordings, sample_ids: Sequence[str]) -> list[list[np.ndarray]]:
        """Of each recording the mean beat (2, DISCS + 1) of every view that answers; none if one shows no ventricle."""
        known: dict[str, list[np.ndarray]] = {}
        found = []
        for sample_id in sample_ids:
            names = recordings.views_of(sample_id, self.reading.views)
            known |= {name: self.beats(recordings, name) for name in names if name not in known}
            found.append([np.mean(known[name], axis=0) for name in names] if all(known[name] for name in names) else [])
        return found

    def beats(self, recordings: Recordings, sample_id: str) -> list[np.ndarray]:
        """Of each beat the diameters and the axis's length at end-diastole and end-systole: (2, DISCS + 1), pixels."""
        every, fps = np.arange(len(recordings.frames(sample_id))), recordings.fps(sample_id)
        maps = self.segmenter.maps(recordings, sample_id, every)
        curve, shapes = volume_curve(maps, round(self.reading.smooth * fps))
        return [shapes[list(beat)] for beat in beats_of(curve, fps)]

    def save(self, directory: Path) -> None:
        self.segmenter.save(directory)
        write_json(directory / RECORD, {"reading": self.reading.model_dump(mode="json"), "facts": self.facts})

    @classmethod
    def load(cls, directory: Path) -> Self:
        found = read_json(directory / RECORD)
        reading = Reading.parse(found["reading"], str(directory / RECORD))
        return cls(Segmentation.load(directory), reading, found["facts"])

    def search(self) -> pd.DataFrame:
        return self.segmenter.search().assign(offset=self.facts["offset"])

    def explain(self, recordings: Recordings, sample_id: str) -> Maps:
        """The segmenter's, and the curve of volumes that the beats are found in."""
        maps, fps = self.segmenter.explain(recordings, sample_id), recordings.fps(sample_id)
        assert maps.drawing is not None
        smooth = round(self.reading.smooth * fps)
        (curve, shapes), (raw, _) = (volume_curve(maps.drawing.labels[0], frames) for frames in (smooth, 0))
        found, common = beats_of(curve, fps), bool(self.facts["common"])
        read = [fraction([shapes[list(beat)]], common, self.reading.formula) + self.facts["offset"] for beat in found]
        ml = spacing_of(recordings, sample_id) ** 3
        unit, scale = ("ml", ml) if np.isfinite(ml) else ("% of the largest", 100 / (curve.max() or 1.0))
        return dataclasses.replace(
            maps,
            curve=Curve(
                lines={"each frame": raw * scale, "smoothed": curve * scale},
                seconds=np.arange(len(curve)) / fps,
                label=f"volume of the left ventricle, {unit}",
                marks={"end-diastole": [full for full, _ in found], "end-systole": [empty for _, empty in found]},
                readings=[f"EF {one:.0f}%" for one in read],
                words=f"Discs in one view. EF of each beat, {'with one length of the axis and ' * common}"
                f"{self.facts['offset']:+.1f} points of offset;\nthe answer is that of the mean beat.",
            ),
        )


class RawEjectionFraction(EjectionFraction):
    """As the discs say it."""

    shifted = False


class EjectionClass(EjectionFraction):
    """Its `facts` also hold the curve: cut, in percent; odds at the cut; slope, not negative."""

    kinds = ("classification",)
    code = (*EjectionFraction.code, "echolung.methods.cohort")

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        if not isinstance(task, ClassificationTask) or task.below is None:
            raise SettingsError(
                f"ejection-fraction-class tells on which side of a cut a number lies, no classes of '{task.label}'",
                "Give the task two classes and `below`, or leave the method out of the study.",
            )
        shared = task.model_dump(include={"source", "label", "unit", "folds", "train"})
        number = RegressionTask.parse({"kind": "regression", **shared}, "the ejection fraction")
        percent = recordings.manifest(list(training["sample_id"]))[task.label].astype(float).to_numpy()
        one = super().fit(settings, number, recordings, training.assign(y=percent), seed, directory)
        cohort = Cohort.of(training, task.unit)
        rows = np.flatnonzero(cohort.inner == min(cohort.folds, default=-2))
        told = one.percent(recordings, [cohort.sample_ids[at] for at in rows])
        known = np.stack([(task.below - told) / POINTS, cohort.y[rows]], axis=1)
        odds, slope = logistic_curve(*of_units(known, cohort.unit[rows]).T)
        one.facts |= {"cut": task.below, "odds": odds, "slope": slope}
        return one

    def percent(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        """Ejection fractions (n,)."""
        return super().predict(recordings, sample_ids)[:, 0]

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        below = (self.facts["cut"] - self.percent(recordings, sample_ids)) / POINTS
        p = expit(self.facts["odds"] + self.facts["slope"] * below)
        return np.stack([1 - p, p], axis=1)


def logistic_curve(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Log-odds at x = 0 and slope, at least 0, of the logistic curve that is likeliest for x (n,) of classes y (n,)."""
    positive, negative = y.sum(), len(y) - y.sum()
    target = np.where(y > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[0] + at[1] * x
        error = expit(z) - target
        return float((np.logaddexp(0, z) - target * z).sum()), np.array([error.sum(), (error * x).sum()])

    found = minimize(loss, np.array([0.0, 1.0]), jac=True, bounds=[(None, None), (0, None)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def traced_rows(task: Task, recordings: Recordings, training: Rows) -> pd.DataFrame:
    """The training rows that have masks, and with an official split the TRAIN and VAL rows that lack the label only."""
    rows = training[["sample_id", "patient_id", "inner"]]
    if task.folds == "official":
        manifest = pd.concat([part.manifest for part in recordings.parts])
        more = manifest[manifest[task.label].isna() & manifest["split_official"].isin(["TRAIN", "VAL"])]
        more = more[~more["patient_id"].isin(training["patient_id"])]
        inner = np.where(more["split_official"] == "VAL", _first(rows["inner"]), -2)
        rows = pd.concat([rows, more[["sample_id", "patient_id"]].assign(inner=inner)], ignore_index=True)
    return rows[[recordings.masks(str(name)) is not None for name in rows["sample_id"]]].reset_index(drop=True)


def drawn_task(task: Task, recordings: Recordings, sample_ids: Sequence[str]) -> SegmentationTask:
    """Segmentation of what is traced in these recordings: what is nowhere traced, a network would invent.
    Raises DataError if there is none."""
    traced = {structure for name in sample_ids for structure in getattr(recordings.masks(name), "structures", ())}
    if not traced:
        problem = f"no recording of '{task.source}' that may be trained on has masks"
        raise DataError(problem, "Add masks to the source, or leave the arms out that draw (docs/studies.md).")
    structures = [one for one in STRUCTURES if one in traced]
    return SegmentationTask.parse({"kind": "segmentation", "source": task.source, "structures": structures}, "masks")


def beats_of(curve: np.ndarray, fps: float) -> list[tuple[int, int]]:
    """Frames of end-diastole and end-systole: of whole beats, else the largest and the smallest; none if all is 0."""
    if not curve.max() > 0:
        return []
    return volumes.beats(curve, fps) or [(int(curve.argmax()), int(curve.argmin()))]


def spacing_of(recordings: Recordings, sample_id: str) -> float:
    """mm per pixel of its frames; NaN if the file does not say."""
    row = recordings.manifest([sample_id]).iloc[0]
    mm = row.get("pixel_mm")
    box = Letterbox(row["height"], row["width"], recordings.frames(sample_id).shape[1], row["pixel_aspect"])
    return float(mm) * row["height"] / box.inner[0] if pd.notna(mm) else float("nan")


def volume_curve(maps: np.ndarray, smooth: int) -> tuple[np.ndarray, np.ndarray]:
    """Single-plane volumes (T,), and the diameters and length (T, DISCS + 1) they are made of, in pixels; each the
    median of `smooth` frames to either side."""
    rows = []
    for drawn in maps:
        ventricle = volumes.largest(drawn == 1)
        axis = volumes.long_axis(ventricle, drawn == 3)
        diameters, length = volumes.discs(ventricle, axis=axis)
        rows.append([*diameters, length])
    shapes = ndimage.median_filter(np.array(rows), (2 * smooth + 1, 1), mode="nearest")
    return np.array([volumes.disc_volume(row[:-1], row[:-1], row[-1]) for row in shapes]), shapes


def fraction(views: Sequence[np.ndarray], common: bool = False, formula: str = "discs") -> float:
    """Ejection fraction from diameters and length at end-diastole and end-systole (2, DISCS + 1) of one view or two.

    Two make biplane discs with the longer axis, or biplane areas with the shorter one. Their pixels need not be equally
    large: each view is measured in its own end-diastolic length. `common`: that length at end-systole, too.
    """
    first, last = views[0] / views[0][0, -1], views[-1] / views[-1][0, -1]
    if formula == "area-length":  # the mean diameter x the length is the area
        areas = [one[:, :-1].mean(1) * ([1.0, 1.0] if common else one[:, -1]) for one in (first, last)]
        shorter = np.array([1.0, 1.0 if common else min(first[1, -1], last[1, -1])])
        return volumes.ejection_fraction(*(areas[0] * areas[1] / shorter))
    lengths = [1.0, 1.0 if common else max(first[1, -1], last[1, -1])]
    full, empty = (volumes.disc_volume(first[at, :-1], last[at, :-1], length) for at, length in enumerate(lengths))
    return volumes.ejection_fraction(full, empty)


def _first(inner: pd.Series) -> int:
    """The inner fold that stops the network: the first one."""
    return int(inner[inner >= 0].min()) if (inner >= 0).any() else 0
