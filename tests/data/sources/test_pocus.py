"""POCUS: files and table are joined whatever the case, and patients are kept apart."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import DataError
from echolung.data.leakage import split_groups
from echolung.data.sources.layouts import scan as scan_layout

scan = partial(scan_layout, "pocus", source="pocus")

FILES = {  # file -> (Filename, Label, License, patient, Source ID) in the table
    "Cov-Atlas+(44).gif": ("Cov-Atlas+(44)", "COVID-19", "CC BY-NC 4.0", "36.0", "2.0"),
    "Pneu_Avi_Video_001.mp4": ("pneu_avi_video_001", "Bacterial pneumonia", "CC BY-NC 4.0", "174", "18.0"),
    "Reg_Avi_lung-sliding.MP4": ("Reg_Avi_lung-sliding", "Regular", "CC BY-NC -SA 4.0", "140", "18"),
    "Vir_whitelung_h1n1.mp4": ("Vir_whitelung_h1n1", "Viral pneumonia", "", "99", "24"),
    "Pneu_liftl_pneu_case3_clip3.mp4": ("Pneu_liftl_pneu_case3_clip3", "Bacterial pneumonia", "", "7", "16"),
    "Reg_liftl_case3_clip2.mp4": ("Reg_liftl_case3_clip2", "regular", "", "40", "16"),
    "Cov_Arnthfield_2020_Vid3.mp4": ("Cov_Arnthfield_2020_Vid3", "COVID-19", "", "", "35.0"),
}


def write(root: Path, rows: list[tuple[str, ...]] | None = None, folder: str = "convex") -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (root / folder / name).touch()
    (root / folder / ".DS_Store").touch()
    columns = ["Filename", "Label", "License", "Patient ID / Name", "Source ID"]
    elsewhere = ("Cov-linear", "COVID-19", "", "1", "2")  # a video of the table that is not in the folder
    table = pd.DataFrame([*(FILES.values() if rows is None else rows), elsewhere], columns=columns)
    table.assign(Comments="normal, with a comma").to_csv(root / "dataset_metadata.csv", index=False)
    return root


@pytest.mark.parametrize("folder", ["convex", "pocus_videos/convex"])
def test_files_are_joined_with_their_rows(folder: str, tmp_path: Path) -> None:
    frame = scan(write(tmp_path, folder=folder)).manifest.set_index("sample_id")
    assert len(frame) == len(FILES)
    atlas = frame.loc["pocus/Cov-Atlas+(44)"]
    assert (atlas.diagnosis, atlas.patient_id, atlas.collection) == ("covid", "pocus/36", "pocus-atlas")
    sliding = frame.loc["pocus/Reg_Avi_lung-sliding"]
    assert (sliding.diagnosis, sliding.collection) == ("regular", "northumbria")
    assert (sliding.license, frame.loc["pocus/Vir_whitelung_h1n1"].diagnosis) == ("CC BY-NC-SA 4.0", "viral")
    patients = frame["patient_id"]
    assert patients["pocus/Pneu_Avi_Video_001"] == "pocus/174"
    # A patient that the table lacks is one of his own, and a slipped cell is put right.
    assert patients["pocus/Cov_Arnthfield_2020_Vid3"] == "pocus/ultraschalltagung-Cov_Arnthfield_2020_Vid3"
    assert patients["pocus/Reg_liftl_case3_clip2"] == patients["pocus/Pneu_liftl_pneu_case3_clip3"] == "pocus/7"


def test_a_video_without_a_row_is_kept_and_read_by_its_name(tmp_path: Path) -> None:
    frame = scan(write(tmp_path, rows=[])).manifest.set_index("sample_id")
    assert len(frame) == frame["patient_id"].nunique() == len(FILES)
    row = frame.loc["pocus/Pneu_Avi_Video_001", ["diagnosis", "collection", "patient_id"]]
    assert row.tolist() == ["pneumonia", "unknown", "pocus/unknown-Pneu_Avi_Video_001"]


def labelled(label: str) -> list[tuple[str, ...]]:
    """The table with another label of the viral pneumonia."""
    name, _, *rest = FILES["Vir_whitelung_h1n1.mp4"]
    return list((FILES | {"Vir_whitelung_h1n1.mp4": (name, label, *rest)}).values())


def test_contradictions_are_named(tmp_path: Path) -> None:
    twice = [*FILES.values(), ("COV-ATLAS+(44)", "COVID-19", "CC BY-NC 4.0", "5", "2")]
    for rows, problem in [
        (labelled("Flu"), "label 'Flu' of Vir_whitelung_h1n1.mp4 is not one of covid-19"),
        (labelled("regular"), "labels Vir_.* 'regular', but its name says viral"),
        (twice, r"contradict each other for cov-atlas\+\(44\)"),
    ]:
        with pytest.raises(DataError, match=problem):
            scan(write(tmp_path, rows))


def test_videos_of_one_recording_set_stay_together(tmp_path: Path) -> None:
    names = ["Pneu_northumbria_0409_set5_vid1", "Reg_northumbria_0409_set5_vid2", "Reg_northumbria_1009_vid2"]
    root = write(tmp_path)
    for name in names:
        (root / "convex" / f"{name}.avi").write_bytes(b"x")
    rows = scan(root).manifest.set_index("sample_id").loc[[f"pocus/{name}" for name in names]]
    assert rows["patient_id"].nunique() == 3
    groups = split_groups(rows.reset_index(), pd.DataFrame(columns=["sample_a", "sample_b"]))
    assert groups[0] == groups[1] != groups[2]
