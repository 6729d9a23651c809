"""EchoNet's two sets: hearts with ejection fractions and tracings of the left ventricle.

EchoNet-Dynamic (Ouyang et al. 2020, Nature 580:252), apical four-chamber views, one video per person:
    Videos/<FileName>.avi    112x112 MJPEG
    FileList.csv             FileName (without suffix), EF, ESV, EDV, FrameHeight, FrameWidth, FPS,
                             NumberOfFrames, Split (TRAIN, VAL, TEST)
    VolumeTracings.csv       FileName (with suffix), X1, Y1, X2, Y2, Frame: the left ventricle of a frame as chords,
                             first the long axis, then 20 discs from the apex to the mitral valve

EchoNet-Pediatric (Reddy 2023, 10.1016/j.echo.2023.01.015), once for each view, A4C and PSAX (parasternal short axis):
    <view>/Videos/<patient>-<examination>-<instance>.avi    112x112
    <view>/FileList.csv         FileName, EF, Sex, Age (years), Weight (kg), Height (cm), Split (0 to 9)
    <view>/VolumeTracings.csv   FileName, X, Y, Frame: the left ventricle of a frame as a polygon, a point per line;
                                Frame "No Systolic" or "No Diastolic": there is no such tracing
A patient may have several videos and be in both views; the part of a name before the first hyphen is the patient.

A video that does not exist keeps its row, so that it is noticed. Sizes and frame counts come from the decoded video:
six rows of EchoNet-Dynamic's table are wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.masks import Tracing
from echolung.data.sources.files import Layout, Scan, stem

TABLE, TRACINGS, FOLDER = "FileList.csv", "VolumeTracings.csv", "Videos"
VIEWS = ("A4C", "PSAX")
NAME = r"(?P<patient>[^-]+)-[^-]+-[^-]+"
SIDES: dict[str, object] = {"train": "TRAIN", "val": "VAL", "test": "TEST"}
FOLDS: dict[str, object] = {str(fold): str(fold) for fold in range(10)}
LICENSE = "Stanford University Dataset Research Use Agreement"
HOW_TO_GET = "Register at https://echonet.github.io/{}, download the set, and set `root` to the folder that holds {}."


def scan(root: Path, source: str) -> Scan:
    """EchoNet-Dynamic: one row per line of FileList.csv."""
    layout = Layout(root, "EchoNet-Dynamic", HOW_TO_GET.format("dynamic", f"{TABLE} and {FOLDER}/"))
    _, rows = _videos(layout, source, "", ("FileName", "EF", "Split"), SIDES)
    manifest = rows.assign(patient_id=rows["sample_id"], collection="echonet-dynamic", view="A4C")
    tracings = _tracings(layout, source, TRACINGS, ("X1", "Y1", "X2", "Y2"), _outline)
    return Scan(manifest, tracings, tuple(layout.notes))


def scan_pediatric(root: Path, source: str) -> Scan:
    """EchoNet-Pediatric: one row per line of either FileList.csv."""
    holds = f"{' and '.join(VIEWS)}, each with {TABLE} and {FOLDER}/"
    layout = Layout(root, "EchoNet-Pediatric", HOW_TO_GET.format("pediatric", holds))
    manifest = pd.concat([_children(layout, source, view) for view in VIEWS], ignore_index=True)
    found = [_tracings(layout, source, f"{view}/{TRACINGS}", ("X", "Y"), lambda points: points) for view in VIEWS]
    return Scan(manifest, [tracing for of_view in found for tracing in of_view], tuple(layout.notes))


def _children(layout: Layout, source: str, view: str) -> pd.DataFrame:
    columns = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
    table, rows = _videos(layout, source, f"{view}/", columns, FOLDS)
    names, path = table["FileName"].map(stem), f"{view}/{TABLE}"
    if len(strange := names[~names.str.fullmatch(NAME)]):
        problem = f"{layout.root / path}: names are not patient-examination-instance: {listed(strange)}"
        raise DataError(problem, "Correct them: the patient is known by the name.")
    return rows.assign(
        patient_id=source + "/" + names.str.extract(NAME)["patient"],
        collection="echonet-pediatric",
        view=view,
        sex=table["Sex"].str.upper().where(table["Sex"] != ""),
        age=layout.numbers(path, table["Age"], 0, 120, names),
        weight_kg=layout.numbers(path, table["Weight"], 0, 500, names),
        height_cm=layout.numbers(path, table["Height"], 0, 250, names),
    )


def _videos(
    layout: Layout, source: str, folder: str, columns: Sequence[str], splits: dict[str, object]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The FileList.csv of a folder ("" or <view>/), and what both sets say in it, as columns of the manifest."""
    layout.folder(folder + FOLDER)
    path = folder + TABLE
    table = layout.table(path, columns)
    names = table["FileName"].map(stem)
    rows = {
        "sample_id": source + "/" + names,
        "source": source,
        "path": list(map(str, layout.match(f"{folder}{FOLDER}/" + names + ".avi"))),
        "split_official": layout.choices(path, table["Split"], splits, names),
        "license": layout.license(LICENSE),
        "ef": layout.numbers(path, table["EF"], 0, 100, names),
    }
    return table, pd.DataFrame(rows)


def _tracings(
    layout: Layout, source: str, path: str, columns: Sequence[str], outline: Callable[[np.ndarray], np.ndarray]
) -> list[Tracing]:
    """The left ventricles of the table `path`, one per frame; none if the set lacks the table.

    `outline` makes a polygon (P, 2) of the cells of a frame (lines, columns). The largest of a video is end-diastole
    and the smallest end-systole; a single one is that which "No Systolic" or "No Diastolic" leaves, else unknown.
    """
    if path not in layout.files:
        return []
    table = layout.table(path, ("FileName", *columns, "Frame"), repeats=True)
    absent = table["Frame"].str.lower().str.startswith("no ")
    left = table["Frame"].str.lower().map({"no systolic": "ED", "no diastolic": "ES"})[absent]
    alone = dict(zip(table["FileName"][absent].map(stem), left, strict=True))
    table = table[~absent]
    names = table["FileName"].map(stem)
    cells = np.stack([layout.numbers(path, table[name], -1e4, 1e4, names) for name in columns], 1).astype(float)
    frames = layout.numbers(path, table["Frame"], 0, 1e6, names, whole=True).astype("int64")
    lines_of: dict[str, dict[int, list[int]]] = {}
    for line, (name, frame) in enumerate(zip(names, frames, strict=True)):
        lines_of.setdefault(name, {}).setdefault(int(frame), []).append(line)
    found = []
    for name, of_frame in lines_of.items():
        drawn = {frame: outline(cells[lines]) for frame, lines in of_frame.items()}
        order = sorted(drawn, key=lambda frame: _area(drawn[frame]))
        phases = {order[-1]: "ED", order[0]: "ES"} if len(order) > 1 else {order[0]: alone.get(name, "")}
        found += [Tracing(f"{source}/{name}", frame, polygon, phases) for frame, polygon in drawn.items()]
    return found


def _area(polygon: np.ndarray) -> float:
    (x, y), (x_next, y_next) = polygon.T, np.roll(polygon, -1, axis=0).T
    return float(abs((x * y_next - x_next * y).sum()) / 2)


def _outline(chords: np.ndarray) -> np.ndarray:
    """Down one side of the discs and up the other, without the long axis."""
    return np.concatenate([chords[1:, :2], chords[:0:-1, 2:]])
