"""The videos of a study, as far as tables and first bytes tell: nothing is decoded"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, EcholungError, VideoError
from echolung.data.containers import opened
from echolung.data.manifest import conform, listed
from echolung.data.sources.layouts import SOURCES
from echolung.data.splits import make_folds
from echolung.doctor.findings import Finding, wrong
from echolung.kinds.task import labelled
from echolung.settings import Settings


def sources(root: Path, settings: Settings, blocks: bool) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """Every source of a study: whether it is there and can be read, and the manifests of those that can.

    `blocks` says whether the study that is examined is this one.
    """
    manifests: dict[str, pd.DataFrame] = {}
    found = []
    for key, source in settings.ingest.sources.items():
        group, folder = f"study {settings.study}", _short(root / source.root)
        if is_drawn(settings, key) and not folder.is_dir():
            found.append(Finding(group, key, "ok", "will be drawn by the first run"))
            continue
        try:
            manifest = conform(SOURCES[source.layout](folder, key))
        except EcholungError as error:
            found.append(wrong(group, key, _importable(root, source.root, error), blocks))
            continue
        if anew := _drawn_anew(settings, key, manifest):
            found.append(Finding(group, key, "ok", anew))
            continue
        manifests[key] = manifest
        found.append(_files(group, key, folder, manifest, blocks))
    return manifests, found


def _short(path: Path) -> Path:
    """The path without ../ in it, which links would make wrong to strike out."""
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _drawn_anew(settings: Settings, key: str, manifest: pd.DataFrame) -> str:
    """What is to be said of drawn videos that lie there but are of other parameters than the study's; else ""."""
    if not is_drawn(settings, key):
        return ""
    patients, asked = manifest["patient_id"].nunique(), settings.phantom[key].patients
    if patients == asked:
        return ""
    return f"will be drawn anew by the next run: {patients} patients are there, of other parameters ({asked} patients)"


def _importable(root: Path, folder: Path, error: EcholungError) -> EcholungError:
    """The error, whose remedy names the DVC import that fetches the folder where there is one."""
    import_file = root / f"{folder}.dvc"
    if not import_file.is_file() or (root / folder).is_dir():
        return error
    return DataError(error.problem, f"Fetch it: dvc pull {folder}.dvc. {error.remedy}")


def is_drawn(settings: Settings, source: str) -> bool:
    """Whether a source is made by the stage `phantom` of the same study."""
    return source in settings.phantom and settings.ingest.sources[source].root == Path(
        "data", "raw", settings.study, source
    )


def _files(group: str, key: str, folder: Path, manifest: pd.DataFrame, blocks: bool) -> Finding:
    """How many videos and patients, and which files are no videos to begin with."""
    said = f"{len(manifest)} videos of {manifest['patient_id'].nunique()} patients in {folder}"
    bad = []
    for path in manifest["path"]:
        try:
            with opened(Path(path)):
                pass
        except VideoError as error:
            bad.append(error)
    if not bad:
        return Finding(group, key, "ok", said)
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    named = "; ".join(error.problem for error in bad[:3])
    remedy = f"{bad[0].remedy} The gate of `ingest` stops at every such file."
    return Finding(group, key, "missing", f"{said}, but {named}{more}", remedy, blocks)


def tasks(settings: Settings, manifests: dict[str, pd.DataFrame], blocks: bool) -> list[Finding]:
    """Every task whose source can be read: its labels, and whether its patients suffice for the folds."""
    found = []
    for name, task in settings.tasks.items():
        if task.source not in manifests:
            continue
        group = f"study {settings.study}"
        try:
            rows = labelled(task, manifests[task.source])
            make_folds(rows, settings.split)
        except EcholungError as error:
            found.append(wrong(group, name, error, blocks))
            continue
        counts = rows["label"].value_counts()
        classes = ", ".join(f"{label} {counts[label]}" for label in task.classes)
        said = f"{len(rows)} videos of {rows['patient_id'].nunique()} patients ({classes})"
        found.append(Finding(group, name, "ok", said))
    return found


def weights(root: Path, settings: Settings) -> list[Finding]:
    """Encoders and checkpoints that earlier runs of the study left: none of another program, none damaged."""
    from echolung.models.weights import RECORD, read_record
    from echolung.pretraining.checkpoint import NAME, read_progress

    group, bad, whole = f"study {settings.study}", [], 0
    encoders = sorted((root / "data" / settings.study / "pretrain").glob("*/seed*"))
    runs = sorted(path.parent for path in (root / "data" / f"{settings.study}-runs").rglob(NAME))
    for read, folders in ((read_record, encoders), (read_progress, runs)):
        for folder in folders:
            try:
                read(folder)
                whole += 1
            except EcholungError as error:
                bad.append(error)
    if bad:
        problems = listed((error.problem for error in bad), 3)
        return [Finding(group, "weights", "missing", problems, bad[0].remedy, blocks=True)]
    if not whole:
        return []
    said = f"{len(encoders)} encoders ({RECORD}) and {len(runs)} checkpoints of earlier runs"
    return [Finding(group, "weights", "ok", said)]
