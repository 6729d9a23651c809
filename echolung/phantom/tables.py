"""The csv files that stand beside the videos of a phantom data set, with the public sets' columns and habits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.phantom.findings import LungFindings, Pattern
from echolung.phantom.heart import VIEWS
from echolung.phantom.plans import SOURCES, HeartPlan, LungPlan, Plan

LICENSE = "synthetic (drawn by EchoLung; no patient, no restriction)"
_LABELS: dict[Pattern, str] = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}
_FIRST_SOURCE_ID = 1001  # beyond those of the public set


@dataclass(frozen=True)
class Drawn:
    """What became of a plan."""

    plan: Plan
    frames: int
    mean: float  # grey value, 0..255
    truth: dict[str, Any]
    tracings: list[dict[str, Any]] = field(default_factory=list)


def echonet(root: Path, videos: list[Drawn]) -> None:
    """FileList.csv, VolumeTracings.csv and a LICENSE that says what these videos are."""
    rows, tracings = [], []
    for video in videos:
        assert isinstance(video.plan, HeartPlan)
        rows.append(
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
        )
        tracings += video.tracings
    pd.DataFrame(rows).to_csv(root / "FileList.csv", index=False)
    pd.DataFrame(tracings).to_csv(root / "VolumeTracings.csv", index=False, float_format="%.3f")
    _license(root)


def echonet_pediatric(root: Path, videos: list[Drawn]) -> None:
    """FileList.csv and VolumeTracings.csv of each view, and a LICENSE that says what these videos are."""
    for view in VIEWS:
        rows, tracings = [], []
        for video in videos:
            plan = video.plan
            assert isinstance(plan, HeartPlan)
            assert plan.child is not None
            if plan.view != view:
                continue
            rows.append(
                {
                    "FileName": Path(plan.file).name,
                    "EF": round(plan.ejection_fraction, 2),
                    "Sex": plan.child.sex,
                    "Age": plan.child.age,
                    "Weight": plan.child.weight,
                    "Height": plan.child.height,
                    "Split": plan.split,
                }
            )
            tracings += video.tracings
        folder = root / view.upper()
        pd.DataFrame(rows).to_csv(folder / "FileList.csv", index=False)
        pd.DataFrame(tracings).to_csv(folder / "VolumeTracings.csv", index=False, float_format="%.3f")
    _license(root)


def pocus(root: Path, videos: list[Drawn]) -> None:
    """dataset_metadata.csv, with those of the public set's columns that mean something here."""
    names = [source.name for source in SOURCES]
    rows = []
    for video in videos:
        plan = video.plan
        assert isinstance(plan, LungPlan)
        findings = plan.findings
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
                "Source ID": float(_FIRST_SOURCE_ID + names.index(plan.source.name)),
                "Framerate": plan.source.fps,
                "Resolution": f"{plan.width}x{plan.height}",
                "Length (frames)": video.frames,
                "Patient ID / Name": float(plan.patient),  # a column of numbers with gaps: written 36.0
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
    """clinical_variables.csv, severity.csv and a LICENSE that says what these videos are."""
    rows, patients = [], {}
    for number, video in enumerate(videos):
        plan = video.plan
        assert isinstance(plan, LungPlan)
        patients[plan.patient] = int(plan.positive)
        blank = " " * (number % 11 == 3)  # the public table has them here and there
        findings = plan.findings
        rows.append(
            {
                "video_file": Path(plan.file).stem,
                "Severity Score": float(findings.severity),
                "A-lines": "yes" if findings.shows_a_lines else "no",
                "B-lines": ("yes" if _has_b_lines(findings) else "no") + blank,
                "comments": _comment(findings),
            }
        )
    counts = pd.Series([video.plan.patient for video in videos]).value_counts()
    clinical = [
        {"patient_id": patient, "cov_test": test, "number_video_files": float(counts[patient])}
        for patient, test in patients.items()
    ]
    pd.DataFrame(clinical).to_csv(root / "clinical_variables.csv", index=False)
    pd.DataFrame(rows).to_csv(root / "severity.csv", index=False)
    _license(root)


def _license(root: Path) -> None:
    (root / "LICENSE").write_text(f"License of these videos: {LICENSE}\n")


TABLES = {"echonet": echonet, "echonet_pediatric": echonet_pediatric, "pocus": pocus, "covid_blues": covid_blues}


def _has_b_lines(findings: LungFindings) -> bool:
    return bool(findings.b_lines) or findings.white_lung > 0


def _comment(findings: LungFindings) -> str:
    parts = ["broken pleura line" if findings.irregularity > 0.35 else "pleura line intact"]
    parts += ["subpleural consolidation"] * bool(findings.consolidations)
    parts += ["white lung"] * (findings.white_lung > 0)
    return ", ".join(parts)
