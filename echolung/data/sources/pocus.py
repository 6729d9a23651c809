"""POCUS: lung ultrasound videos collected from many places (Born et al. 2021, 10.3390/app11020672), convex probe.

Layout (the repository's folder `data`, or the same two things copied elsewhere):
    convex/ or pocus_videos/convex/   Cov*, Pneu*, Reg*, Vir*; mp4, mov, avi, gif, mpeg, in 82 frame sizes
    dataset_metadata.csv              Filename (without suffix; matches files whatever the case), Label, License,
                                      Patient ID / Name, Source ID, and 40 more

Where a video was published nearly gives its label away (no COVID in the Northumbria collection, .mov almost only
COVID), so every video keeps its `collection`. Viral pneumonia is a diagnosis of its own.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.sources.files import Layout, Scan, stem

TABLE, FOLDERS = "dataset_metadata.csv", ("convex", "pocus_videos/convex")
PATIENT, SOURCE_ID = "Patient ID / Name", "Source ID"
COLUMNS = ("Filename", "Label", "License", PATIENT, SOURCE_ID)
DIAGNOSES = {"covid-19": "covid", "bacterial pneumonia": "pneumonia", "viral pneumonia": "viral", "regular": "regular"}
PREFIXES = {"cov": "covid", "pneu": "pneumonia", "vir": "viral", "reg": "regular"}
CLONE = "git clone https://github.com/jannisborn/covid19_ultrasound"
HOW_TO_GET = f"{CLONE}; set `root` to its folder data, or to one that holds {TABLE} and convex/."

# `Source ID` of the videos by a convex probe, named by what their `URL (Video Name)` and `Title` point to.
COLLECTIONS = {"1": "butterfly", "2": "pocus-atlas", "3": "clarius", "4": "grepmed", "5": "everyday-ultrasound"}
COLLECTIONS |= {"6": "radiopaedia", "7": "bcpocus", "8": "youtube-8", "9": "nephropocus", "14": "charlotte"}
COLLECTIONS |= {"15": "bja-education-2016", "16": "litfl", "17": "st-emlyns", "18": "northumbria"}
COLLECTIONS |= {"21": "advances-thoracic-2015", "22": "clinical-review-2007", "24": "h1n1-chest-ultrasound-2012"}
COLLECTIONS |= {"25": "pregnant-women-2020", "30": "dialytic-recommendations-2020", "34": "wfumb"}
COLLECTIONS |= {"35": "ultraschalltagung", "39": "volpicelli-2020", "40": "denault-2020", "44": "youtube-44"}
COLLECTIONS |= {"45": "emdocs"}

# In these rows a comma in a comment moved the cells one column to the right: `Patient ID / Name` holds the age, 40.
# The patient is 7, who has pneumonia videos from the same page of litfl.com.
SLIPPED_PATIENTS = {"reg_liftl_pneucase3_clip1": "7", "reg_liftl_case3_clip2": "7"}

# The table gives every Northumbria video its own patient, but videos of one recording set show the same anatomy (two
# pairs across "patients" are the same view): a set stays on one side of every split.
RECORDING_SET = re.compile(r"northumbria_(\d+_set\d+)_", re.IGNORECASE)


def scan(root: Path, source: str) -> Scan:
    """One row per video file; what dataset_metadata.csv lacks is read from the file's name.

    A video without a patient in the table is a patient of its own, named by collection and file.
    """
    layout = Layout(root, "POCUS", HOW_TO_GET)
    table = layout.table(TABLE, COLUMNS)
    paths = layout.videos(next((name for name in FOLDERS if (root / name).is_dir()), FOLDERS[0]))
    known = _rows_by_stem(table, {path.stem.lower() for path in paths}, root / TABLE)
    rows = [_row(path, source, known.get(path.stem.lower(), {})) for path in paths]
    return Scan(pd.DataFrame(rows), notes=tuple(layout.notes))


def _rows_by_stem(table: pd.DataFrame, stems: set[str], where: Path) -> dict[Any, Any]:
    """The table's row of each file, numbers as "36", not as a spreadsheet's "36.0"; DataError if rows contradict."""
    table = table.assign(stem=table["Filename"].map(stem).str.lower())
    table = table.loc[table["stem"].isin(stems), ["stem", *COLUMNS[1:]]].drop_duplicates()
    if twice := sorted(set(table["stem"][table["stem"].duplicated()])):
        raise DataError(f"{where} has rows that contradict each other for {listed(twice)}", "Keep one row per video.")
    whole = {name: table[name].str.removesuffix(".0") for name in (PATIENT, SOURCE_ID)}
    return table.assign(**whole).set_index("stem").to_dict("index")


def _row(path: Path, source: str, known: dict[str, str]) -> dict[str, object]:
    source_id = known.get(SOURCE_ID, "")
    collection = COLLECTIONS.get(source_id, f"source-{source_id}" if source_id else "unknown")
    patient = SLIPPED_PATIENTS.get(path.stem.lower()) or known.get(PATIENT) or f"{collection}-{path.stem}"
    recorded = RECORDING_SET.search(path.stem)
    return {
        "sample_id": f"{source}/{path.stem}",
        "source": source,
        "path": str(path),
        "patient_id": f"{source}/{patient}",
        "split_group": f"{source}/northumbria-{recorded[1]}" if recorded else f"{source}/{patient}",
        "collection": collection,
        "license": known.get("License", "").replace(" -", "-") or pd.NA,
        "diagnosis": _diagnosis(path, known.get("Label", "")),
    }


def _diagnosis(path: Path, label: str) -> object:
    """The label of the table, else of the file name; raises DataError if they contradict each other."""
    named = next((value for prefix, value in PREFIXES.items() if path.stem.lower().startswith(prefix)), None)
    if not label:
        return named or pd.NA
    diagnosis = DIAGNOSES.get(label.lower())
    if diagnosis is None:
        problem = f"{TABLE}: label '{label}' of {path.name} is not one of {', '.join(DIAGNOSES)}"
        raise DataError(problem, "Correct that row.")
    if named not in (None, diagnosis):
        raise DataError(f"{TABLE} labels {path.name} '{label}', but its name says {named}", "Correct one of them.")
    return diagnosis
