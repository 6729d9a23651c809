"""The csv files of a phantom data set, with the columns and quirks of the public sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.phantom.findings import LungFindings, Pattern
from echolung.phantom.heart import VIEWS
from echolung.phantom.plans import SOURCES

LICENSE = "synthetic (drawn by EchoLung; no patient, no restriction)"
_LABELS: dict[Pattern, str] = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}
_SOURCE_IDS = {source.name: float(1001 + number) for number, source in enumerate(SOURCES)}  # not used by the public set


@dataclass(frozen=True)
class Drawn:
    """A video that has been drawn."""

    plan: Any  # HeartPlan or LungPlan
    frames: int
    mean: float  # grey value, 0..255
    truth: dict[str, Any]
    tracings: list[dict[str, Any]] = field(default_factory=list)


def echonet(root: Path, videos: list[Drawn]) -> None:
    """FileList.csv, VolumeTracings.csv and LICENSE."""
    rows = [
        {
            "FileName": video.plan.patient,
            "EF": video.truth["ejection_fraction"],
            "ESV": video.truth["end_systolic_volume"],
            "EDV": video.truth["end_diastolic_volume"],
            "FrameHeight": video.plan.size,
            "FrameWidth": video.plan.size,
            "FPS": video.plan.fps,
            "NumberOfFrames": video.frames,
            "Split": video.plan.split,
        }
        for video in videos
    ]
    _hearts(root, rows, videos)
    _license(root)


def echonet_pediatric(root: Path, videos: list[Drawn]) -> None:
    """FileList.csv and VolumeTracings.csv of each view, and LICENSE."""
    for view in VIEWS:
        of_view = [video for video in videos if video.plan.view == view]
        rows = [
            {
                "FileName": Path(plan.file).name,
                "EF": round(plan.ejection_fraction, 2),
                "Sex": plan.child.sex,
                "Age": plan.child.age,
                "Weight": plan.child.weight,
                "Height": plan.child.height,
                "Split": plan.split,
            }
            for plan in (video.plan for video in of_view)
        ]
        _hearts(root / view.upper(), rows, of_view)
    _license(root)


def _hearts(folder: Path, rows: list[dict[str, Any]], videos: list[Drawn]) -> None:
    pd.DataFrame(rows).to_csv(folder / "FileList.csv", index=False)
    tracings = pd.DataFrame([row for video in videos for row in video.tracings])
    tracings.to_csv(folder / "VolumeTracings.csv", index=False, float_format="%.3f")


def _license(root: Path) -> None:
    (root / "LICENSE").write_text(f"License of these videos: {LICENSE}\n")


def pocus(root: Path, videos: list[Drawn]) -> None:
    """dataset_metadata.csv, with those columns of the public set that make sense for a drawing."""
    rows = []
    for video in videos:
        plan, findings = video.plan, video.plan.findings
        rows.append(
            {
                "Date added": "01.01.20",
                "Current location": "data/pocus_videos/convex",
                "Filename": Path(plan.file).stem,
                "URL (Video Name)": f"EchoLung phantom, source '{plan.source.name}'",
                "Label": _LABELS[plan.diagnosis],
                "Lung Severity Score": float(findings.severity),
                "License": LICENSE,
                "LinkToLicense": "N.A.",
                "ChangesMade": "N.A.",
                "InThisRepo": "Yes",
                "Type": "video",
                "Probe": "convex",
                "DOI": "",
                "Source ID": _SOURCE_IDS[plan.source.name],
                "Framerate": plan.source.fps,
                "Resolution": f"{plan.width}x{plan.height}",
                "Length (frames)": video.frames,
                "Patient ID / Name": float(plan.patient),  # the public table has gaps here, so it reads 36.0
                "Effusion": int(findings.effusion > 0),
                "Consolidations": float(bool(findings.consolidations)),
                "B-lines": float(_has_b_lines(findings)),
                "A-lines": float(findings.shows_a_lines),
                "Pleural line irregularities": float(findings.irregularity > 0.35),
                "Air bronchogram": float(any(spot.bronchograms for spot in findings.consolidations)),
                "Healthy": float(findings.severity == 0),
            }
        )
    pd.DataFrame(rows).to_csv(root / "dataset_metadata.csv", index=False)


def covid_blues(root: Path, videos: list[Drawn]) -> None:
    """clinical_variables.csv, severity.csv and LICENSE."""
    rows = []
    for number, video in enumerate(videos):
        findings = video.plan.findings
        blank = " " * (number % 11 == 3)  # the public table has stray blanks
        rows.append(
            {
                "video_file": Path(video.plan.file).stem,
                "Severity Score": float(findings.severity),
                "A-lines": "yes" if findings.shows_a_lines else "no",
                "B-lines": ("yes" if _has_b_lines(findings) else "no") + blank,
                "comments": _comment(findings),
            }
        )
    pd.DataFrame(rows).to_csv(root / "severity.csv", index=False)
    patients = pd.DataFrame([{"patient_id": v.plan.patient, "cov_test": int(v.plan.positive)} for v in videos])
    counts = patients.groupby(["patient_id", "cov_test"], sort=False).size().astype(float)
    counts.reset_index(name="number_video_files").to_csv(root / "clinical_variables.csv", index=False)
    _license(root)


TABLES = {"echonet": echonet, "echonet_pediatric": echonet_pediatric, "pocus": pocus, "covid_blues": covid_blues}


def _has_b_lines(findings: LungFindings) -> bool:
    return bool(findings.b_lines) or findings.white_lung > 0


def _comment(findings: LungFindings) -> str:
    parts = ["broken pleura line" if findings.irregularity > 0.35 else "pleura line intact"]
    parts += ["subpleural consolidation"] * bool(findings.consolidations)
    parts += ["white lung"] * (findings.white_lung > 0)
    return ", ".join(parts)
