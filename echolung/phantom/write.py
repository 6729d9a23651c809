"""Phantom data sets on disk, laid out like the public ones, and single phantom videos.

echonet            Videos/<name>.avi (MJPG), FileList.csv, VolumeTracings.csv
echonet_pediatric  {A4C,PSAX}/: Videos/<patient>-<examination>-<instance>.avi (MJPG), FileList.csv, VolumeTracings.csv
camus              database_nifti/<patient>/: both apical views as NIfTI, with label maps of every frame, Info_*.cfg;
                   database_split/. Its "half" sequences hold all frames of the video
pocus              convex/<Cov|Pneu|Reg>_*.{mp4,mov,avi,gif,mpeg}, dataset_metadata.csv
covid_blues        lus_videos/patient_<id>_<point>.mp4, clinical_variables.csv, severity.csv
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from echolung.core.errors import SettingsError
from echolung.core.progress import Progress
from echolung.core.runtime import atomic_directory, derived_seed
from echolung.data import nifti
from echolung.data.video import Codec, encode
from echolung.data.workers import as_done
from echolung.phantom.findings import Pattern, draw_findings, draw_severity
from echolung.phantom.four_chamber import FourChamber
from echolung.phantom.heart import HeartVideo, draw_heart
from echolung.phantom.lung import LungPatient, draw_lung
from echolung.phantom.plans import CHILD_VIEWS, SOURCES, HeartPlan, LungPlan, plan
from echolung.phantom.settings import PhantomSettings

# Every build of FFmpeg writes these; some lack x264.
_CODECS: dict[str, Codec] = {".mp4": "mpeg4", ".mov": "mpeg4", ".avi": "mpeg4", ".mpeg": "mpeg2video", ".gif": "gif"}
_FPS = 25.0
LICENSE = "synthetic (drawn by EchoLung; no patient, no restriction)"
_YES_NO = {True: "yes", False: "no"}
_LABELS: dict[Pattern, str] = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}


def write(settings: PhantomSettings, root: Path, workers: int, on_progress: Progress) -> pd.DataFrame:
    """Draw a data set into the folder `root`, which is created (or replaced) once everything is drawn.

    `workers` do not change it. Returns one row per video: file, patient, frames, mean (grey value), and the truth.
    """
    plans = plan(settings)
    drawn: dict[int, dict[str, Any]] = {}
    with atomic_directory(root) as target:
        for index, row in as_done(functools.partial(_draw, root=target), plans, workers):
            drawn[index] = row
            on_progress(len(drawn), len(plans))
        videos = pd.DataFrame([drawn[index] for index in range(len(plans))])
        TABLES[settings.layout](target, videos)
        if settings.layout != "pocus":  # whose table has it for every video
            (target / "LICENSE").write_text(f"License of these videos: {LICENSE}\n")
    return videos.drop(columns=["child", "tracings", "source", "findings", "anatomy"], errors="ignore")


def write_lung(path: Path, pattern: Pattern, seed: int, frames: int, size: int, noise: float = 0.0) -> str:
    """Draw one lung to a video file, container by suffix; returns a line describing it."""
    suffix = path.suffix.lower()
    if suffix not in _CODECS:
        raise SettingsError(f"{path.name} is not a video format", f"Use one of the suffixes {', '.join(_CODECS)}.")
    rng = np.random.default_rng(derived_seed("lung", seed))
    patient = LungPatient.draw(rng, noise)
    # In a data set some videos of sick patients look healthy; a single video always shows the pattern asked for.
    severity = 0 if pattern == "regular" else max(2, draw_severity(pattern, rng))
    findings = draw_findings(pattern, severity, rng)
    lung = draw_lung(findings, patient, frames, _FPS, (size, size), seed)
    encode(path, lung.frames, _FPS, _CODECS[suffix])
    found = f"{len(findings.b_lines)} B-lines, {len(findings.consolidations)} consolidations"
    return f"{path} written: {pattern}, severity {severity}, {found}."


def _draw(one: HeartPlan | LungPlan, root: Path) -> dict[str, Any]:
    """Draw and encode one video below `root`; returns its plan and the truth."""
    frames, truth = _heart(one, root / one.file) if isinstance(one, HeartPlan) else _lung(one, root / one.file)
    return vars(one) | {"mean": float(frames.mean())} | truth


def _heart(one: HeartPlan, path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    known = (one.ejection_fraction, one.frames, one.fps, one.size, one.seed, one.view, one.still_wall, one.noise)
    heart = draw_heart(*known)
    ventricle, areas = heart.heart.ventricle, heart.heart.areas
    full, empty = ventricle.end_diastole, ventricle.end_systole
    points: list[dict[str, Any]] = []
    if path.name.endswith(nifti.SUFFIXES):
        _sequence(path, heart)
    else:
        for name, frame in (("No Diastolic", full), ("No Systolic", empty)):
            points += _polygon(one, heart, frame, name) if one.child else _discs(heart, frame)
        encode(path, heart.frames, one.fps, "mjpeg")
    return heart.frames, {
        "abnormal_frames": len(range(one.frames)[ventricle.abnormal]),
        "end_diastolic_volume": float(ventricle.volumes[full]),
        "end_systolic_volume": float(ventricle.volumes[empty]),
        "end_diastolic_area": float(areas[full]),
        "end_systolic_area": float(areas[empty]),
        "end_diastole": full,
        "end_systole": empty,
        "tracings": [{"FileName": path.name, **point} for point in points],
    }


def _sequence(path: Path, heart: HeartVideo) -> None:
    """CAMUS's files of a view: the sequence, its end-diastole and end-systole, and the label maps of all three."""
    pitch, labels = heart.scanner.pixel_grid(*heart.frames.shape[1:])[2], heart.labels()
    ventricle, every = heart.heart.ventricle, list(range(len(labels)))
    parts = {"half_sequence": every, "ED": [ventricle.end_diastole], "ES": [ventricle.end_systole]}
    for name, frames in parts.items():
        for content, end in ((heart.frames, ""), (labels, "_gt")):
            file = path.name.replace("half_sequence", f"{name}{end}")
            nifti.write(path.with_name(file), content[frames], pitch)


def _discs(heart: HeartVideo, frame: int) -> list[dict[str, Any]]:
    """EchoNet-Dynamic's tracing of a frame: the long axis and 20 discs from the apex down."""
    assert isinstance(heart.heart, FourChamber)
    chords = heart.pixels(frame, *heart.heart.chords(frame))
    return [{"X1": x1, "Y1": y1, "X2": x2, "Y2": y2, "Frame": frame} for (x1, y1), (x2, y2) in chords]


def _polygon(one: HeartPlan, heart: HeartVideo, frame: int, missing: str) -> list[dict[str, Any]]:
    """EchoNet-Pediatric's tracing of a frame: the border of the cavity."""
    if one.untraced == missing:
        return [{"X": None, "Y": None, "Frame": missing}]
    return [{"X": x, "Y": y, "Frame": frame} for x, y in heart.contour(frame)]


def _lung(one: LungPlan, path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    lung = draw_lung(one.findings, one.anatomy, one.frames, one.source.fps, one.size, one.seed)
    encode(path, lung.frames, one.source.fps, _CODECS[path.suffix.lower()])
    return lung.frames, {"severity": one.findings.severity}


def echonet(root: Path, videos: pd.DataFrame) -> None:
    """FileList.csv and VolumeTracings.csv."""
    columns = {"patient": "FileName", "ejection_fraction": "EF", "end_systolic_volume": "ESV"}
    columns |= {"end_diastolic_volume": "EDV", "size": "FrameHeight", "width": "FrameWidth", "fps": "FPS"}
    columns |= {"frames": "NumberOfFrames", "split": "Split"}
    _hearts(root, videos.assign(width=videos["size"])[list(columns)].rename(columns=columns), videos)


def echonet_pediatric(root: Path, videos: pd.DataFrame) -> None:
    """FileList.csv and VolumeTracings.csv of each view."""
    for view in CHILD_VIEWS:
        shown = videos[videos["view"] == view].reset_index(drop=True)
        names = shown["file"].map(lambda file: Path(file).name)
        listed = pd.DataFrame({"FileName": names, "EF": shown["ejection_fraction"].round(2)})
        children = pd.DataFrame([*shown["child"]])
        _hearts(root / view.upper(), listed.join(children).assign(Split=shown["split"]), shown)


def camus(root: Path, videos: pd.DataFrame) -> None:
    """Info_*.cfg of each view, and the files of database_split."""
    for video in videos.to_dict("records"):
        facts = {"ED": video["end_diastole"] + 1, "ES": video["end_systole"] + 1, "NbFrame": video["frames"]}
        facts |= {"EF": f"{video['ejection_fraction']:.2f}", "FrameRate": f"{video['fps']:g}"}
        facts |= {"AbnormalFrames": video["abnormal_frames"]}
        lines = "".join(f"{key}: {value}\n" for key, value in facts.items())
        (root / video["file"]).with_name(f"Info_{video['view'][1]}CH.cfg").write_text(lines)
    (root / "database_split").mkdir()
    for split, subgroup in {"TRAIN": "training", "VAL": "validation", "TEST": "testing"}.items():
        patients = videos.loc[videos["split"] == split, "patient"].unique()
        (root / "database_split" / f"subgroup_{subgroup}.txt").write_text("".join(f"{name}\n" for name in patients))


def _hearts(folder: Path, listed: pd.DataFrame, videos: pd.DataFrame) -> None:
    listed.to_csv(folder / "FileList.csv", index=False)
    points = pd.DataFrame([point for tracings in videos["tracings"] for point in tracings])
    points.to_csv(folder / "VolumeTracings.csv", index=False, float_format="%.3f")


def pocus(root: Path, videos: pd.DataFrame) -> None:
    """dataset_metadata.csv."""
    table = {
        "Filename": videos["file"].map(lambda file: Path(file).stem),
        "Label": videos["diagnosis"].map(_LABELS),
        "License": LICENSE,
        "Source ID": 1001.0 + videos["source"].map(SOURCES.index),  # not used by the public set
        "Patient ID / Name": videos["patient"].astype(float),  # the public table has gaps here, so it reads 36.0
    }
    pd.DataFrame(table).to_csv(root / "dataset_metadata.csv", index=False)


def covid_blues(root: Path, videos: pd.DataFrame) -> None:
    """clinical_variables.csv and severity.csv."""
    findings = pd.DataFrame(list(videos["findings"]))
    table = {
        "video_file": videos["file"].map(lambda file: Path(file).stem),
        "Severity Score": findings["severity"].astype(float),
        # What a reader would report.
        "A-lines": ((findings["a_lines"] > 0.4) & (findings["white_lung"] < 0.5)).map(_YES_NO),
        "B-lines": ((findings["b_lines"].map(len) > 0) | (findings["white_lung"] > 0)).map(_YES_NO),
    }
    pd.DataFrame(table).to_csv(root / "severity.csv", index=False)
    patients = pd.DataFrame({"patient_id": videos["patient"], "cov_test": videos["positive"].astype(int)})
    counts = patients.groupby([*patients], sort=False).size().reset_index(name="number_video_files")
    counts.to_csv(root / "clinical_variables.csv", index=False)


TABLES = {one.__name__: one for one in (echonet, echonet_pediatric, camus, pocus, covid_blues)}
"""By layout the csv files: what a reader of the public set needs, of `videos`, a row of plan and truth per video."""
