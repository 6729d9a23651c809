"""Masks: which structures a source's readers drew on which frames, as a store beside the clip store.

A source says where its drawings are (`Tracing`); `rasterised` moves them by the letterbox of the frames they lie on.
Polygons are filled at the store's size, label maps take the nearest label. Dimension letters: T traced frames of a
recording, S side of the store's square frames, P points of a polygon.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from echolung.core.errors import DataError, VideoError
from echolung.core.runtime import read_json, write_json
from echolung.data import nifti
from echolung.data.geometry import Letterbox

STRUCTURES: tuple[str, ...] = ("left ventricle", "myocardium", "left atrium")
"""The label of a structure in a mask is its position here + 1; 0 is background."""
INDEX, MAPS = "index.json", "masks.npy"
REMEDY = "Run `dvc repro` to ingest the source again."


@dataclasses.dataclass(frozen=True)
class Tracing:
    """A drawing on frames of a recording.

    drawn: the left ventricle of one frame as a closed polygon (P, 2), x before y in pixels of the file with the centre
    of the first pixel at (0, 0); or a NIfTI file of label maps for one frame or more in sequence.
    frame: 0-based, the frame of the polygon or of the file's first map. phases: frame -> "ED" | "ES", where known.
    """

    sample_id: str
    frame: int
    drawn: np.ndarray | Path
    phases: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Masks:
    """The traced frames of one recording, in the order of its frames."""

    frames: np.ndarray  # their indices in `ClipStore.frames`: int64 (T,), ascending
    phases: tuple[str, ...]  # ED, ES or "" (between, or not known) of each
    maps: np.ndarray  # label maps uint8 (T, S, S): position in STRUCTURES + 1
    structures: tuple[str, ...]  # what was traced: other structures are unknown, not background
    spacing: float  # mm per pixel of the store, which are square; NaN where the source does not say


def filled(polygon: np.ndarray, size: int) -> np.ndarray:
    """Pixels whose centre is inside a closed polygon (P, 2), by the even-odd rule: bool (size, size)."""
    (x, y), (x_next, y_next) = polygon.T, np.roll(polygon, -1, axis=0).T
    inside = np.zeros((size, size), bool)
    columns = np.arange(size)
    for row in range(max(0, int(np.floor(y.min()))), min(size, int(np.ceil(y.max())) + 1)):
        crossed = (y > row) != (y_next > row)
        share = (row - y[crossed]) / (y_next[crossed] - y[crossed])
        borders = x[crossed] + share * (x_next[crossed] - x[crossed])
        inside[row] = (borders[:, None] > columns).sum(0) % 2 == 1
    return inside


def rasterised(tracings: Iterable[Tracing], manifest: pd.DataFrame, size: int) -> tuple[dict[str, Masks], pd.DataFrame]:
    """The masks of every recording that has frames and tracings, and a row per traced frame for the gate.

    Rows: sample_id, frame, phase, problem (missing if all is well), pieces of the left ventricle (0: empty). What has a
    problem is in no mask. Tracings of a recording that cannot be decoded are left out: it is named itself.
    """
    tracings_of: dict[str, list[Tracing]] = {}
    for one in tracings:
        tracings_of.setdefault(one.sample_id, []).append(one)
    made: dict[str, Masks] = {}
    rows: list[tuple[object, ...]] = []
    decoded = manifest[manifest["frames"] > 0]
    shapes = decoded[["height", "width", "pixel_aspect", "frames", "pixel_mm"]].to_numpy(float, na_value=np.nan)
    for name, (height, width, aspect, total, pixel_mm) in zip(decoded["sample_id"], shapes, strict=True):
        box = Letterbox(int(height), int(width), size, aspect)
        kept: dict[int, tuple[str, np.ndarray]] = {}
        traced = tracings_of.get(name, [])
        for one in traced:
            maps, problem = _moved(one, box)
            for frame, drawn in enumerate(maps, one.frame):
                fault = problem or (f"there are {total:g} frames" if frame >= total else None)
                phase, pieces = one.phases.get(frame, ""), ndimage.label(drawn == 1)[1]
                rows.append((name, frame, phase, fault, pieces))
                if fault is None:
                    kept[frame] = phase, drawn
        if kept:
            frames = sorted(kept)
            made[name] = Masks(
                frames=np.array(frames, np.int64),
                phases=tuple(kept[frame][0] for frame in frames),
                maps=np.stack([kept[frame][1] for frame in frames]),
                structures=STRUCTURES if all(isinstance(one.drawn, Path) for one in traced) else STRUCTURES[:1],
                spacing=pixel_mm * height / box.inner[0],
            )
    return made, pd.DataFrame(rows, columns=["sample_id", "frame", "phase", "problem", "pieces"])


def _moved(tracing: Tracing, box: Letterbox) -> tuple[np.ndarray, str | None]:
    """Label maps uint8 (T, S, S) of a tracing in the store's square; empty ones and the reason if it cannot be used."""
    nothing = np.zeros((1, box.size, box.size), np.uint8)
    if not isinstance(tracing.drawn, Path):
        return filled(box.points(tracing.drawn), box.size)[None].astype(np.uint8), None
    try:
        maps = nifti.read(tracing.drawn)[0]
    except VideoError as error:
        return nothing, error.problem.replace(f"{tracing.drawn.parent}/", "")  # the gate shows little of a long text
    if maps.shape[1:] != box.source:
        shown, drawn = (" x ".join(map(str, shape[::-1])) for shape in (box.source, maps.shape[1:]))
        return nothing, f"{tracing.drawn.name} is {drawn} pixels, its frames are {shown}"
    if maps.max() > len(STRUCTURES):
        return nothing, f"{tracing.drawn.name} has the label {maps.max()}"
    return box.mask(maps), None


def write_masks(directory: Path, size: int, recordings: Mapping[str, Masks]) -> None:
    """Write a store: every map in one array, and the facts of each recording by sample id."""
    directory.mkdir(parents=True, exist_ok=True)
    every = np.concatenate([np.empty((0, size, size), np.uint8), *(one.maps for one in recordings.values())])
    np.save(directory / MAPS, every, allow_pickle=False)
    facts, first = {}, 0
    for name, one in recordings.items():
        facts[name] = dataclasses.asdict(one) | {"maps": first, "frames": one.frames.tolist()}
        facts[name]["spacing"] = one.spacing if np.isfinite(one.spacing) else None
        first += len(one.maps)
    write_json(directory / INDEX, {"recordings": facts})


def read_masks(*directories: Path) -> dict[str, Masks]:
    """The stores in `directories` by sample id, memory-mapped; raises DataError if one holds none or is damaged."""
    found: dict[str, Masks] = {}
    for directory in directories:
        index = read_json(directory / INDEX)
        try:
            maps = np.load(directory / MAPS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{directory / MAPS} is missing or damaged ({error})", REMEDY) from None
        for name, facts in index["recordings"].items():
            found[name] = Masks(
                frames=np.array(facts["frames"], np.int64),
                phases=tuple(facts["phases"]),
                maps=maps[facts["maps"] : facts["maps"] + len(facts["frames"])],
                structures=tuple(facts["structures"]),
                spacing=float("nan") if facts["spacing"] is None else facts["spacing"],
            )
    return found
