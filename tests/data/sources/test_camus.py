"""CAMUS: stills are recordings of one frame; what is wrong with a file or a table is named."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from echolung.core.errors import DataError, VideoError
from echolung.data.clips import ClipStore, read_clip
from echolung.data.ingest import IngestSettings, ingest
from echolung.data.sources.layouts import scan as scan_layout
from echolung.data.video import decode
from echolung.gates.suites import ingest as suite

scan = partial(scan_layout, "camus", source="stills")
BRIGHT = np.zeros((40, 20), np.uint8)  # x before y, as in a file: wide frames with a bright right half
BRIGHT[20:] = 200


def image(path: Path, pixels: np.ndarray = BRIGHT, spacing: tuple[float, float] = (1.0, 2.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nibabel.Nifti1Image(pixels, None)
    content.header.set_zooms((*spacing, *[1.0] * (pixels.ndim - 2)))
    nibabel.save(content, path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "camus"
    for number, split in enumerate(("training", "training", "testing"), start=1):
        patient = f"patient000{number}"
        folder = place / "database_nifti" / patient
        for view in ("2CH", "4CH"):
            for phase in ("ED", "ES", "ES_gt"):
                image(folder / f"{patient}_{view}_{phase}.nii.gz", BRIGHT // number)
            (folder / f"Info_{view}.cfg").write_text(f"ED: 1\nEF: {50 + number}.5\n")
        (place / "database_split").mkdir(exist_ok=True)
        with (place / "database_split" / f"subgroup_{split}.txt").open("a") as stream:
            stream.write(f"{patient}\n")
    (place / "database_split" / "subgroup_validation.txt").write_text("")
    return place


def test_a_row_per_still_without_masks(root: Path) -> None:
    frame = scan(root).manifest
    assert len(frame) == 12 and frame["patient_id"].nunique() == 3
    assert frame["sample_id"][0] == "stills/patient0001_2CH_ED"
    assert frame["view"].tolist()[:4] == ["A2C", "A2C", "A4C", "A4C"]
    assert frame["label"].tolist()[:4] == ["ED", "ES", "ED", "ES"]
    assert frame["ef"].tolist()[::4] == [51.5, 52.5, 53.5]
    assert frame["split_official"].tolist()[::4] == ["TRAIN", "TRAIN", "TEST"]


def test_one_part_of_the_split_alone(root: Path) -> None:
    assert set(scan(root, split=["TRAIN"]).manifest["patient_id"]) == {"stills/patient0001", "stills/patient0002"}
    with pytest.raises(DataError, match=r"no official split 'VAL'.*TEST, TRAIN"):
        scan(root, split=["TEST", "VAL"])


def test_a_patient_in_no_split_is_named(root: Path) -> None:
    (root / "database_split" / "subgroup_testing.txt").write_text("")
    with pytest.raises(DataError, match=r"patients in no file of .*patient0003"):
        scan(root)


def test_x_is_the_width_and_pixels_become_square(root: Path) -> None:
    still = decode(root / "database_nifti/patient0001/patient0001_4CH_ED.nii.gz")
    assert still.frames.shape == (1, 20, 40) and still.pixel_aspect == 0.5
    assert (still.frames[0, :, 20:] == 200).all() and not still.frames[0, :, :20].any()
    square = decode(root / "database_nifti/patient0001/patient0001_4CH_ED.nii.gz", 20)
    assert (square.frames[0, :, 12:] == 200).all()  # 40 pixels of half the width: 20 x 20


def test_stills_pass_the_gate_and_fill_a_clip(root: Path, tmp_path: Path) -> None:
    settings = IngestSettings.parse(
        {"size": 32, "sources": {"stills": {"layout": "camus", "root": str(root), "split": "TRAIN"}}}, "the test"
    )
    found = ingest("stills", settings, tmp_path)
    found.write(tmp_path / "out")
    (table,) = suite({"manifest": found.manifest})
    assert table.rows["video_frames"].isna().all() and found.manifest["frames"].eq(1).all()
    store = ClipStore.open(tmp_path / "out" / "clips")
    assert len(store) == 8
    clip = read_clip(store, store.sample_ids[0], 4, 8.0, 0.0)
    assert clip.shape == (4, 32, 32) and (clip == clip[0]).all() and clip.max() == 200


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [(BRIGHT.astype(np.float32) * 3, "values"), (BRIGHT[..., None, None], "shape"), (None, "cannot be read")],
)
def test_what_is_no_still_is_named(tmp_path: Path, pixels: np.ndarray | None, problem: str) -> None:
    path = tmp_path / "a.nii.gz"
    if pixels is None:
        path.write_bytes(image(tmp_path / "b.nii.gz").read_bytes()[:40])
    else:
        image(path, pixels)
    with pytest.raises(VideoError, match=problem) as caught:
        decode(path)
    assert str(path) in caught.value.problem


def test_a_damaged_header_is_one_line(tmp_path: Path) -> None:
    content = image(tmp_path / "a.nii").read_bytes()
    for place in range(0, 348, 3):
        for value in (0, 127, 255):
            damaged = bytearray(content)
            damaged[place] = value
            (tmp_path / "b.nii").write_bytes(damaged)
            with contextlib.suppress(VideoError):  # or frames
                assert decode(tmp_path / "b.nii").frames.dtype == np.uint8
