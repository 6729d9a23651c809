"""EchoNet-Dynamic: apical four-chamber echocardiograms with ejection fractions (Ouyang et al. 2020, Nature 580:252).

Layout:
    Videos/<FileName>.avi    112x112 MJPEG, one video per person
    FileList.csv             FileName (without suffix), EF, ESV, EDV, FrameHeight, FrameWidth, FPS,
                             NumberOfFrames, Split (TRAIN, VAL, TEST)
    VolumeTracings.csv       FileName (with suffix), X1, Y1, X2, Y2, Frame: the left ventricle of a frame as chords,
                             first the long axis, then 20 discs from the apex to the mitral valve

Sizes and frame counts come from the decoded video: six rows of FileList.csv are wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.data.masks import Tracing
from echolung.data.sources.files import Layout, Scan, stem

TABLE, TRACINGS, FOLDER = "FileList.csv", "VolumeTracings.csv", "Videos"
SPLITS: dict[str, object] = {"train": "TRAIN", "val": "VAL", "test": "TEST"}
LICENSE = "Stanford University Dataset Research Use Agreement"
HOW_TO_GET = (
    "EchoNet-Dynamic is downloaded after registration at https://echonet.github.io/dynamic; set `root` to the folder "
    f"that holds {TABLE} and {FOLDER}/."
)


def scan(root: Path, source: str) -> Scan:
    """One row per line of FileList.csv; a video that does not exist keeps its row, so that it is noticed."""
    layout = Layout(root, "EchoNet-Dynamic", HOW_TO_GET)
    layout.folder(FOLDER)
    table = layout.table(TABLE, ("FileName", "EF", "Split"))
    names = table["FileName"].map(stem)
    manifest = pd.DataFrame(
        {
            "sample_id": source + "/" + names,
            "source": source,
            "path": list(map(str, layout.match(f"{FOLDER}/" + names + ".avi"))),
            "patient_id": source + "/" + names,
            "collection": "echonet-dynamic",
            "view": "A4C",
            "split_official": layout.choices(TABLE, table["Split"], SPLITS, names),
            "license": layout.license(LICENSE),
            "ef": layout.numbers(TABLE, table["EF"], 0, 100, names),
        }
    )
    tracings = read_tracings(layout, TRACINGS, source, ("X1", "Y1", "X2", "Y2"), _outline)
    return Scan(manifest, tracings, tuple(layout.notes))


def read_tracings(
    layout: Layout, path: str, source: str, columns: Sequence[str], outline: Callable[[np.ndarray], np.ndarray]
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
