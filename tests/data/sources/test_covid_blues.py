"""COVID-BLUES: every video gets its patient's PCR result and its own findings; blanks in cells do no harm."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "covid_blues")

VIDEOS = ("patient_3_L1", "patient_3_L2_2", "patient_12_R3", "patient_12_R1")
PATIENTS = "patient_id,cov_test,number_video_files\n3,1,2.0\n12,0,2.0\n"
SEVERITY = (
    "video_file,Severity Score,A-lines,B-lines,comments\n"
    'patient_3_L1,2.0,yes,yes ,"broken, thick"\npatient_3_L2_2,0.0,no,no ,\npatient_12_R3,3,no,yes,\n'
)


def write(root: Path, patients: str = PATIENTS, severity: str = SEVERITY) -> Path:
    (root / "lus_videos").mkdir(parents=True, exist_ok=True)
    for name in VIDEOS:
        (root / "lus_videos" / f"{name}.mp4").touch()
    (root / "clinical_variables.csv").write_text(patients)
    (root / "severity.csv").write_text(severity)
    return root


def test_rows_carry_patient_and_video_labels(tmp_path: Path) -> None:
    frame = scan(write(tmp_path), "blues").manifest.set_index("sample_id")
    assert len(frame) == 4
    first, repeat, other = (
        frame.loc["blues/patient_3_L1"],
        frame.loc["blues/patient_3_L2_2"],
        frame.loc["blues/patient_12_R3"],
    )
    assert (first.patient_id, first.view, first.covid) == ("blues/3", "L1", 1)
    assert (first.severity, first.a_lines, first.b_lines) == (2, 1, 1)
    assert (repeat.patient_id, repeat.view, repeat.covid, repeat.b_lines) == ("blues/3", "L2", 1, 0)
    assert (other.patient_id, other.covid, other.severity) == ("blues/12", 0, 3)
    assert frame.loc["blues/patient_12_R1", ["severity", "a_lines", "b_lines"]].isna().all()
    assert frame.loc["blues/patient_12_R1", "covid"] == 0


def test_a_video_of_the_table_that_is_not_there_stays_a_row(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "lus_videos" / "patient_3_L1.mp4").unlink()
    frame = scan(root, "blues").manifest.set_index("sample_id")
    assert len(frame) == 4
    assert frame.loc["blues/patient_3_L1", "path"] == str(root / "lus_videos" / "patient_3_L1.mp4")


def test_a_patient_without_a_test_has_no_label(tmp_path: Path) -> None:
    frame = scan(write(tmp_path, patients="patient_id,cov_test\n3,1\n"), "blues").manifest.set_index("sample_id")
    assert frame["covid"].isna().sum() == 2
    assert frame.loc["blues/patient_12_R3", "severity"] == 3


@pytest.mark.parametrize(
    ("patients", "severity", "problem"),
    [
        (PATIENTS.replace("3,1", "3,2"), SEVERITY, r"cov_test must be a whole number from 0 to 1: 3 = '2'"),
        (PATIENTS, SEVERITY.replace("2.0", "2.5"), r"Severity Score must be a whole number .*: patient_3_L1 = '2.5'"),
        (PATIENTS, SEVERITY.replace("L1,2.0", "L1,4"), r"Severity Score must be .* from 0 to 3: patient_3_L1 = '4'"),
        (PATIENTS, SEVERITY.replace("yes ,", "maybe,"), r"B-lines must be one of yes, no: patient_3_L1 = 'maybe'"),
        (PATIENTS.replace("cov_test", "covid_test"), SEVERITY, r"no column 'cov_test' \(nearest: 'covid_test'\)"),
        (PATIENTS, SEVERITY + "patient_3_L1,0,no,no,\n", r"lists videos twice: patient_3_L1"),
        (PATIENTS, SEVERITY + "p3-left,0,no,no,\n", r"names are not patient_<id>_<point>: p3-left"),
    ],
)
def test_what_is_out_of_range_is_named(patients: str, severity: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        scan(write(tmp_path, patients, severity), "blues")
    assert caught.value.remedy


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    for name in ("severity.csv", "clinical_variables.csv"):
        (root / name).unlink()
        with pytest.raises(DataError, match=f"no file .*{name}") as caught:
            scan(root, "blues")
        assert "github.com/NinaWie/COVID-BLUES" in caught.value.remedy
    with pytest.raises(DataError, match="COVID-BLUES: no folder"):
        scan(tmp_path / "elsewhere", "blues")
