"""A folder of your own videos needs a csv and nothing else, and no line of it reaches outside the folder."""

from functools import partial
from pathlib import Path

import pytest

from echolung.core.errors import DataError
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "folder", source="mine")


def write(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "videos.csv").write_text(text)
    return root


def test_a_csv_of_path_patient_and_label_is_enough(tmp_path: Path) -> None:
    text = "path, patient,label,view,split,label_lobe,age\nward/1.mp4,Ann,covid,L1,train,left,81\n./2.avi,Bob,,,,,50\n"
    frame = scan(write(tmp_path, text)).manifest
    assert frame["sample_id"].tolist() == ["mine/ward/1", "mine/2"]
    assert frame["path"].tolist() == [str(tmp_path / "ward" / "1.mp4"), str(tmp_path / "2.avi")]
    assert frame["patient_id"].tolist() == ["mine/Ann", "mine/Bob"]
    columns = ["label", "view", "split_official", "label_lobe"]
    assert frame.loc[0, columns].tolist() == ["covid", "L1", "train", "left"]
    assert frame.loc[1, columns].isna().all()
    assert frame["age"].isna().all()  # not read


@pytest.mark.parametrize("path", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "..\\b.mp4", ".."])
def test_a_path_that_leaves_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="videos must be inside"):
        scan(write(tmp_path, f"path,patient,label\n{path},Ann,covid\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,patient,label\n\na.mp4,,x\nb.mp4,Bob,y\n", r"patient is empty in lines 3"),
        ("path,patient,label\na.mp4,Ann,x\n,Bob,y\n", r"path is empty in lines 3"),
    ],
)
def test_a_wrong_table_is_named(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        scan(write(tmp_path, text))


def test_a_link_that_leads_out_is_refused_and_one_of_dvc_is_the_file(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "path,patient,label\na.mp4,Ann,covid\n")
    elsewhere, inside = tmp_path / "elsewhere" / "b.mp4", root / "ward" / "b.mp4"
    cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / "0a" / ("1b" * 15)
    for target in (elsewhere, cached, inside):
        target.parent.mkdir(parents=True)
        target.touch()
        (root / "a.mp4").unlink(missing_ok=True)
        (root / "a.mp4").symlink_to(target)
        if target is elsewhere:
            with pytest.raises(DataError, match=r"videos must be inside .*a.mp4"):
                scan(root)
        else:
            assert len(scan(root).manifest) == 1
    (tmp_path / "link").symlink_to(root)  # the folder itself may be one
    assert len(scan(tmp_path / "link").manifest) == 1


def test_masks_beside_the_videos_are_tracings_of_a_frame(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "path,patient,label\nward/a_1.mp4,Ann,x\nb.mp4,Bob,y\n")
    assert not scan(root).tracings
    names = ("ward/a_1_12.nii.gz", "b_0_ED.nii", "b_7_ES.nii.gz")
    for name in names:
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "masks" / name).touch()
    found = {(one.sample_id, one.frame, *one.phases.values()): one.drawn for one in scan(root).tracings}
    keys = [("mine/ward/a_1", 12), ("mine/b", 0, "ED"), ("mine/b", 7, "ES")]
    assert found == {key: root / "masks" / name for key, name in zip(keys, names, strict=True)}
    (root / "masks" / "c_3.nii.gz").touch()
    with pytest.raises(DataError, match=r"1 masks .* name no recording of it: masks/c_3.nii.gz. Name a mask masks/"):
        scan(root)
