"""Kind `segmentation`: structures drawn on frames, judged on the frames that readers traced.

A prediction is one row per recording, as in every kind, and holds what the masks are worth and not the masks: for each
structure and phase the Dice, IoU, 95% Hausdorff and mean surface distance against the mask store, taken when the method
predicts: a comparison reads kilobytes where masks are gigabytes. The loss of the paired test is 1 - the mean Dice over
the recording's structures and phases.

Distances are in mm: NaN where the source gives no pixel size. A structure that is missed altogether is as far away as
the frame's diagonal, since leaving it out would reward the miss. The 95% Hausdorff distance is the larger of the two
directed 95th percentiles, the mean surface distance the mean over both borders' pixels.

Dimension letters: B resamples, S seeds (or side of a frame), R repeats, U units, P patients, T frames.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import pydantic
from scipy import ndimage

from echolung.core.errors import DataError, listed
from echolung.data.masks import STRUCTURES, Masks
from echolung.evaluation import statistics
from echolung.kinds.kind import Kind, Scores
from echolung.kinds.metrics import Metric, mean_defined
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task, as_text, selected

MEASURES = ("dice", "iou", "hd95", "msd")
AREAS = ("largest", "smallest")
"""Of a structure over the frames that were looked at, in percent of the frame: what is told of a new recording."""


class SegmentationTask(Task):
    """Structures on frames. The unit is the recording; statistics keep a patient's recordings together."""

    label: Literal["masks"] = "masks"
    unit: Literal["video"] = "video"
    structures: tuple[str, ...] = STRUCTURES
    phases: tuple[Literal["ED", "ES", "between"], ...] = pydantic.Field(("ED", "ES"), min_length=1)
    """What is scored. `between`: frames that methods never train on where a recording has ED or ES."""
    groups: dict[str, tuple[str, ...]] = {}
    """Manifest column -> its values: tables tell each value apart (view, image_quality)."""

    @pydantic.field_validator("structures")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) < len(names) or not set(names) <= set(STRUCTURES):
            raise ValueError(f"each of these once, and one at least: {', '.join(STRUCTURES)}")
        return names

    @property
    def labels_all(self) -> bool:
        return False  # masks are no column of the manifest

    def places(self) -> list[tuple[str, str]]:
        """(structure, phase) in the order of the columns."""
        return [(structure, phase) for structure in self.structures for phase in self.phases]


class Segmentation(Kind):
    """Areas, then MEASURES of every structure and phase."""

    Settings = SegmentationTask
    metrics: ClassVar[Mapping[str, Metric]] = {
        "dice_loss": Metric("1 − Dice", False),
        "iou": Metric("IoU", True),
        "hd95": Metric("HD95 (mm)", False),
        "msd": Metric("MSD (mm)", False),
    }
    paired = ("dice_loss", "iou", "hd95", "msd")
    loss = "dice_loss"
    baseline = "mean-mask"
    valid = "a structure was scored, and every Dice is between 0 and 1"

    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        """`y` is the recording's place among the combinations of `groups`. A column `masks` of the manifest says which
        recordings have masks; without it all have."""
        if segmentation_of(task).unlabelled == "leave out" and "masks" in manifest:
            manifest = manifest[manifest["masks"]]
        rows = selected(task, manifest.assign(masks="traced"))
        rows = rows.assign(y=0.0, stratum=0)
        for column, values in segmentation_of(task).groups.items():
            found = as_text(rows[column]) if column in rows else pd.Series(None, rows.index, dtype="string")
            if strange := list(rows["sample_id"][~found.isin(values)]):
                problem = f"{len(strange)} videos have a '{column}' other than {', '.join(values)}: {listed(strange)}"
                raise DataError(problem, "Correct the task's `groups`, or the source.")
            place = found.map({value: at for at, value in enumerate(values)}).astype(float)
            rows["y"] = rows["y"] * len(values) + place
        return rows

    def columns(self, task: Task) -> list[str]:
        settings = segmentation_of(task)
        areas = [f"{area}_{structure}" for structure in settings.structures for area in AREAS]
        return [*areas, *(f"{measure}_{'_'.join(place)}" for place in settings.places() for measure in MEASURES)]

    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        dice = measured(task, values)[..., 0]
        return np.asarray(np.isnan(dice).all(axis=1) | (dice < 0).any(axis=1) | (dice > 1).any(axis=1))

    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        return 1 - mean_defined(measured(task, values)[..., 0])

    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        found = measured(units.task, units.values[key])
        values = {name: units.means(mean_defined(found[..., at]), counts) for at, name in enumerate(MEASURES)}
        values["dice_loss"] = 1 - values.pop("dice")
        return Scores({name: values[name] for name in self.metrics})

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        """structures: every measure of each structure, by phase and by each of the task's groups."""
        task, found = segmentation_of(units.task), measured(units.task, units.values[key])
        every = np.ones(len(units.y), bool)
        parts: list[tuple[str, np.ndarray, str]] = [("all", every, phase) for phase in ("", *task.phases)]
        place = units.y.astype(np.int64)
        for name, values in reversed(task.groups.items()):
            place, one = np.divmod(place, len(values))
            parts += [(f"{name} {value}", one == k, "") for k, value in enumerate(values)]
        rows = []
        for structure in task.structures:
            for group, mine, phase in parts:
                chosen = [at for at, it in enumerate(task.places()) if it[0] == structure and phase in ("", it[1])]
                for column, measure in enumerate(MEASURES):
                    value = np.where(mine, mean_defined(found[..., chosen, column]), np.nan)
                    mean = units.means(value, counts).mean(axis=0)
                    interval = statistics.percentile_interval(mean[1:])
                    rows.append((structure, group, phase or "all", measure, float(mean[0]), *interval))
        heads = ["structure", "of", "phase", "metric", "estimate", "low", "high"]
        return {"structures": pd.DataFrame(rows, columns=heads)}

    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        """Largest and smallest area of each structure, in percent of the frame."""
        names = [f"{structure}, {area} %" for structure in segmentation_of(task).structures for area in AREAS]
        return pd.DataFrame(values[:, : len(names)], columns=names)


def segmentation_of(task: Task) -> SegmentationTask:
    """A task of this kind."""
    assert isinstance(task, SegmentationTask)
    return task


def measured(task: Task, values: np.ndarray) -> np.ndarray:
    """The measures in predictions (..., K): (..., places, MEASURES)."""
    settings = segmentation_of(task)
    return values[..., len(AREAS) * len(settings.structures) :].reshape(*values.shape[:-1], -1, len(MEASURES))


def scored(task: Task, maps: np.ndarray, truth: Masks | None) -> np.ndarray:
    """A row of predictions (K,) from label maps uint8 (T, S, S): of the traced frames, or of any if there is no truth.
    A phase that has several traced frames counts with their mean."""
    settings = segmentation_of(task)
    labels = [STRUCTURES.index(structure) + 1 for structure in settings.structures]
    shares = np.stack([(maps == label).mean(axis=(1, 2)) * 100 for label in labels])
    areas = np.stack([shares.max(axis=1), shares.min(axis=1)], axis=1).ravel()
    found = np.full((len(settings.places()), len(MEASURES)), np.nan)
    if truth is not None:
        phases = phases_of(truth)
        for at, (structure, phase) in enumerate(settings.places()):
            label, frames = STRUCTURES.index(structure) + 1, np.flatnonzero(phases == phase)
            if structure in truth.structures and len(frames):
                each = [measures(maps[frame] == label, truth.maps[frame] == label, truth.spacing) for frame in frames]
                found[at] = np.mean(each, axis=0)
    return np.concatenate([areas, found.ravel()])


def phases_of(masks: Masks) -> np.ndarray:
    """ED, ES or `between` of each traced frame (T,)."""
    return np.array([phase or "between" for phase in masks.phases])


def measures(predicted: np.ndarray, truth: np.ndarray, spacing: float) -> tuple[float, float, float, float]:
    """MEASURES of two masks bool (S, S); `spacing` is mm per pixel. Two empty masks agree."""
    both, either = float((predicted & truth).sum()), float((predicted | truth).sum())
    if not either:
        return 1.0, 1.0, 0.0 * spacing, 0.0 * spacing
    dice, iou = 2 * both / (predicted.sum() + truth.sum()), both / either
    if not (predicted.any() and truth.any()):
        far = float(np.hypot(*truth.shape)) * spacing
        return dice, iou, far, far
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    apart = [ndimage.distance_transform_edt(~there)[here] for here, there in (borders, borders[::-1])]
    hausdorff = max(float(np.percentile(one, 95)) for one in apart)
    return dice, iou, hausdorff * spacing, float(np.concatenate(apart).mean()) * spacing
