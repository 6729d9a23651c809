"""The near-duplicate search on real videos whose frames were compared by eye.

POCUS gives every video of its Northumbria collection a patient of its own; two pairs of them show one recording.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.data import video
from echolung.data.leakage import near_duplicates
from echolung.data.splits import SplitSettings

ROOT = Path(os.environ.get("ECHOLUNG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SAME_RECORDING = [
    ("Pneu_northumbria_0409_set2_vid3", "Pneu_northumbria_0409_set2_vid4"),
    ("Pneu_northumbria_0409_set5_vid1", "Pneu_northumbria_0409_set5_vid2"),
]
ALIKE_BUT_STRANGERS = ["Reg_pat2Image_134138", "Reg_pat3Image_135128", "Reg_pat4Image_140705"]
"""Three people on one machine, at one depth and gain: the most similar strangers of the set."""


class Store(dict[str, np.ndarray]):
    def frames(self, sample_id: str) -> np.ndarray:
        return self[sample_id]


def test_known_copies_are_found_and_the_most_similar_strangers_are_not() -> None:
    folder = ROOT / "pocus"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: set ECHOLUNG_REAL_DATA to the folder that holds pocus/")
    names = [name for pair in SAME_RECORDING for name in pair] + ALIKE_BUT_STRANGERS
    files = {path.stem: path for path in folder.rglob("*") if path.suffix.lower() != ".csv"}
    store = Store({n: video.decode(files[n], 96).frames for n in names})
    rows = pd.DataFrame({"sample_id": names, "patient_id": names, "sha256": names})
    pairs = near_duplicates(rows, store, SplitSettings().near_duplicate)
    assert {(row.sample_a, row.sample_b) for row in pairs.itertuples()} == set(SAME_RECORDING)
