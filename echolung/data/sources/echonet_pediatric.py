"""EchoNet-Pediatric: children's hearts in two views, and ejection fractions (Reddy 2023, 10.1016/j.echo.2023.01.015).

Layout, once for each view, A4C (apical four-chamber) and PSAX (parasternal short axis):
    <view>/Videos/<patient>-<examination>-<instance>.avi    112x112
    <view>/FileList.csv         FileName, EF, Sex, Age (years), Weight (kg), Height (cm), Split (0 to 9)
    <view>/VolumeTracings.csv   FileName, X, Y, Frame: the left ventricle of a frame as a polygon, a point per line;
                                Frame "No Systolic" or "No Diastolic": there is no such tracing

A patient may have several videos and be in both views; the part of a name before the first hyphen is the patient.
"""

from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.sources.echonet import read_tracings
from echolung.data.sources.files import Layout, Scan, stem

VIEWS = ("A4C", "PSAX")
TABLE, TRACINGS, FOLDER = "FileList.csv", "VolumeTracings.csv", "Videos"
COLUMNS = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
NAME = r"(?P<patient>[^-]+)-[^-]+-[^-]+"
SPLITS: dict[str, object] = {str(fold): str(fold) for fold in range(10)}
LICENSE = "Stanford University Dataset Research Use Agreement"
HOW_TO_GET = (
    "EchoNet-Pediatric is downloaded after registration at https://echonet.github.io/pediatric; set `root` to the "
    f"folder that holds {' and '.join(VIEWS)}, each with {TABLE} and {FOLDER}/."
)


def scan(root: Path, source: str) -> Scan:
    """One row per line of either FileList.csv; a video that does not exist keeps its row, so that it is noticed."""
    layout = Layout(root, "EchoNet-Pediatric", HOW_TO_GET)
    manifest = pd.concat([_view(layout, view, source) for view in VIEWS], ignore_index=True)
    tables = [f"{view}/{TRACINGS}" for view in VIEWS]
    found = [read_tracings(layout, path, source, ("X", "Y"), lambda points: points) for path in tables]
    return Scan(manifest, [tracing for of_view in found for tracing in of_view], tuple(layout.notes))


def _view(layout: Layout, view: str, source: str) -> pd.DataFrame:
    layout.folder(f"{view}/{FOLDER}")
    path = f"{view}/{TABLE}"
    table = layout.table(path, COLUMNS)
    names = table["FileName"].map(stem)
    strange = names[~names.str.fullmatch(NAME)]
    if len(strange):
        raise DataError(
            f"{layout.root / path}: names are not patient-examination-instance: {listed(strange)}",
            "Correct them: the patient is known by the name.",
        )
    return pd.DataFrame(
        {
            "sample_id": source + "/" + names,
            "source": source,
            "path": list(map(str, layout.match(f"{view}/{FOLDER}/" + names + ".avi"))),
            "patient_id": source + "/" + names.str.extract(NAME)["patient"],
            "collection": "echonet-pediatric",
            "view": view,
            "split_official": layout.choices(path, table["Split"], SPLITS, names),
            "license": layout.license(LICENSE),
            "ef": layout.numbers(path, table["EF"], 0, 100, names),
            "sex": table["Sex"].str.upper().where(table["Sex"] != ""),
            "age": layout.numbers(path, table["Age"], 0, 120, names),
            "weight_kg": layout.numbers(path, table["Weight"], 0, 500, names),
            "height_cm": layout.numbers(path, table["Height"], 0, 250, names),
        }
    )
