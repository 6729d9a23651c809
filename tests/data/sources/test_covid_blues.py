"""COVID-BLUES: every video gets its patient's PCR result and its own findings; blanks in cells do no harm."""

from functools import partial
from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "covid_blues", source="blues")
VIDEOS = ("patient_3_L1", "patient_3_L2_2", "patient_12_R3", "patient_12_R1")
PATIENTS = "patient_id,cov_test,number_video_files\n3,1,2.0\n12,0,2.0\n"
SEVERITY = (
    "video_file,Severity Score,A-lines,B-lines,comments\n"
    'patient_3_L1,2.0,yes,yes ,"broken, thick"\npatient_3_L2_2,0.0,no,no ,\npatient_12_R3,3,no,yes,\n'
)


def write(root: Path, patients: str = PATIENTS, severity: str = SEVERITY) -> Path:
    (root / "lus_videos").mkdir(exist_ok=True)
    for name in VIDEOS[1:]:
        (root / "lus_videos" / f"{name}.mp4").touch()
    (root / "clinical_variables.csv").write_text(patients)
    (root / "severity.csv").write_text(severity)
    return root


def test_rows_carry_patient_and_video_labels(tmp_path: Path) -> None:
    frame = scan(write(tmp_path)).manifest.set_index("sample_id")
    labels = frame[["patient_id", "view", "covid", "severity", "a_lines", "b_lines"]].astype(object)
    assert labels.where(labels.notna(), None).T.to_dict("list") == {
        "blues/patient_12_R1": ["blues/12", "R1", 0, None, None, None],  # not in severity.csv
        "blues/patient_12_R3": ["blues/12", "R3", 0, 3, 0, 1],
        "blues/patient_3_L1": ["blues/3", "L1", 1, 2, 1, 1],
        "blues/patient_3_L2_2": ["blues/3", "L2", 1, 0, 0, 0],
    }
    missing = tmp_path / "lus_videos" / "patient_3_L1.mp4"
    assert frame.loc["blues/patient_3_L1", "path"] == str(missing) and not missing.exists()  # it stays a row


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    for patients, severity, problem in [
        (PATIENTS, SEVERITY.replace("2.0", "2.5"), r"Severity Score must be a whole number .*: patient_3_L1 = '2.5'"),
        (PATIENTS, SEVERITY + "patient_3_L1,0,no,no,\n", r"lists videos twice: patient_3_L1"),
        (PATIENTS + "12,1,2.0\n", SEVERITY, r"two results of the test for 12"),
        (PATIENTS, SEVERITY + "p3-left,0,no,no,\n", r"names are not patient_<id>_<point>: p3-left"),
    ]:
        with pytest.raises(DataError, match=problem):
            scan(write(tmp_path, patients, severity))
