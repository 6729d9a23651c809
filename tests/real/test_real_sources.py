"""The public sets as published, and DICOM of two machines: rows are understood, known copies are found.

Needs the sets in ECHOLUNG_REAL_DATA (default ../shared/data). All rows are read, a few videos are decoded.
"""

import os
from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import VideoError
from echolung.data import video
from echolung.data.leakage import near_duplicates
from echolung.data.sources.layouts import scan
from echolung.data.splits import SplitSettings

ROOT = Path(os.environ.get("ECHOLUNG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def present(name: str) -> Path:
    if not (ROOT / name).is_dir():
        pytest.skip(f"{ROOT / name} does not exist: set ECHOLUNG_REAL_DATA to the folder that holds it")
    return ROOT / name


def scanned(layout: str) -> pd.DataFrame:
    return scan(layout, present(layout), layout).manifest.set_index("sample_id", drop=False)


def test_pocus_is_understood() -> None:
    frame = scanned("pocus")
    videos, patients = frame["diagnosis"].value_counts(), frame.groupby("diagnosis")["patient_id"].nunique()
    assert videos.to_dict() == {"regular": 56, "pneumonia": 36, "covid": 27, "viral": 2}
    assert patients.to_dict() == {"regular": 32, "pneumonia": 33, "covid": 9, "viral": 2}
    several = frame.groupby("patient_id")["diagnosis"].nunique()
    assert set(several.index[several > 1]) == {"pocus/37", "pocus/7"}
    table = pd.crosstab(frame["collection"], frame["diagnosis"])
    assert table.loc["northumbria"].to_dict() == {"covid": 0, "pneumonia": 26, "regular": 21, "viral": 0}
    assert frame[["license", "collection"]].notna().all(axis=None)


def test_covid_blues_is_understood() -> None:
    frame = scanned("covid_blues")
    covid = frame.groupby("patient_id")["covid"]
    assert len(frame) == 362 and covid.nunique().eq(1).all()
    assert covid.first().value_counts().to_dict() == {1: 33, 0: 30}
    assert frame["severity"].value_counts().to_dict() == {0: 120, 1: 111, 2: 83, 3: 48}
    assert frame["b_lines"].value_counts().to_dict() == {1: 235, 0: 127}
    assert set(frame["view"]) == {"L1", "L2", "L3", "R1", "R2", "R3"}


def test_camus_is_understood() -> None:
    frame = scanned("camus")
    assert len(frame) == 1000 and frame["view"].value_counts().to_dict() == {"A2C": 500, "A4C": 500}
    patients = frame.drop_duplicates("patient_id")
    assert patients["split_official"].value_counts().to_dict() == {"TRAIN": 400, "VAL": 50, "TEST": 50}
    assert patients.groupby("split_official")["ef"].count().to_dict() == {"TEST": 50, "TRAIN": 50, "VAL": 50}
    assert len(scan("camus", ROOT / "camus", "camus").tracings) == 2000


def test_dicom_of_two_machines_is_understood() -> None:
    folder = present("dicom")
    cine = video.decode(folder / "color3d_jpeg_baseline.dcm")
    assert cine.frames.shape == (120, 384, 512) and cine.fps == pytest.approx(30, abs=0.01)
    assert cine.pixel_mm == pytest.approx(0.5105, abs=1e-4)
    assert cine.frames[:, 70:270, 170:320].mean() > 20
    still = video.decode(folder / "JPGLosslessP14SV1_1s_1f_8b.dcm")
    assert still.frames.shape == (1, 721, 997) and still.pixel_mm == pytest.approx(0.2548, abs=1e-4)
    odd = video.decode(folder / "examples_ybr_color.dcm")  # its box is that of a picture twice as large
    assert odd.pixel_mm is None and odd.frames.any() and odd.frames.shape[1] <= 205
    with pytest.raises(VideoError, match=r"color-pl.dcm has no region"):
        video.decode(folder / "color-pl.dcm")


SAME_RECORDING = [
    ("Pneu_northumbria_0409_set2_vid3", "Pneu_northumbria_0409_set2_vid4"),
    ("Pneu_northumbria_0409_set5_vid1", "Pneu_northumbria_0409_set5_vid2"),
]
"""POCUS gives each of these its own patient, but they show one recording."""
STRANGERS = ["Reg_pat2Image_134138", "Reg_pat3Image_135128", "Reg_pat4Image_140705"]
"""Three people on one machine, at one depth and gain: the most similar strangers of the set."""


def test_known_copies_are_found_and_the_most_similar_strangers_are_not() -> None:
    names = [name for pair in SAME_RECORDING for name in pair] + STRANGERS
    paths = scanned("pocus")["path"]
    videos = {name: video.decode(Path(paths[f"pocus/{name}"]), 96).frames for name in names}
    rows = pd.DataFrame({"sample_id": names, "patient_id": names, "sha256": names})
    pairs = near_duplicates(rows, videos.__getitem__, SplitSettings().near_duplicate)
    assert {(row.sample_a, row.sample_b) for row in pairs.itertuples()} == set(SAME_RECORDING)
