"""EchoNet-Dynamic: its layout is read, and every way it can be wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.manifest import conform
from echolung.data.sources.echonet import scan

HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
ROWS = "0X100,78.5,14.9,69.2,1024,1024,50,174,VAL\n0X200.avi,22.1,50,60,112,112,51,215,TRAIN\n"
ROWS += "0X300,,,,112,112,50,20,TEST\n"


def write(root: Path, table: str = HEADER + ROWS) -> Path:
    (root / "Videos").mkdir(parents=True, exist_ok=True)
    (root / "Videos" / "0X100.avi").touch()
    (root / "FileList.csv").write_text(table)
    return root


def test_rows_follow_the_table(tmp_path: Path) -> None:
    frame = conform(scan(write(tmp_path), "hearts"))
    assert frame["sample_id"].tolist() == ["hearts/0X100", "hearts/0X200", "hearts/0X300"]
    assert frame["patient_id"].tolist() == frame["sample_id"].tolist()  # one video per person
    assert frame["path"][1] == str(tmp_path / "Videos" / "0X200.avi")  # kept although the file is not there
    assert frame["ef"].fillna(-1).tolist() == [78.5, 22.1, -1]
    assert frame["split_official"].tolist() == ["VAL", "TRAIN", "TEST"]
    assert set(frame["view"]) == {"A4C"}
    assert set(frame["source"]) == {"hearts"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("78.5", "178.5", r"EF must be a number from 0 to 100: 0X100 = '178.5'"),
        ("22.1", "low", r"EF must be a number from 0 to 100: 0X200 = 'low'"),
        ("VAL", "VALID", r"Split must be one of train, val, test: 0X100 = 'VALID'"),
        (",EF,", ",EjectionFraction,", r"has no column 'EF'"),
        ("FileName", "FileNames", r"has no column 'FileName' \(nearest: 'FileNames'\)"),
        (ROWS, "", r"FileList.csv has no row"),
        (HEADER + ROWS, "", r"FileList.csv is not a csv table"),
    ],
)
def test_a_wrong_table_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        scan(write(tmp_path, (HEADER + ROWS).replace(old, new, 1)), "hearts")
    assert caught.value.remedy


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "EchoNet-Dynamic"
    for made, problem in [
        (lambda: None, "no folder"),
        (root.mkdir, "Videos"),
        ((root / "Videos").mkdir, "no file .*FileList.csv"),
    ]:
        made()
        with pytest.raises(DataError, match=problem) as caught:
            scan(root, "hearts")
        assert str(root) in caught.value.problem
        assert "echonet.github.io/dynamic" in caught.value.remedy
