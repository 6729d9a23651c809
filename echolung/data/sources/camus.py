"""CAMUS: end-diastole and end-systole of 500 patients in two views (Leclerc et al. 2019, 10.1109/TMI.2019.2900516).

Layout:
    database_nifti/<patient>/<patient>_{2CH,4CH}_{ED,ES}.nii.gz    one still each
    database_nifti/<patient>/Info_{2CH,4CH}.cfg                    "Key: value", EF among them where it is known
    database_split/subgroup_{training,validation,testing}.txt      patients, one per line

A still is a recording of one frame: a clip of it shows that frame throughout. Its `label` is ED or ES. Masks (_gt) and
half sequences are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.sources.files import Layout, Scan

FOLDER = "database_nifti"
STILL = re.compile(rf"{FOLDER}/([^/]+)/(\1_([24])CH_(E[DS]))\.nii(\.gz)?")
SPLITS = {"TRAIN": "training", "VAL": "validation", "TEST": "testing"}
LICENSE = "CC BY-NC-SA 4.0, non-commercial research"
HOW_TO_GET = (
    "CAMUS is at https://humanheart-project.creatis.insa-lyon.fr/database (CAMUS_public, after registration); set "
    f"`root` to the folder that holds {FOLDER}/ and database_split/."
)


def scan(root: Path, source: str) -> Scan:
    """One row per still; raises DataError if there is none, or if a patient is in no split."""
    layout = Layout(root, "CAMUS", HOW_TO_GET)
    layout.folder(FOLDER)
    found = [match for match in map(STILL.fullmatch, sorted(layout.files)) if match]
    if not found:
        raise DataError(f"CAMUS: no <patient>_<view>_ED.nii.gz below {root / FOLDER}", HOW_TO_GET)
    split_of = {
        line.strip(): name
        for name, subgroup in SPLITS.items()
        for line in layout.text(f"database_split/subgroup_{subgroup}.txt").splitlines()
    }
    if homeless := sorted({match[1] for match in found} - split_of.keys()):
        raise DataError(f"CAMUS: patients in no file of {root / 'database_split'}: {listed(homeless)}", HOW_TO_GET)
    names = pd.Series([match[2] for match in found])
    fractions = pd.Series([_info(layout, f"{FOLDER}/{one[1]}/Info_{one[3]}CH.cfg").get("EF", "") for one in found])
    manifest = pd.DataFrame(
        {
            "sample_id": source + "/" + names,
            "source": source,
            "path": [str(root / match[0]) for match in found],
            "patient_id": [f"{source}/{match[1]}" for match in found],
            "collection": "camus",
            "view": [f"A{match[3]}C" for match in found],
            "split_official": [split_of[match[1]] for match in found],
            "license": layout.license(LICENSE),
            "label": [match[4] for match in found],
            "ef": layout.numbers("Info_*.cfg", fractions.rename("EF"), 0, 100, names),
        }
    )
    return Scan(manifest, notes=tuple(layout.notes))


def _info(layout: Layout, name: str) -> dict[str, str]:
    """The lines of a cfg; none if the patient has no such file."""
    if name not in layout.files:
        return {}
    parts = (line.partition(":") for line in layout.text(name).splitlines())
    return {key.strip(): value.strip() for key, _, value in parts}
