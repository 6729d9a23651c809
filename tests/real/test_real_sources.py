"""The public lung sets as published: every row is understood, and the files that are hard to decode decode.

Needs the sets in ECHOLUNG_REAL_DATA (default ../shared/data). All rows are read, a few videos decoded.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from echolung.data import video
from echolung.data.sources.layouts import scan

torch.set_num_threads(1)
ROOT = Path(os.environ.get("ECHOLUNG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def scanned(layout: str) -> pd.DataFrame:
    root = ROOT / layout
    if not root.is_dir():
        pytest.skip(f"{root} does not exist: set ECHOLUNG_REAL_DATA to the folder that holds pocus/ and covid_blues/")
    return scan(layout, root, layout).manifest.set_index("sample_id", drop=False)


def test_pocus_is_understood() -> None:
    frame = scanned("pocus")
    videos, patients = frame["diagnosis"].value_counts(), frame.groupby("diagnosis")["patient_id"].nunique()
    assert videos.to_dict() == {"regular": 56, "pneumonia": 36, "covid": 27, "viral": 2}
    assert patients.to_dict() == {"regular": 32, "pneumonia": 33, "covid": 9, "viral": 2}
    assert not frame["patient_id"].str.contains("unknown").any()
    several = frame.groupby("patient_id")["diagnosis"].nunique()
    assert set(several.index[several > 1]) == {"pocus/37", "pocus/7"}
    table = pd.crosstab(frame["collection"], frame["diagnosis"])
    assert table.loc["northumbria"].to_dict() == {"covid": 0, "pneumonia": 26, "regular": 21, "viral": 0}
    assert frame[["license", "collection"]].notna().all(axis=None)


def test_covid_blues_is_understood() -> None:
    frame = scanned("covid_blues")
    assert len(frame) == 362
    covid = frame.groupby("patient_id")["covid"]
    assert covid.nunique().eq(1).all()
    assert covid.first().value_counts().to_dict() == {1: 33, 0: 30}
    assert frame["severity"].value_counts().to_dict() == {0: 120, 1: 111, 2: 83, 3: 48}
    assert frame["b_lines"].value_counts().to_dict() == {1: 235, 0: 127}
    assert set(frame["view"]) == {"L1", "L2", "L3", "R1", "R2", "R3"}


@pytest.mark.parametrize(
    ("name", "frames", "declared", "fps", "pixel_aspect"),
    [
        ("Reg_pat1Image_132943.mpeg", 280, 280, 25.0, 1),  # 268 by random access: 12 frames have no timestamp
        ("Reg_pat3Image_134904.mpeg", 247, 247, 25.0, 1),
        ("Cov_denault_proposedUS_vid5.mov", 192, 210, 60.0, 1),  # an edit list hides 18
        ("Cov_denault_proposedUS_vid13.mov", 171, 174, 50.5, 1),  # varying rate
        ("Cov-Atlas+(44).gif", 41, 41, 10.0, 1),
        ("Pneu_northumbria_0409_set1_vid1.avi", 90, 90, 22.25, 1),
        ("Pneu_northumbria_0409_set6_vid4.avi", 91, 91, 22.25, 1),  # H.264 in .avi
        ("Pneu_liftl_pneu_case3_clip3.mp4", 25, 25, 15.0, 1),
        ("Cov_combatting_Image1.mp4", 113, 113, 28.25, 9 / 8),
        ("Cov_combatting_image4.mp4", 137, 137, 27.4, 9 / 8),
    ],
)
def test_each_kind_of_pocus_file_decodes_whole(
    name: str, frames: int, declared: int, fps: float, pixel_aspect: float
) -> None:
    frame = scanned("pocus")
    decoded = video.decode(Path(frame.loc[f"pocus/{Path(name).stem}", "path"]), 64)
    assert (len(decoded.frames), decoded.frames_declared) == (frames, declared)
    assert decoded.fps == pytest.approx(fps, abs=0.1)
    assert (decoded.damage, decoded.pixel_aspect) == ("", pixel_aspect)
    rows, columns = np.nonzero(decoded.frames.max(axis=0))
    assert np.ptp(columns) + 1 == pytest.approx(
        (np.ptp(rows) + 1) * decoded.width * pixel_aspect / decoded.height, abs=2
    )


def test_covid_blues_decodes() -> None:
    frame = scanned("covid_blues")
    for name, frames in [("patient_10_L2", 101), ("patient_5_R3", 7)]:
        decoded = video.decode(Path(frame.loc[f"covid_blues/{name}", "path"]))
        assert decoded.frames.shape == (frames, 350, 350)
        assert (decoded.frames_declared, decoded.damage) == (frames, "")
