"""EchoNet-Pediatric: rows and tracings of both views are read; what is wrong with them is named."""

from functools import partial
from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "echonet_pediatric", source="kids")
HEADER = "FileName,EF,Sex,Age,Weight,Height,Split\n"
A4C = "CRa1-CRb1-000012.avi,64.9,F,0,3.04,50.0,0\nCRa2-CRb2-000003.avi,38,m,17,61,172.5,9\n"
PSAX = "CRa1-CRb1-000013,63.1,F,0,,,0\nCRa1-CRb7-000001,,,,,,4\n"


def write(root: Path, psax: str = HEADER + PSAX) -> Path:
    for view, table in (("A4C", HEADER + A4C), ("PSAX", psax)):
        (root / view / "Videos").mkdir(parents=True)
        (root / view / "FileList.csv").write_text(table)
    return root


def test_rows_follow_both_tables(tmp_path: Path) -> None:
    frame = scan(write(tmp_path)).manifest
    stems = ["CRa1-CRb1-000012", "CRa2-CRb2-000003", "CRa1-CRb1-000013", "CRa1-CRb7-000001"]
    assert frame["sample_id"].tolist() == [f"kids/{stem}" for stem in stems]
    assert frame["patient_id"].tolist() == ["kids/CRa1", "kids/CRa2", "kids/CRa1", "kids/CRa1"]
    assert frame["view"].tolist() == ["A4C", "A4C", "PSAX", "PSAX"]
    assert frame["path"][2] == str(tmp_path / "PSAX" / "Videos" / "CRa1-CRb1-000013.avi")
    assert frame["split_official"].tolist() == ["0", "9", "0", "4"]
    assert frame["sex"].fillna("").tolist() == ["F", "M", "F", ""]
    numbers = frame[["ef", "age", "weight_kg", "height_cm"]].fillna(-1)
    assert numbers.values.tolist() == [[64.9, 0, 3.04, 50], [38, 17, 61, 172.5], [63.1, 0, -1, -1], [-1] * 4]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("63.1", "163.1", r"PSAX/FileList.csv, column EF must be a number from 0 to 100: CRa1-CRb1-000013 = '163.1'"),
        (",,,,,,4", ",,,,,,10", r"Split must be one of 0, .*, 9: CRa1-CRb7-000001 = '10'"),
        ("CRa1-CRb1-000013", "CRa1_000013", r"names are not patient-examination-instance: CRa1_000013"),
        (PSAX, A4C, r"sample ids are repeated: kids/CRa1-CRb1-000012"),  # in both views
    ],
)
def test_a_wrong_table_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        scan(write(tmp_path, (HEADER + PSAX).replace(old, new, 1)))


def test_polygons_of_both_views_are_read_and_absent_ones_left_out(tmp_path: Path) -> None:
    root, name = write(tmp_path), "CRa1-CRb1-000012.avi"
    assert not scan(root).tracings
    lines = [f"{name},1,2,5", f"{name},3,4.5,5", f"{name},5,6,5", f"{name},,,No Systolic"]
    (root / "A4C" / "VolumeTracings.csv").write_text("\n".join(["FileName,X,Y,Frame", *lines]))
    (root / "PSAX" / "VolumeTracings.csv").write_text("FileName,X,Y,Frame\nCRa1-CRb1-000013.avi,7,8,0\n")
    found = [(one.sample_id, one.frame, dict(one.phases), one.drawn.tolist()) for one in scan(root).tracings]
    assert found == [
        ("kids/CRa1-CRb1-000012", 5, {5: "ED"}, [[1, 2], [3, 4.5], [5, 6]]),  # "No Systolic" leaves end-diastole
        ("kids/CRa1-CRb1-000013", 0, {0: ""}, [[7, 8]]),
    ]
