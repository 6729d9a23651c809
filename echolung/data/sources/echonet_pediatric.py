"""EchoNet-Pediatric: children's hearts in two views, and ejection fractions (Reddy 2023, 10.1016/j.echo.2023.01.015).

Layout, once for each view, A4C (apical four-chamber) and PSAX (parasternal short axis):
    <view>/Videos/<patient>-<examination>-<instance>.avi    112x112
    <view>/FileList.csv         FileName, EF, Sex, Age (years), Weight (kg), Height (cm), Split (0 to 9)
    <view>/VolumeTracings.csv   left-ventricle tracings: FileName, X, Y, Frame (not read here)

A patient may be in both views, and more than once in either: what comes before the first hyphen is the patient.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.data.manifest import listed
from echolung.data.sources.files import choices, inside, license_of, numbers, read_table, require_folder

VIEWS = ("A4C", "PSAX")
TABLE, FOLDER = "FileList.csv", "Videos"
COLUMNS = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
NAME = r"(?P<patient>[^-]+)-[^-]+-[^-]+"
SPLITS: dict[str, object] = {str(fold): str(fold) for fold in range(10)}
LICENSE = "Stanford University Dataset Research Use Agreement"
HOW_TO_GET = (
    "EchoNet-Pediatric is downloaded after registration at https://echonet.github.io/pediatric; set `root` to the "
    f"folder that holds {' and '.join(VIEWS)}, each with {TABLE} and {FOLDER}/."
)


def scan(root: Path, source: str) -> pd.DataFrame:
    """One row per line of either FileList.csv, whether or not its video is there: a missing one must be noticed."""
    require_folder(root, "EchoNet-Pediatric", HOW_TO_GET)
    return pd.concat([_view(root, view, source) for view in VIEWS], ignore_index=True)


def _view(root: Path, view: str, source: str) -> pd.DataFrame:
    what = "EchoNet-Pediatric"
    folder = require_folder(root / view, what, HOW_TO_GET)
    videos = require_folder(folder / FOLDER, what, HOW_TO_GET)
    table = read_table(folder / TABLE, COLUMNS, what, HOW_TO_GET)
    if table.empty:
        raise DataError(f"{folder / TABLE} has no row", HOW_TO_GET)
    names = table["FileName"].str.removesuffix(".avi")
    strange = names[~names.str.fullmatch(NAME)]
    if len(strange):
        raise DataError(
            f"{folder / TABLE}: names are not patient-examination-instance: {listed(strange)}",
            "Correct them: patients are known by their names, and must not be mixed up.",
        )
    where = f"{folder / TABLE}, column"
    return pd.DataFrame(
        {
            "sample_id": source + "/" + names,
            "source": source,
            "path": [
                str(path) for path in inside(videos, [videos / f"{name}.avi" for name in names], str(folder / TABLE))
            ],
            "patient_id": source + "/" + names.str.extract(NAME)["patient"],
            "collection": "echonet-pediatric",
            "view": view,
            "split_official": choices(table["Split"], SPLITS, f"{where} Split", names),
            "license": license_of(root, LICENSE),
            "ef": numbers(table["EF"], 0, 100, f"{where} EF", names),
            "sex": table["Sex"].str.upper().where(table["Sex"] != ""),
            "age": numbers(table["Age"], 0, 120, f"{where} Age", names),
            "weight_kg": numbers(table["Weight"], 0, 500, f"{where} Weight", names),
            "height_cm": numbers(table["Height"], 0, 250, f"{where} Height", names),
        }
    )
