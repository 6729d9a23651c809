"""What was run on what: the facts of a study that stand in its report and with its runs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.data.manifest import read_manifest
from echolung.embedding.features import Features
from echolung.models.weights import read_record

PHANTOM_LICENSE = "synthetic"
"""How the licence of a drawn video begins."""


def commands(study: str, origin: Mapping[str, str]) -> list[tuple[str, str]]:
    """How to make this page again, by code of this `provenance`."""
    code = "the code, at the revision named above"
    if not described(origin.get("git_revision", "unknown")):
        code = "the code; not that which made this page: it had changes that no revision named here holds"
    return [
        ("git clone <this repository> && cd echolung", code),
        ("make setup && source .venv/bin/activate", "the pinned packages, in a virtual environment"),
        (f"cp <the params.yaml beside this page, reports/{study}/> .", "the parameters behind this page"),
        ("dvc repro", "every stage that is out of date, and its gate"),
        ("echolung ui", "the runs behind this page, in MLflow"),
    ]


def described(revision: str) -> bool:
    """Whether the revision that a `provenance` names is all of the code: known, and nothing was changed beside it."""
    return revision != "unknown" and not revision.endswith("+changed")


def today() -> str:
    """The date, as the report tells it."""
    return datetime.date.today().isoformat()


def facts(settings: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, str]:
    """Settings and machine in a few readable lines."""
    encoder, split, probe = settings["encoder"], settings["split"], settings["probe"]
    training = settings["pretrain"]["training"]
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "scikit-learn", "mlflow"))
    return {
        "Code": f"echolung {origin['echolung_version']}, git {origin.get('git_revision', 'unknown')}",
        "Encoder": f"ViT, width {encoder['width']}, depth {encoder['depth']}, {encoder['heads']} heads; clips of "
        f"{encoder['frames']} frames at {encoder['clip_fps']:g} per second, {encoder['image_size']} pixels, "
        f"patches of {encoder['tubelet']}×{encoder['patch']}×{encoder['patch']}",
        "Pretraining": f"{training['steps']} steps of {training['batch']} clips",
        "Cross-validation": f"{split['outer']} outer × {split['inner']} inner folds by patient, "
        f"{split['repeats']} repeat(s)",
        "Probes": f"{', '.join(probe['kinds'])}; learning rate, decay and epoch chosen on inner folds by log-loss",
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_gpu()}",
        "Software": f"Python {platform.python_version()}, {packages}",
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def sources(ingest: Path, names: Iterable[str]) -> pd.DataFrame:
    """One row per source of the study, whose manifests stand below the folder `ingest`."""
    rows = []
    for name in names:
        manifest = read_manifest(ingest / name / "manifest.parquet")
        rows.append(
            {
                "source": name,
                "videos": len(manifest),
                "patients": manifest["patient_id"].nunique(),
                "frames": int(manifest["frames"].sum()),
                "frames per second": _span(manifest["fps"]),
                "pixels wide": _span(manifest["width"]),
                "codecs": ", ".join(sorted(manifest["codec"].dropna().unique())),
                "drawn": bool(manifest["license"].str.startswith(PHANTOM_LICENSE).fillna(False).all()),
            }
        )
    return pd.DataFrame(rows)


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def arms(encoders: Iterable[Path]) -> pd.DataFrame:
    """One row per encoder folder."""
    rows = []
    for folder in encoders:
        record = read_record(folder)
        watched = f"{record.trained_on_source}, {len(record.trained_on)} videos" if record.steps else "nothing"
        rows.append(
            {
                "arm": record.arm,
                "objective": record.objective,
                "seed": record.seed,
                "steps": record.steps,
                "pretrained on": watched,
                "weights": record.weights_sha256[:12],
            }
        )
    return pd.DataFrame(rows)


def effective_ranks(features: Iterable[Path]) -> pd.DataFrame:
    """How many directions the features span, from the stores embed/<source>/<arm>/seed<k>: one row per arm and source.

    Columns: source, arm, seeds, mean, low and high (over the seeds), most (what videos and width allow).
    """
    rows = []
    for folder in features:
        record = Features.open(folder).record
        most = min(record.shape[0], record.shape[3])
        source = folder.parent.parent.name
        rows.append({"source": source, "arm": record.arm, "rank": record.effective_rank, "most": most})
    named = {"seeds": ("rank", "size"), "mean": ("rank", "mean"), "low": ("rank", "min"), "high": ("rank", "max")}
    columns = ["source", "arm", *named, "most"]
    if not rows:
        return pd.DataFrame(columns=columns)
    grouped = pd.DataFrame(rows).groupby(["source", "arm"], sort=False)
    return grouped.agg(**named, most=("most", "first")).reset_index()[columns]
