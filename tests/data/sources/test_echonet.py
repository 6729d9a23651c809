"""EchoNet-Dynamic and -Pediatric: rows and tracings are read; what is wrong with them is named."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import Scan, scan

adults = partial(scan, "echonet", source="hearts")
children = partial(scan, "echonet_pediatric", source="kids")
TABLE = (
    "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
    "0X100,78.5,14.9,69.2,1024,1024,50,174,VAL\n0X200.avi,22.1,50,60,112,112,51,215,TRAIN\n0X300,,,,112,112,50,20,TEST\n"
)
HEADER = "FileName,EF,Sex,Age,Weight,Height,Split\n"
A4C = "CRa1-CRb1-000012.avi,64.9,F,0,3.04,50.0,0\nCRa2-CRb2-000003.avi,38,m,17,61,172.5,9\n"
PSAX = "CRa1-CRb1-000013,63.1,F,0,,,0\nCRa1-CRb7-000001,,,,,,4\n"
DISCS = "FileName,X1,Y1,X2,Y2,Frame\n" + "".join(
    f"0X100.AVI,{row}\n" for row in ("9,9,9,9,46", "1,2,3,0,46", "5,6,7,8,46", "0,0,0,0,61", "1,1,2,2,61")
)


def write(root: Path, table: str = TABLE, psax: str = "") -> Path:
    """EchoNet-Dynamic with this table; EchoNet-Pediatric with this one of the short axis, if one is given."""
    for folder, text in (("A4C", HEADER + A4C), ("PSAX", psax)) if psax else (("", table),):
        (root / folder / "Videos").mkdir(parents=True)
        (root / folder / "FileList.csv").write_text(text)
    return root


def traced(found: Scan) -> list[tuple[object, ...]]:
    return [(one.sample_id, one.frame, dict(one.phases), np.asarray(one.drawn).tolist()) for one in found.tracings]


def test_rows_follow_the_table(tmp_path: Path) -> None:
    frame = adults(write(tmp_path)).manifest
    rows = frame[["sample_id", "ef", "split_official", "view"]].fillna({"ef": -1}).to_numpy().tolist()
    expected = [["hearts/0X100", 78.5, "VAL"], ["hearts/0X200", 22.1, "TRAIN"], ["hearts/0X300", -1, "TEST"]]
    assert rows == [[*row, "A4C"] for row in expected]
    assert frame["patient_id"].tolist() == frame["sample_id"].tolist()  # one video per person
    assert frame["path"][1] == str(tmp_path / "Videos" / "0X200.avi")  # kept although the file does not exist


def test_rows_follow_the_tables_of_both_views(tmp_path: Path) -> None:
    frame = children(write(tmp_path, psax=HEADER + PSAX)).manifest
    rows = frame[["sample_id", "patient_id", "view", "split_official", "sex"]].fillna("").to_numpy().tolist()
    assert rows == [
        ["kids/CRa1-CRb1-000012", "kids/CRa1", "A4C", "0", "F"],
        ["kids/CRa2-CRb2-000003", "kids/CRa2", "A4C", "9", "M"],
        ["kids/CRa1-CRb1-000013", "kids/CRa1", "PSAX", "0", "F"],
        ["kids/CRa1-CRb7-000001", "kids/CRa1", "PSAX", "4", ""],
    ]
    assert frame["path"][2] == str(tmp_path / "PSAX" / "Videos" / "CRa1-CRb1-000013.avi")
    numbers = frame[["ef", "age", "weight_kg", "height_cm"]].fillna(-1)
    assert numbers.values.tolist() == [[64.9, 0, 3.04, 50], [38, 17, 61, 172.5], [63.1, 0, -1, -1], [-1] * 4]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("78.5", "178.5", r"FileList.csv, column EF must be a number from 0 to 100: 0X100 = '178.5'"),
        ("22.1", "low", r"EF must be a number from 0 to 100: 0X200 = 'low'"),
        ("VAL", "VALID", r"Split must be one of train, val, test: 0X100 = 'VALID'"),
        (",EF,", ",EjectionFraction,", r"has no column 'EF'"),
        (TABLE[TABLE.index("\n") :], "\n", r"FileList.csv has no row"),
        (TABLE, "", r"FileList.csv is not a csv table"),
        (",,,,,,4", ",,,,,,10", r"PSAX/FileList.csv, column Split must be one of 0, .*, 9: CRa1-CRb7-000001 = '10'"),
        ("CRa1-CRb1-000013", "CRa1_000013", r"names are not patient-examination-instance: CRa1_000013"),
        (PSAX, A4C, r"sample ids are repeated: kids/CRa1-CRb1-000012"),  # in both views
    ],
)
def test_a_wrong_table_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        if old in TABLE:
            adults(write(tmp_path, TABLE.replace(old, new, 1)))
        else:
            children(write(tmp_path, psax=(HEADER + PSAX).replace(old, new, 1)))


def test_discs_become_polygons_without_the_long_axis(tmp_path: Path) -> None:
    assert not adults(write(tmp_path)).tracings
    (tmp_path / "VolumeTracings.csv").write_text(DISCS)
    assert traced(adults(tmp_path)) == [
        ("hearts/0X100", 46, {46: "ED", 61: "ES"}, [[1, 2], [5, 6], [7, 8], [3, 0]]),
        ("hearts/0X100", 61, {46: "ED", 61: "ES"}, [[1, 1], [2, 2]]),
    ]
    (tmp_path / "VolumeTracings.csv").write_text(DISCS.replace("5,6", "left,6"))
    with pytest.raises(DataError, match=r"VolumeTracings.csv, column X1 must be a number .*: 0X100 = 'left'"):
        adults(tmp_path)


def test_polygons_of_both_views_are_read_and_absent_ones_left_out(tmp_path: Path) -> None:
    root, name = write(tmp_path, psax=HEADER + PSAX), "CRa1-CRb1-000012.avi"
    lines = [f"{name},1,2,5", f"{name},3,4.5,5", f"{name},5,6,5", f"{name},,,No Systolic"]
    (root / "A4C" / "VolumeTracings.csv").write_text("\n".join(["FileName,X,Y,Frame", *lines]))
    (root / "PSAX" / "VolumeTracings.csv").write_text("FileName,X,Y,Frame\nCRa1-CRb1-000013.avi,7,8,0\n")
    assert traced(children(root)) == [
        ("kids/CRa1-CRb1-000012", 5, {5: "ED"}, [[1, 2], [3, 4.5], [5, 6]]),  # "No Systolic" leaves end-diastole
        ("kids/CRa1-CRb1-000013", 0, {0: ""}, [[7, 8]]),
    ]
