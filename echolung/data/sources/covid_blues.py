"""COVID-BLUES: lung ultrasound of patients tested for COVID-19 (Wiedemann et al. 2025, 10.1109/JBHI.2025.3543686).

Layout:
    lus_videos/patient_<id>_<point>[_<repeat>].mp4   point: L1-L3, R1-R3 (BLUE protocol)
    clinical_variables.csv                           patient_id, cov_test (PCR, 0 or 1), and 125 more
    severity.csv                                     video_file (no suffix), Severity Score 0-3, A-lines, B-lines

Every video carries its patient's PCR result, whatever its lung point shows; severity and lines are read per video.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.data.manifest import listed
from echolung.data.sources.files import choices, license_of, numbers, read_table, require_folder, video_files

FOLDER, PATIENTS, SEVERITY = "lus_videos", "clinical_variables.csv", "severity.csv"
NAME = r"patient_(?P<patient>\d+)_(?P<point>[LR]\d)(?:_\d+)?"
YES_NO: dict[str, object] = {"yes": 1, "no": 0}
LICENSE = "CC BY-NC-ND 4.0"
HOW_TO_GET = (
    "COVID-BLUES is at https://github.com/NinaWie/COVID-BLUES (git clone); set `root` to the folder that holds "
    f"{PATIENTS}, {SEVERITY} and {FOLDER}/."
)


def scan(root: Path, source: str) -> pd.DataFrame:
    """One row per video of the folder or of severity.csv: one that only the table has must not go unnoticed."""
    what = "COVID-BLUES"
    require_folder(root, what, HOW_TO_GET)
    folder = require_folder(root / FOLDER, what, HOW_TO_GET)
    patients = read_table(root / PATIENTS, ("patient_id", "cov_test"), what, HOW_TO_GET)
    severity = read_table(root / SEVERITY, ("video_file", "Severity Score", "A-lines", "B-lines"), what, HOW_TO_GET)
    severity.index = pd.Index(severity["video_file"].str.removesuffix(".mp4"))
    if severity.index.has_duplicates:
        twice = severity.index[severity.index.duplicated()]
        raise DataError(f"{root / SEVERITY} lists videos twice: {listed(twice)}", "Keep one row per video.")
    files = {path.stem: path for path in video_files(folder, what, HOW_TO_GET)}
    stems = pd.Series(sorted({*files, *severity.index}))
    parts = stems.str.extract(NAME)
    strange = stems[~stems.str.fullmatch(NAME)]
    if len(strange):
        raise DataError(
            f"{what}: names are not patient_<id>_<point>: {listed(strange)}", f"Rename or remove them. {HOW_TO_GET}"
        )
    covid = numbers(
        patients["cov_test"], 0, 1, f"{root / PATIENTS}, column cov_test", patients["patient_id"], whole=True
    )
    of_patient = dict(zip(patients["patient_id"], covid, strict=True))
    rows = severity.reindex(stems).fillna("").reset_index(drop=True)
    where = f"{root / SEVERITY}, column"
    return pd.DataFrame(
        {
            "sample_id": source + "/" + stems,
            "source": source,
            "path": [str(files.get(stem, folder / f"{stem}.mp4")) for stem in stems],
            "patient_id": source + "/" + parts["patient"],
            "collection": "covid-blues",
            "view": parts["point"],
            "license": license_of(root, LICENSE),
            "covid": parts["patient"].map(of_patient),
            "severity": numbers(rows["Severity Score"], 0, 3, f"{where} Severity Score", stems, whole=True),
            "a_lines": choices(rows["A-lines"], YES_NO, f"{where} A-lines", stems),
            "b_lines": choices(rows["B-lines"], YES_NO, f"{where} B-lines", stems),
        }
    )
