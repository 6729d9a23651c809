"""EchoNet-Pediatric: rows and tracings of both views are read; what is wrong with them is named."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.core.errors import DataError
from echolung.data.ingest import IngestSettings, ingest
from echolung.data.sources.layouts import scan as scan_layout
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write as draw

scan = partial(scan_layout, "echonet_pediatric")

HEADER = "FileName,EF,Sex,Age,Weight,Height,Split\n"
A4C = "CRa1-CRb1-000012.avi,64.9,F,0,3.04,50.0,0\nCRa2-CRb2-000003.avi,38,m,17,61,172.5,9\n"
POLYGON = [[1.0, 2.0], [3.0, 4.5], [5.0, 6.0]]
PSAX = "CRa1-CRb1-000013,63.1,F,0,,,0\nCRa1-CRb7-000001,,,,,,4\n"


def write(root: Path, a4c: str = HEADER + A4C, psax: str = HEADER + PSAX) -> Path:
    for view, table in (("A4C", a4c), ("PSAX", psax)):
        (root / view / "Videos").mkdir(parents=True, exist_ok=True)
        (root / view / "FileList.csv").write_text(table)
    return root


def test_rows_follow_both_tables(tmp_path: Path) -> None:
    frame = scan(write(tmp_path), "kids").manifest
    stems = ["CRa1-CRb1-000012", "CRa2-CRb2-000003", "CRa1-CRb1-000013", "CRa1-CRb7-000001"]
    assert frame["sample_id"].tolist() == [f"kids/{stem}" for stem in stems]
    assert frame["patient_id"].tolist() == ["kids/CRa1", "kids/CRa2", "kids/CRa1", "kids/CRa1"]
    assert frame["view"].tolist() == ["A4C", "A4C", "PSAX", "PSAX"]
    assert frame["path"][2] == str(tmp_path / "PSAX" / "Videos" / "CRa1-CRb1-000013.avi")
    assert frame["split_official"].tolist() == ["0", "9", "0", "4"]
    assert frame["ef"].fillna(-1).tolist() == [64.9, 38, 63.1, -1]
    assert frame["sex"].fillna("").tolist() == ["F", "M", "F", ""]
    assert frame["age"].fillna(-1).tolist() == [0, 17, 0, -1]
    assert frame["weight_kg"].fillna(-1).tolist() == [3.04, 61, -1, -1]
    assert frame["height_cm"].fillna(-1).tolist() == [50, 172.5, -1, -1]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("63.1", "163.1", r"PSAX/FileList.csv, column EF must be a number from 0 to 100: CRa1-CRb1-000013 = '163.1'"),
        (",,,,,,4", ",,,,,,10", r"Split must be one of 0, .*, 9: CRa1-CRb7-000001 = '10'"),
        ("F,0,,,0", "F,-1,,,0", r"Age must be a number from 0 to 120: CRa1-CRb1-000013 = '-1'"),
        ("F,0,,,0", "F,0,light,,0", r"Weight must be a number .*'light'"),
        ("F,0,,,0", "F,0,,1720,0", r"Height must be a number from 0 to 250: CRa1-CRb1-000013 = '1720'"),
        ("CRa1-CRb1-000013", "CRa1_000013", r"names are not patient-examination-instance: CRa1_000013"),
        ("Split", "Fold", r"PSAX/FileList.csv has no column 'Split'"),
        (PSAX, "", r"PSAX/FileList.csv has no row"),
        (HEADER + PSAX, "", r"PSAX/FileList.csv is not a csv table"),
    ],
)
def test_a_wrong_table_is_named(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        scan(write(tmp_path, psax=(HEADER + PSAX).replace(old, new, 1)), "kids")
    assert caught.value.remedy


def test_polygons_of_both_views_are_read_and_absent_ones_left_out(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert scan(root, "kids").tracings is None
    lines = "FileName,X,Y,Frame\nCRa1-CRb1-000012.avi,1,2,5\nCRa1-CRb1-000012.avi,3,4.5,5\nCRa1-CRb1-000012.avi,5,6,5\n"
    (root / "A4C" / "VolumeTracings.csv").write_text(lines + "CRa1-CRb1-000012.avi,,,No Systolic\n")
    (root / "PSAX" / "VolumeTracings.csv").write_text("FileName,X,Y,Frame\nCRa1-CRb1-000013.avi,7,8,0\n")
    assert scan(root, "kids").tracings.to_dict("records") == [
        {"sample_id": "kids/CRa1-CRb1-000012", "frame": 5, "structure": "left ventricle", "points": POLYGON},
        {"sample_id": "kids/CRa1-CRb1-000013", "frame": 0, "structure": "left ventricle", "points": [[7.0, 8.0]]},
    ]


def test_a_video_listed_in_both_views_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample ids are repeated: kids/CRa1-CRb1-000012"):
        scan(write(tmp_path, psax=HEADER + A4C), "kids")


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "pediatric"
    for made, problem in [
        (lambda: None, "no folder"),
        (root.mkdir, "no folder .*A4C"),
        ((root / "A4C").mkdir, "no folder .*Videos"),
        ((root / "A4C" / "Videos").mkdir, "no file .*FileList.csv"),
        (lambda: (root / "A4C" / "FileList.csv").write_text(HEADER + A4C), "no folder .*PSAX"),
    ]:
        made()
        with pytest.raises(DataError, match=problem) as caught:
            scan(root, "kids")
        assert str(root) in caught.value.problem
        assert "echonet.github.io/pediatric" in caught.value.remedy


def test_drawn_children_are_read_and_decoded(tmp_path: Path) -> None:
    drawn = PhantomSettings.parse({"layout": "echonet_pediatric", "patients": 2, "frames": 8, "size": 48}, "the test")
    truth = draw(drawn, tmp_path / "kids", 1, lambda done, total: None)
    settings = IngestSettings.parse(
        {"size": 32, "sources": {"kids": {"layout": "echonet_pediatric", "root": "kids"}}}, "the test"
    )
    found = ingest("kids", settings, tmp_path)
    manifest = found.manifest
    assert manifest["decode_error"].isna().all()
    joined = manifest.assign(file=manifest["path"].str.removeprefix("kids/")).merge(truth, on="file", validate="1:1")
    assert len(joined) == 4
    assert (joined["frames_x"] == joined["frames_y"]).all()
    assert (joined["view_x"].str.lower() == joined["view_y"]).all()
    assert (joined["patient_id"] == "kids/" + joined["patient"]).all()
    pd.testing.assert_series_equal(
        joined["ef"], joined["ejection_fraction"], check_names=False, check_dtype=False, atol=0.01
    )
    assert all(set(views) == {"A4C", "PSAX"} for _, views in manifest.groupby("patient_id")["view"])
    assert manifest["license"].str.contains("synthetic").all()
    assert found.tracings["sample_id"].isin(manifest["sample_id"]).all()
    assert all(np.min(points) >= 0 and np.max(points) <= 31 for points in found.tracings["points"])
