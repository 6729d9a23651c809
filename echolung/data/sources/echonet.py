"""EchoNet-Dynamic: apical four-chamber echocardiograms with ejection fractions (Ouyang et al. 2020, Nature 580:252).

Layout:
    Videos/<FileName>.avi    112x112 MJPEG, one video per person
    FileList.csv             FileName (without suffix), EF, ESV, EDV, FrameHeight, FrameWidth, FPS,
                             NumberOfFrames, Split (TRAIN, VAL, TEST)
    VolumeTracings.csv       FileName (with suffix), X1, Y1, X2, Y2, Frame: the left ventricle of a frame as chords,
                             first the long axis, then 20 discs from the apex to the mitral valve

Sizes and frame counts come from the decoded video: six rows of FileList.csv are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.data.sources.files import Layout, Scan, stem
from echolung.data.tracings import COLUMNS, LEFT_VENTRICLE

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
) -> pd.DataFrame:
    """The left ventricles of the table `path`, one per frame, in pixels; none if the set lacks the table.

    `outline` makes a polygon (P, 2) of the cells of a frame (lines, columns).
    """
    rows: list[tuple[object, ...]] = []
    if path in layout.files:
        table = layout.table(path, ("FileName", *columns, "Frame"), repeats=True)
        table = table[~table["Frame"].str.lower().str.startswith("no ")]  # "No Systolic": there is no such tracing
        names = table["FileName"].map(stem)
        cells = np.stack([layout.numbers(path, table[name], -1e4, 1e4, names) for name in columns], 1).astype(float)
        frames = layout.numbers(path, table["Frame"], 0, 1e6, names, whole=True).astype("int64")
        lines_of = pd.Series(range(len(table))).groupby([names.to_numpy(), frames.to_numpy()], sort=False)
        for (name, frame), lines in lines_of:
            rows.append((f"{source}/{name}", frame, LEFT_VENTRICLE, outline(cells[lines.to_numpy()]).tolist()))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _outline(chords: np.ndarray) -> np.ndarray:
    """Down one side of the discs and up the other, without the long axis."""
    return np.concatenate([chords[1:, :2], chords[:0:-1, 2:]])
