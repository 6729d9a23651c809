"""Ultrasound DICOM: only the image region is stored, patients are pseudonyms, and what is no image is named."""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom.encaps
import pydicom.pixels
import pytest
from drawn import ingested
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, UltrasoundMultiFrameImageStorage, generate_uid

from echolung.core.errors import DataError, GateError, VideoError
from echolung.data.containers import NO_RATE
from echolung.data.sources.layouts import scan as scan_layout
from echolung.data.video import decode
from echolung.gates.gate import check
from echolung.serving.model import Model
from echolung.serving.request import answer

pytest_plugins = ["small_models"]

scan = partial(scan_layout, "dicom", source="ward")
HEIGHT, WIDTH = 60, 80
BOX = (20, 59, 10, 49)
"""Columns and rows of the region, both ends included, as DICOM writes them."""
NAME = 255


def region(box: tuple[int, int, int, int] = BOX, kind: tuple[int, int] = (1, 1), delta: float = 0.05) -> Dataset:
    one = Dataset()
    one.RegionSpatialFormat, one.RegionDataType = kind
    one.RegionLocationMinX0, one.RegionLocationMaxX1, one.RegionLocationMinY0, one.RegionLocationMaxY1 = box
    one.PhysicalUnitsXDirection = one.PhysicalUnitsYDirection = 3
    one.PhysicalDeltaX, one.PhysicalDeltaY = delta, 2 * delta
    return one


def picture(frames: int = 5) -> np.ndarray:
    """Moving speckle in the region, and a bright name that does not move above it and to the right."""
    shown = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    shown[:, 2:6, 2:30] = shown[:, 52:58, 62:78] = NAME
    shown[:, 10:50, 20:60] = np.random.default_rng(0).integers(30, 200, (frames, 40, 40))
    return shown


def dicom(path: Path, pixels: np.ndarray | None = None, **fields: Any) -> Path:
    """A file with these fields; None leaves one out."""
    pixels = picture() if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UltrasoundMultiFrameImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    facts: dict[str, Any] = {
        "SOPClassUID": UltrasoundMultiFrameImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3", "PatientID": "4711", "PatientName": "Doe^Jane", "Modality": "US",
        "Manufacturer": "Acme", "NumberOfFrames": len(pixels), "Rows": pixels.shape[1], "Columns": pixels.shape[2],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "FrameTime": 40, "SequenceOfUltrasoundRegions": [region()],
        "PixelData": pixels.tobytes(),
    }  # fmt: skip
    if pixels.ndim == 4:
        facts |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    for name, value in (facts | fields).items():
        if value is not None:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(autouse=True)
def _salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOLUNG_SALT", "of the tests")


def test_only_the_region_is_decoded_with_its_rate_and_spacing(tmp_path: Path) -> None:
    others = [region((0, 79, 0, 59), (1, 2)), region((0, 79, 0, 59), (3, 1)), region((20, 40, 10, 30)), region()]
    video = decode(dicom(tmp_path / "IM0001", SequenceOfUltrasoundRegions=others))  # the largest of tissue
    assert np.array_equal(video.frames, picture()[:, 10:50, 20:60])
    assert (video.fps, video.codec, video.pixel_mm, video.pixel_aspect, video.damage) == (25, "dicom", 1.0, 0.5, "")
    assert decode(tmp_path / "IM0001", 40).frames.shape == (5, 40, 40)


def test_the_frame_rate_is_found_or_missed(tmp_path: Path) -> None:
    for fields, fps in (({"CineRate": 30}, 30), ({"FrameTimeVector": [0, 20, 20, 20, 20]}, 50), ({}, None)):
        video = decode(dicom(tmp_path / "a.dcm", FrameTime=None, **fields))
        assert video.fps == (fps or 1.0) and video.damage == (NO_RATE if fps is None else "")


def test_colours_palettes_and_depths_become_the_same_grey(tmp_path: Path) -> None:
    def shown(pixels: np.ndarray, **fields: Any) -> np.ndarray:
        return decode(dicom(tmp_path / "a", pixels, **fields)).frames

    grey, many = shown(picture()), picture()[..., None]
    assert np.array_equal(shown(np.repeat(many, 3, 3)), grey)
    assert np.abs(shown(many * np.array([1, 0, 0], np.uint8)) - 0.299 * grey).max() <= 0.51, "red"
    deep = picture().astype("<u2") * 16
    assert np.array_equal(shown(deep, BitsAllocated=16, BitsStored=12, HighBit=11), grey)
    assert np.array_equal(shown(255 - picture(), PhotometricInterpretation="MONOCHROME1"), grey)
    table = (np.arange(256, dtype="<u2")[::-1] << 8).tobytes()
    lookup = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    lookup |= {f"{name}PaletteColorLookupTableData": table for name in ("Red", "Green", "Blue")}
    palette = shown(255 - picture(), PhotometricInterpretation="PALETTE COLOR", **lookup)
    assert np.abs(palette.astype(int) - grey).max() <= 1


def test_without_a_region_or_with_one_beyond_the_picture_a_cine_shows_what_moves(tmp_path: Path) -> None:
    video = decode(dicom(tmp_path / "cine", SequenceOfUltrasoundRegions=None))
    assert video.frames.max() < NAME and min(video.frames.shape[1:]) > 32 and (video.frames[0, 4:-4, 4:-4] > 0).all()
    assert video.pixel_mm is None
    for name, pixels in (("still", picture(1)), ("frozen", np.repeat(picture(1), 5, 0))):
        with pytest.raises(VideoError, match=rf"{name} has no region of 2D tissue .* no moving area"):
            decode(dicom(tmp_path / name, pixels, SequenceOfUltrasoundRegions=None))
    beyond = [region((20, 119, 10, 89))]
    video = decode(dicom(tmp_path / "cine", SequenceOfUltrasoundRegions=beyond))
    assert video.frames.max() < NAME, "the name in the clipped box does not move"
    assert (video.pixel_mm, video.pixel_aspect) == (None, 1.0)
    still = decode(dicom(tmp_path / "still", picture(1), SequenceOfUltrasoundRegions=beyond))
    assert np.array_equal(still.frames, picture(1)[:, 10:, 20:]), "the box is cut at the picture"
    with pytest.raises(VideoError, match="no region"):
        decode(dicom(tmp_path / "off", picture(1), SequenceOfUltrasoundRegions=[region((90, 119, 10, 89))]))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "x-ray": (partial(dicom, Modality="CR"), "of the modality CR, not US"),
    "volume": (partial(dicom, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.2"), "is a 3D volume"),
    "report": (partial(dicom, PixelData=None), "holds no pixel data"),
    "signed": (partial(dicom, PixelRepresentation=1), "no grey values"),
    "short": (partial(dicom, PixelData=b"\0" * 100), "cannot be read as DICOM"),
    "huge": (partial(dicom, Rows=60000, Columns=60000), "more than can be read"),
    "cut": (lambda path: path.write_bytes(dicom(path).read_bytes()[:300]), "cannot be read as DICOM|of the modality"),
}


def test_what_is_no_ultrasound_image_keeps_its_row_and_stops_the_gate(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for name, (write, _) in FAULTS.items():
        write(folder / name)
    dicom(folder / "good" / "IM1")
    manifest = ingested(tmp_path / "out", "ward", "dicom", folder)[0].manifest
    errors = manifest.set_index(manifest["path"].str.rpartition("/")[2])["decode_error"]
    for name, (_, problem) in FAULTS.items():
        with pytest.raises(VideoError, match=problem):
            decode(folder / name)
        assert f"export/{name}" in errors[name]
    assert errors.isna().sum() == 1
    with pytest.raises(GateError, match="decodes without an error"):
        check("ingest", "ward", {"manifest": manifest}, tmp_path / "gate")


def test_a_missing_decoder_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch) -> None:
    path = dicom(tmp_path / "a")
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"] * 5)
    data.save_as(path)
    decoder = pydicom.pixels.get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    with pytest.raises(VideoError, match="pip install python-gdcm"):
        decode(path)


def test_patients_are_pseudonyms_and_a_folder_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "export"
    dicom(folder / "a" / "IM1")
    dicom(folder / "a" / "IM2.dcm", StudyInstanceUID="1.2.4")
    dicom(folder / "b" / "IM1", PatientID="", StudyInstanceUID="1.9")
    (folder / "notes.txt").write_text("Jane Doe, 4711")
    said: list[str] = []
    found, store, _ = ingested(tmp_path / "out", "ward", "dicom", folder, said=said.append)
    check("ingest", "ward", {"manifest": found.manifest, "tracings": found.tracings}, tmp_path / "gate")
    patients = found.manifest["patient_id"].tolist()
    assert patients[0] == patients[1] != patients[2] and found.manifest["sample_id"].is_unique
    kept = found.manifest.drop(columns="path").to_csv() + (tmp_path / "out" / "clips" / "index.json").read_text()
    assert not any(secret in kept for secret in ("4711", "Doe", "1.2.3", "1.2.4", "1.9"))
    assert any("notes.txt" in text for text in said) and any("cannot be told" in text for text in said)
    shown = store.frames(store.sample_ids[0])
    assert shown.any() and shown.max() < NAME
    monkeypatch.setenv("ECHOLUNG_SALT", "another")
    assert not set(scan(folder).manifest["patient_id"]) & set(patients)
    monkeypatch.delenv("ECHOLUNG_SALT")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert scan(folder).manifest.equals(scan(folder).manifest), "the key is made once"
    assert (tmp_path / "home" / "echolung" / "salt").stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError, match="holds no DICOM file"):
        scan(Path(__file__).parent)


def test_a_model_answers_for_a_file_and_for_its_bytes(folder: Path, model: Model, tmp_path: Path) -> None:
    frames = decode(folder / "a.mp4").frames
    whole = [region((0, frames.shape[2] - 1, 0, frames.shape[1] - 1))]
    path = dicom(tmp_path / "IM1", frames, SequenceOfUltrasoundRegions=whole)
    table = answer(model, pd.DataFrame({"content": [base64.b64encode(path.read_bytes()).decode()]}))
    assert table["damage"].eq("").all() and table["p_covid"].between(0, 1).all()
    assert table["distance"][0] == model.predict([path])["distance"][0]
