"""The csv files of a phantom data set, with the columns of the public sets that a reader of such a set needs.

`videos` has one row per video: the fields of its plan and the truth (`echolung.phantom.write`).
"""

from pathlib import Path

import pandas as pd

from echolung.phantom.findings import Pattern
from echolung.phantom.plans import CHILD_VIEWS, SOURCES

LICENSE = "synthetic (drawn by EchoLung; no patient, no restriction)"
_YES_NO = {True: "yes", False: "no"}
_LABELS: dict[Pattern, str] = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}


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
