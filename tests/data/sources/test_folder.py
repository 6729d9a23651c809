"""A folder of your own videos: tables and names as people write them are read, or their fault is named."""

import os
from functools import partial
from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import Scan, scan

folder = partial(scan, "folder", source="mine")
ROWS = [("a.mp4", "007", "no"), ("b.mp4", "NA", "yes"), ("c.mp4", "Jürgen", "1")]


def written(root: Path, content: str | bytes, name: str = "videos.csv") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def listing(root: Path, *rows: str) -> Path:
    return written(root, "\n".join(["path,patient,label", *rows, ""]))


def joined(separator: str, header: str = "path,patient,label", end: str = "\n") -> str:
    return end.join([header.replace(",", separator), *(separator.join(row) for row in ROWS), ""])


def cells(found: Scan) -> list[tuple[str, ...]]:
    table = found.manifest
    return [(Path(row.path).name, row.patient_id.removeprefix("mine/"), row.label) for row in table.itertuples()]


TABLES: dict[str, tuple[str | bytes, str]] = {
    "commas": (joined(","), ""),
    "semicolons of Excel in German": ("\ufeff" + joined(";", end="\r\n"), "separated by semicolons"),
    "tabs": (joined("\t"), "separated by tabs"),
    "Latin-1 umlauts": (joined(";").encode("latin-1"), "read as Windows-1252"),
    "byte order mark and CRLF": ("\ufeff" + joined(",", end="\r\n"), ""),
    "a header in another case with blanks": (joined(",", " Path ,PATIENT, Label"), ""),
    "equal rows": (joined(",") + "a.mp4,007,no\n", "1 rows are repetitions"),
    "semicolons and commas in quoted cells": (joined(",", 'path,patient,label,"remark; or, more"') + "\n", ""),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_whatever_program_wrote_it(kind: str, tmp_path: Path) -> None:
    content, note = TABLES[kind]
    found = folder(written(tmp_path, content))
    assert cells(found) == ROWS  # `no`, `NA`, `007` and `1` stay text
    assert note in "; ".join(found.notes) and bool(found.notes) == bool(note)


OUTSIDE = ("../secret.mp4", "/etc/passwd", "a/../../b.mp4", "..\\b.mp4", "..")
FAULTS: list[tuple[str | bytes, str]] = [
    ("path;patient\na.mp4;P1\n", r"no column 'label'\. Its columns are: path, patient"),
    ("path\na.mp4\n", "no column 'patient', 'label'"),
    ("path,patient,label\na,b.mp4,P1,x\n", "Expected 3 fields in line 2, saw 4"),
    ("path,patient,label,label\na.mp4,P1,x,y\n", "has a column more than once: path, patient, label, label"),
    ("path,patient,label,fps\na.mp4,P1,x,0\n", "column fps must be a number from 1 to 1000: a.mp4 = '0'"),
    (b"PK\x03\x04" + bytes(40), "is not text, but a spreadsheet"),
    (b"path,patient,label\na.mp4,P1,\x81\n", "is text in an unknown encoding"),
    (joined("\t").encode("utf-16"), "is not text"),
    ("path,patient,label\na.mp4,P1,x\na.mp4,P2,x\n", r"sample ids are repeated: mine/a .*, mine/a"),
    ("path,patient,label\n\na.mp4,,x\nb.mp4,Bob,y\n", r"patient is empty in lines 3"),
    ("path,patient,label\na.mp4,Ann,x\n,Bob,y\n", r"path is empty in lines 3"),
    *((f"path,patient,label\n{name},Ann,x\n", "videos must be inside") for name in OUTSIDE),
]


def test_a_table_that_cannot_be_read_is_named_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*videos\.csv \(.* holds: videos\.xlsx\)"):
        folder(written(tmp_path, b"PK", "videos.xlsx"))
    for content, problem in FAULTS:
        with pytest.raises(DataError, match=problem):
            folder(written(tmp_path, content))


SPELLED = {"a.mp4": "a.MP4", "A.MP4": "a.mp4", "a.mp4.mp4": "a.mp4", "a.AVI.avi": "a"}
SPELLED["ward/\u00fc.mp4"] = "Ward/u\u0308.mp4"  # an accent as one letter and as two


@pytest.mark.parametrize(("file", "name"), SPELLED.items())
def test_a_file_is_found_by_a_name_in_another_case_or_without_its_suffix(file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    found = folder(listing(tmp_path, f"{name},P1,x", "absent.mp4,P2,y"))
    assert found.manifest["path"].tolist() == [str(tmp_path / file), str(tmp_path / "absent.mp4")]
    assert f"1 of 2 names are spelled differently from their files (case or suffix): '{name}' is {file}" in found.notes


def test_a_name_that_can_mean_two_files_stays_and_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    for name in ("a.avi", "a.MP4"):
        (tmp_path / name).touch()
    found = folder(listing(tmp_path, "A.mov,P1,x"))
    assert found.manifest["path"].tolist() == [str(tmp_path / "A.mov")]  # which does not exist: the gate names it
    (tmp_path / "a.MP4").unlink()
    with pytest.raises(DataError, match=r"several rows mean the file a\.avi"):
        folder(listing(tmp_path, "a.avi,P1,x", "A.avi,P2,y"))


@pytest.mark.parametrize("kind", ["broken link", "link to a folder", "pipe"])
def test_what_could_only_be_passed_over_is_named(kind: str, tmp_path: Path) -> None:
    root = written(tmp_path / "mine", joined(","))
    if kind == "pipe":
        os.mkfifo(root / "stray")
    else:
        (tmp_path / "elsewhere").mkdir()
        (root / "stray").symlink_to(tmp_path / ("gone" if kind == "broken link" else "elsewhere"))
    with pytest.raises(DataError, match=r"mine holds links, pipes or folders that cannot be read: 'stray'\. Remove"):
        folder(root)


def test_a_csv_of_path_patient_and_label_is_enough(tmp_path: Path) -> None:
    text = "path, patient,label,view,split,label_x,fps,age\nward/1.mp4,Ann,ill,L1,train,left,30,8\n./2.avi,Bob,,,,,,5\n"
    frame = folder(written(tmp_path, text)).manifest
    assert frame["sample_id"].tolist() == ["mine/ward/1", "mine/2"]
    assert frame["path"].tolist() == [str(tmp_path / "ward" / "1.mp4"), str(tmp_path / "2.avi")]
    assert frame["patient_id"].tolist() == ["mine/Ann", "mine/Bob"]
    columns = ["label", "view", "split_official", "label_x", "fps"]
    assert frame.loc[0, columns].tolist() == ["ill", "L1", "train", "left", 30]
    assert frame.loc[1, columns].isna().all() and frame["age"].isna().all()  # age is not read


def test_a_link_that_leads_out_is_refused_and_one_of_dvc_is_the_file(tmp_path: Path) -> None:
    root = listing(tmp_path / "mine", "a.mp4,Ann,covid")
    elsewhere, inside = tmp_path / "elsewhere" / "b.mp4", root / "ward" / "b.mp4"
    cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / "0a" / ("1b" * 15)
    for target in (elsewhere, cached, inside):
        target.parent.mkdir(parents=True)
        target.touch()
        (root / "a.mp4").unlink(missing_ok=True)
        (root / "a.mp4").symlink_to(target)
        if target is elsewhere:
            with pytest.raises(DataError, match=r"videos must be inside .*a.mp4"):
                folder(root)
        else:
            assert len(folder(root).manifest) == 1
    (tmp_path / "link").symlink_to(root)  # the folder itself may be one
    assert len(folder(tmp_path / "link").manifest) == 1


def test_masks_beside_the_videos_are_tracings_of_a_frame(tmp_path: Path) -> None:
    root = listing(tmp_path / "mine", "ward/a_1.mp4,Ann,x", "b.mp4,Bob,y")
    assert not folder(root).tracings
    names = ("ward/a_1_12.nii.gz", "b_0_ED.nii", "b_7_ES.nii.gz")
    for name in names:
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "masks" / name).touch()
    found = {(one.sample_id, one.frame, *one.phases.values()): one.drawn for one in folder(root).tracings}
    keys = [("mine/ward/a_1", 12), ("mine/b", 0, "ED"), ("mine/b", 7, "ES")]
    assert found == {key: root / "masks" / name for key, name in zip(keys, names, strict=True)}
    (root / "masks" / "c_3.nii.gz").touch()
    with pytest.raises(DataError, match=r"1 masks .* name no recording of it: masks/c_3.nii.gz. Name a mask masks/"):
        folder(root)
