"""EchoNet-Dynamic: apical four-chamber echocardiograms with ejection fractions (Ouyang et al. 2020, Nature 580:252).

Layout:
    Videos/<FileName>.avi    112x112 MJPEG, one video per person
    FileList.csv             FileName (without suffix), EF, ESV, EDV, FrameHeight, FrameWidth, FPS,
                             NumberOfFrames, Split (TRAIN, VAL, TEST)
    VolumeTracings.csv       left-ventricle tracings (not read here)

Sizes and frame counts of FileList.csv are not used: six rows are wrong, and the decoded video says it better.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.data.sources.files import choices, inside, license_of, numbers, read_table, require_folder

TABLE, FOLDER = "FileList.csv", "Videos"
COLUMNS = ("FileName", "EF", "Split")
SPLITS: dict[str, object] = {"train": "TRAIN", "val": "VAL", "test": "TEST"}
LICENSE = "Stanford University Dataset Research Use Agreement"
HOW_TO_GET = (
    "EchoNet-Dynamic is downloaded after registration at https://echonet.github.io/dynamic; set `root` to the folder "
    f"that holds {TABLE} and {FOLDER}/."
)


def scan(root: Path, source: str) -> pd.DataFrame:
    """One row per line of FileList.csv, whether or not its video is there: a missing one must not go unnoticed."""
    what = "EchoNet-Dynamic"
    require_folder(root, what, HOW_TO_GET)
    videos = require_folder(root / FOLDER, what, HOW_TO_GET)
    table = read_table(root / TABLE, COLUMNS, what, HOW_TO_GET)
    if table.empty:
        raise DataError(f"{root / TABLE} has no row", HOW_TO_GET)
    names = table["FileName"].str.removesuffix(".avi")
    where = f"{root / TABLE}, column"
    return pd.DataFrame(
        {
            "sample_id": source + "/" + names,
            "source": source,
            "path": [
                str(path) for path in inside(videos, (videos / f"{name}.avi" for name in names), str(root / TABLE))
            ],
            "patient_id": source + "/" + names,
            "collection": "echonet-dynamic",
            "view": "A4C",
            "split_official": choices(table["Split"], SPLITS, f"{where} Split", names),
            "license": license_of(root, LICENSE),
            "ef": numbers(table["EF"], 0, 100, f"{where} EF", names),
        }
    )
