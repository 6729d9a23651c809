"""The csv files of a phantom data set, with the columns of the public sets that a reader of such a set needs.

`videos` has one row per video: the fields of its plan and the truth (`echolung.phantom.write`).
"""

from pathlib import Path

import pandas as pd

from echolung.phantom.findings import Pattern
from echolung.phantom.plans import CHILD_VIEWS, SOURCES

LICENSE = "synthetic (drawn by EchoLung; no patient, no restriction)"
_LABELS: dict[Pattern, str] = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}
_YES_NO = {True: "yes", False: "no"}


def echonet(root: Path, videos: pd.DataFrame) -> None:
    """FileList.csv, VolumeTracings.csv and LICENSE."""
    columns = {"patient": "FileName", "ejection_fraction": "EF", "width": "FrameWidth", "size": "FrameHeight"}
    columns |= {"end_systolic_volume": "ESV", "end_diastolic_volume": "EDV", "fps": "FPS", "frames": "NumberOfFrames"}
    listed = videos.assign(width=videos["size"], Split=videos["split"]).rename(columns=columns)
    order = ["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]
    _hearts(root, listed[order], videos)
    _license(root)


def echonet_pediatric(root: Path, videos: pd.DataFrame) -> None:
    """FileList.csv and VolumeTracings.csv of each view, and LICENSE."""
    for view in CHILD_VIEWS:
        shown = videos[videos["view"] == view].reset_index(drop=True)
        names = shown["file"].map(lambda file: Path(file).name)
        listed = pd.DataFrame({"FileName": names, "EF": shown["ejection_fraction"].round(2)})
        children = pd.DataFrame([*shown["child"]])
        _hearts(root / view.upper(), listed.join(children).assign(Split=shown["split"]), shown)
    _license(root)


def camus(root: Path, videos: pd.DataFrame) -> None:
    """Info_*.cfg of each view, the files of database_split, and LICENSE."""
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
    _license(root)


def _hearts(folder: Path, listed: pd.DataFrame, videos: pd.DataFrame) -> None:
    listed.to_csv(folder / "FileList.csv", index=False)
    points = pd.DataFrame([point for tracings in videos["tracings"] for point in tracings])
    points.to_csv(folder / "VolumeTracings.csv", index=False, float_format="%.3f")


def _license(root: Path) -> None:
    (root / "LICENSE").write_text(f"License of these videos: {LICENSE}\n")


def pocus(root: Path, videos: pd.DataFrame) -> None:
    """dataset_metadata.csv."""
    rows = [
        {
            "Filename": Path(file).stem,
            "Label": _LABELS[diagnosis],
            "License": LICENSE,
            "Source ID": 1001.0 + SOURCES.index(source),  # not used by the public set
            "Patient ID / Name": float(patient),  # the public table has gaps here, so it reads 36.0
        }
        for file, patient, diagnosis, source in zip(
            *(videos[name] for name in ("file", "patient", "diagnosis", "source")), strict=True
        )
    ]
    pd.DataFrame(rows).to_csv(root / "dataset_metadata.csv", index=False)


def covid_blues(root: Path, videos: pd.DataFrame) -> None:
    """clinical_variables.csv, severity.csv and LICENSE."""
    rows = [
        {
            "video_file": Path(file).stem,
            "Severity Score": float(findings.severity),
            "A-lines": _YES_NO[findings.shows_a_lines],
            "B-lines": _YES_NO[findings.shows_b_lines],
        }
        for file, findings in zip(videos["file"], videos["findings"], strict=True)
    ]
    pd.DataFrame(rows).to_csv(root / "severity.csv", index=False)
    patients = pd.DataFrame({"patient_id": videos["patient"], "cov_test": videos["positive"].astype(int)})
    counts = patients.groupby([*patients], sort=False).size().reset_index(name="number_video_files")
    counts.to_csv(root / "clinical_variables.csv", index=False)
    _license(root)


TABLES = {
    "echonet": echonet,
    "echonet_pediatric": echonet_pediatric,
    "camus": camus,
    "pocus": pocus,
    "covid_blues": covid_blues,
}
