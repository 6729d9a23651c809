"""COVID-BLUES: lung ultrasound of patients tested for COVID-19 (Wiedemann et al. 2025, 10.1109/JBHI.2025.3543686).

Layout:
    lus_videos/patient_<id>_<point>[_<repeat>].mp4   point: L1-L3, R1-R3 (BLUE protocol)
    clinical_variables.csv                           patient_id, cov_test (PCR, 0 or 1), and 125 more
    severity.csv                                     video_file (no suffix), Severity Score 0-3, A-lines, B-lines

Every video has its patient's PCR result, whatever its lung point shows; severity and lines are per video.
"""

from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.sources.files import Layout, Scan, stem

FOLDER, PATIENTS, SEVERITY = "lus_videos", "clinical_variables.csv", "severity.csv"
NAME = r"patient_(?P<patient>\d+)_(?P<point>[LR]\d)(?:_\d+)?"
YES_NO: dict[str, object] = {"yes": 1, "no": 0}
LICENSE = "CC BY-NC-ND 4.0"
HOW_TO_GET = f"git clone https://github.com/NinaWie/COVID-BLUES; `root` holds {PATIENTS}, {SEVERITY} and {FOLDER}/."


def scan(root: Path, source: str) -> Scan:
    """One row per video of the folder or of severity.csv, so that a video only the table has is noticed."""
    layout = Layout(root, "COVID-BLUES", HOW_TO_GET)
    patients = layout.table(PATIENTS, ("patient_id", "cov_test"))
    severity = layout.table(SEVERITY, ("video_file", "Severity Score", "A-lines", "B-lines"))
    severity.index = pd.Index(severity["video_file"].map(stem))
    if len(twice := severity.index[severity.index.duplicated()]):
        raise DataError(f"{root / SEVERITY} lists videos twice: {listed(twice)}", "Keep one row per video.")
    files = {path.stem: path for path in layout.videos(FOLDER)}
    stems = pd.Series(sorted({*files, *severity.index}))
    parts = stems.str.extract(NAME)
    if len(strange := stems[~stems.str.fullmatch(NAME)]):
        problem = f"COVID-BLUES: names are not patient_<id>_<point>: {listed(strange)}"
        raise DataError(problem, f"Rename or remove them. {HOW_TO_GET}")
    covid = layout.numbers(PATIENTS, patients["cov_test"], 0, 1, patients["patient_id"], whole=True)
    tests = pd.Series(list(covid), index=patients["patient_id"])
    if len(odd := [name for name, of_one in tests.groupby(level=0) if of_one.nunique(dropna=False) > 1]):
        raise DataError(f"{root / PATIENTS} has two results of the test for {listed(odd)}", "Keep one row per patient.")
    rows = severity.reindex(stems).fillna("").reset_index(drop=True)
    columns = {
        "sample_id": source + "/" + stems,
        "source": source,
        "path": [str(files.get(name, root / FOLDER / f"{name}.mp4")) for name in stems],
        "patient_id": source + "/" + parts["patient"],
        "collection": "covid-blues",
        "view": parts["point"],
        "license": layout.license(LICENSE),
        "covid": parts["patient"].map(tests.to_dict()),
        "severity": layout.numbers(SEVERITY, rows["Severity Score"], 0, 3, stems, whole=True),
        "a_lines": layout.choices(SEVERITY, rows["A-lines"], YES_NO, stems),
        "b_lines": layout.choices(SEVERITY, rows["B-lines"], YES_NO, stems),
    }
    return Scan(pd.DataFrame(columns), notes=tuple(layout.notes))
