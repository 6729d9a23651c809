"""EchoNet-Dynamic: rows and tracings are read; what is wrong with them is named."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "echonet", source="hearts")
TABLE = (
    "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
    "0X100,78.5,14.9,69.2,1024,1024,50,174,VAL\n0X200.avi,22.1,50,60,112,112,51,215,TRAIN\n0X300,,,,112,112,50,20,TEST\n"
)
DISCS = "FileName,X1,Y1,X2,Y2,Frame\n" + "".join(
    f"0X100.AVI,{row}\n" for row in ("9,9,9,9,46", "1,2,3,4,46", "5,6,7,8,46", "0,0,0,0,61", "1,1,2,2,61")
)


def write(root: Path, table: str = TABLE) -> Path:
    (root / "Videos").mkdir()
    (root / "FileList.csv").write_text(table)
    return root


def test_rows_follow_the_table(tmp_path: Path) -> None:
    frame = scan(write(tmp_path)).manifest
    assert frame["sample_id"].tolist() == ["hearts/0X100", "hearts/0X200", "hearts/0X300"]
    assert frame["patient_id"].tolist() == frame["sample_id"].tolist()  # one video per person
    assert frame["path"][1] == str(tmp_path / "Videos" / "0X200.avi")  # kept although the file does not exist
    assert frame["ef"].fillna(-1).tolist() == [78.5, 22.1, -1]
    assert frame["split_official"].tolist() == ["VAL", "TRAIN", "TEST"]
    assert set(frame["view"]) == {"A4C"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("78.5", "178.5", r"EF must be a number from 0 to 100: 0X100 = '178.5'"),
        ("22.1", "low", r"EF must be a number from 0 to 100: 0X200 = 'low'"),
        ("VAL", "VALID", r"Split must be one of train, val, test: 0X100 = 'VALID'"),
        (",EF,", ",EjectionFraction,", r"has no column 'EF'"),
        (TABLE[TABLE.index("\n") :], "\n", r"FileList.csv has no row"),
        (TABLE, "", r"FileList.csv is not a csv table"),
    ],
)
def test_a_wrong_table_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        scan(write(tmp_path, TABLE.replace(old, new, 1)))


def test_discs_become_polygons_without_the_long_axis(tmp_path: Path) -> None:
    assert not scan(write(tmp_path)).tracings
    (tmp_path / "VolumeTracings.csv").write_text(DISCS)
    assert [(one.sample_id, one.frame, np.asarray(one.drawn).tolist()) for one in scan(tmp_path).tracings] == [
        ("hearts/0X100", 46, [[1, 2], [5, 6], [7, 8], [3, 4]]),
        ("hearts/0X100", 61, [[1, 1], [2, 2]]),
    ]
    (tmp_path / "VolumeTracings.csv").write_text(DISCS.replace("5,6", "left,6"))
    with pytest.raises(DataError, match=r"VolumeTracings.csv, column X1 must be a number .*: 0X100 = 'left'"):
        scan(tmp_path)
