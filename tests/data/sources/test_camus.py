"""CAMUS: whole patients with their masks, or stills as recordings of one frame; what is wrong is named."""

import contextlib
import itertools
import re
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from drawn import ingested

from echolung.core.errors import DataError, GateError, VideoError
from echolung.data.clips import clip_indices, evaluation_starts, read_clip
from echolung.data.masks import STRUCTURES
from echolung.data.sources.layouts import scan as scan_layout
from echolung.data.video import decode
from echolung.gates.gate import check

scan = partial(scan_layout, "camus_stills", source="stills")
scan_whole = partial(scan_layout, "camus", source="camus")
BRIGHT = np.zeros((40, 20), np.uint8)  # x before y, as in a file: wide frames with a bright right half
BRIGHT[20:] = 200
LABEL = {"ED": 1, "ES": 3}  # in a test every mask has one structure, to tell them apart


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
            for phase in ("ED", "ES"):
                image(folder / f"{patient}_{view}_{phase}.nii.gz", BRIGHT // number)
                image(folder / f"{patient}_{view}_{phase}_gt.nii.gz", BRIGHT // 200 * LABEL[phase])
            (folder / f"Info_{view}.cfg").write_text(f"ED: 1\nEF: {50 + number}.5\n")
        (place / "database_split").mkdir(exist_ok=True)
        with (place / "database_split" / f"subgroup_{split}.txt").open("a") as stream:
            stream.write(f"{patient}\n")
    (place / "database_split" / "subgroup_validation.txt").write_text("")
    return place


def test_a_row_per_still_of_the_whole_set_or_a_part(root: Path) -> None:
    frame = scan(root).manifest
    assert len(frame) == 12 and frame["patient_id"].nunique() == 3
    assert frame["sample_id"][0] == "stills/patient0001_2CH_ED"
    assert (frame["view"] + frame["label"]).tolist()[:4] == ["A2CED", "A2CES", "A4CED", "A4CES"]
    of_patients = frame[["ef", "split_official"]].iloc[::4].to_numpy().tolist()
    assert of_patients == [[51.5, "TRAIN"], [52.5, "TRAIN"], [53.5, "TEST"]]
    assert set(scan(root, split=["TRAIN"]).manifest["patient_id"]) == {"stills/patient0001", "stills/patient0002"}
    with pytest.raises(DataError, match=r"no official split 'VAL'.*TEST, TRAIN"):
        scan(root, split=["TEST", "VAL"])

    (root / "database_split" / "subgroup_testing.txt").write_text("")
    with pytest.raises(DataError, match=r"patients in no file of .*patient0003"):
        scan(root)


def test_x_is_the_width_and_pixels_become_square(root: Path) -> None:
    path = root / "database_nifti/patient0001/patient0001_4CH_ED.nii.gz"
    still, square = decode(path), decode(path, 20)
    assert still.frames.shape == (1, 20, 40) and still.pixel_aspect == 0.5
    assert (still.frames[0, :, 20:] == 200).all() and not still.frames[0, :, :20].any()
    assert (square.frames[0, :, 12:] == 200).all()  # 40 pixels of half the width: 20 x 20


def test_stills_pass_the_gate_and_fill_a_clip(root: Path, tmp_path: Path) -> None:
    found, store, _ = ingested(tmp_path / "out", "stills", "camus_stills", root, split="TRAIN")
    check("ingest", "stills", {"manifest": found.manifest}, tmp_path / "gate")  # which asks other videos for two frames
    assert len(store) == 8 and found.manifest["frames"].eq(1).all()
    clip = read_clip(store, store.sample_ids[0], 4, 8.0, 0.0)
    assert clip.shape == (4, 32, 32) and (clip == clip[0]).all() and clip.max() == 200


def test_a_patient_has_a_recording_per_view_with_both_stills_and_their_masks(root: Path, tmp_path: Path) -> None:
    found, clips, masks = ingested(tmp_path / "out", "camus", "camus", root, 20)
    names = [f"camus/patient000{number}/{view}" for number in (1, 2, 3) for view in ("2CH", "4CH")]
    assert clips.sample_ids == list(masks) == names
    assert found.manifest["split_official"].tolist() == ["TRAIN"] * 4 + ["TEST"] * 2
    assert found.manifest["frames"].eq(2).all() and found.manifest["sha256"].nunique() == 3
    for name in names:
        assert (masks[name].frames.tolist(), masks[name].phases) == ([0, 1], ("ED", "ES"))
        assert masks[name].structures == STRUCTURES and masks[name].spacing == 2.0
        for start in evaluation_starts(2, clips.fps(name), 8, 8.0, 2):
            shown = clip_indices(2, clips.fps(name), 8, 8.0, start)
            assert np.bincount(shown, minlength=2).min() >= 3, "an encoder's clip of a second shows both phases"
        for drawn, label in zip(masks[name].maps, (1, 3), strict=True):
            assert np.array_equal(drawn == label, clips.frames(name)[0] > 30), "masks move with the pixels"


@pytest.mark.parametrize(("end_diastole", "traced"), [(1, "stills"), (5, "sequence")])
def test_a_half_sequence_is_the_recording_whichever_end_is_diastole(end_diastole, traced, root, tmp_path) -> None:
    patient = root / "database_nifti/patient0001"
    frames = np.stack([BRIGHT - BRIGHT // 200 * 10 * k for k in range(5)], 2)
    image(patient / "patient0001_4CH_half_sequence.nii.gz", frames)
    if traced == "sequence":
        image(patient / "patient0001_4CH_half_sequence_gt.nii.gz", frames // 100)
    cfg = f"ED: {end_diastole}\nES: {6 - end_diastole}\nNbFrame: 5\nSex: F\nAge: 56\nImageQuality: Good\n"
    (patient / "Info_4CH.cfg").write_text(cfg + "FrameRate: 42.5\n")
    found, clips, masks = ingested(tmp_path / "out", "camus", "camus", root, 20)
    row = found.manifest.set_index("sample_id").loc[name := "camus/patient0001/4CH"]
    assert (row["fps"], row["sex"], row["age"], row["image_quality"]) == (42.5, "F", 56, "Good")
    assert pd.isna(row["ef"]) and clips.fps(name) == 42.5
    assert clips.frames(name)[:, -1, -1].tolist() == [200, 190, 180, 170, 160]
    if traced == "sequence":  # ED is its last frame
        assert masks[name].phases == ("ES", "", "", "", "ED") and masks[name].frames.tolist() == [0, 1, 2, 3, 4]
    else:
        assert masks[name].phases == ("ED", "ES") and masks[name].frames.tolist() == [0, 4]
        assert masks[name].maps[:, -1, -1].tolist() == [1, 3]
    (patient / "Info_4CH.cfg").write_text(cfg)
    again = ingested(tmp_path / "again", "camus", "camus", root, 20)[0].manifest.set_index("sample_id")
    assert pd.isna(row["decode_error"]) and again.loc[name, "decode_error"] == "its frame rate is unknown"
    (patient / "Info_4CH.cfg").write_text("EF: 54\n")
    with pytest.raises(DataError, match=r"not complete: patient0001 4CH \(no ED and ES in its cfg\)"):
        scan_whole(root)


MISFITS = {
    "ED_gt.nii.gz is 30 x 20 pixels, its frames are 40 x 20": BRIGHT[:30] // 200,
    "ED_gt.nii.gz has the label 5": BRIGHT // 40,
    "ventricle is not empty; found: camus/patient0001/4CH frame 0 (0)": BRIGHT * 0,
    "cannot be read as NIfTI": None,
}


@pytest.mark.parametrize("problem", MISFITS)
def test_a_mask_that_does_not_fit_stops_the_gate_by_name(problem: str, root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*_ES_gt.nii.gz"):
        image(path, BRIGHT // 200)
    path, mask = root / "database_nifti/patient0001/patient0001_4CH_ED_gt.nii.gz", MISFITS[problem]
    path.write_bytes(b"nothing") if mask is None else image(path, mask)
    found, _, masks = ingested(tmp_path / "out", "camus", "camus", root, 20)
    with pytest.raises(GateError, match=re.escape(problem)) as caught:
        check("ingest", "camus", {"manifest": found.manifest, "tracings": found.tracings}, tmp_path / "gate")
    assert "camus/patient0001/4CH frame 0" in caught.value.problem
    assert len(masks["camus/patient0001/4CH"].frames) == (2 if "empty" in problem else 1)


def test_stills_of_another_size_and_a_missing_one_are_named(root: Path, tmp_path: Path) -> None:
    path = root / "database_nifti/patient0002/patient0002_2CH_ES.nii.gz"
    image(path, BRIGHT[:30])
    found, *_ = ingested(tmp_path / "out", "camus", "camus", root, 20)
    row = found.manifest.set_index("sample_id").loc["camus/patient0002/2CH"]
    assert row["frames"] == 0 and f"{path} is 30 x 20 pixels" in row["decode_error"]
    path.unlink()
    with pytest.raises(DataError, match=r"not complete: patient0002 2CH \(no ES\)"):
        scan_whole(root)


def test_what_is_no_still_is_named_in_one_line_whichever_byte_is_damaged(tmp_path: Path) -> None:
    paths = {
        "values": image(tmp_path / "loud.nii.gz", BRIGHT.astype(np.float32) * 3),
        "shape": image(tmp_path / "volume.nii.gz", BRIGHT[..., None, None]),
        "cannot be read": image(tmp_path / "cut.nii.gz"),
    }
    paths["cannot be read"].write_bytes(paths["cannot be read"].read_bytes()[:40])
    for problem, path in paths.items():
        with pytest.raises(VideoError, match=problem) as caught:
            decode(path)
        assert str(path) in caught.value.problem
    content = image(tmp_path / "a.nii").read_bytes()
    for place, value in itertools.product(range(0, 348, 3), (0, 127, 255)):
        damaged = bytearray(content)
        damaged[place] = value
        (tmp_path / "b.nii").write_bytes(damaged)
        with contextlib.suppress(VideoError):  # or frames
            assert decode(tmp_path / "b.nii").frames.dtype == np.uint8
