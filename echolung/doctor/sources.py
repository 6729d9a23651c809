"""The videos and tasks of a study, from tables and first bytes: nothing is decoded"""

import os
import shlex
from pathlib import Path

import pandas as pd

from echolung.core.errors import EcholungError, VideoError, listed
from echolung.data import dicom, nifti
from echolung.data.containers import opened
from echolung.data.manifest import VIDEO_COLUMNS
from echolung.data.sources.layouts import scan
from echolung.data.splits import make_folds
from echolung.doctor.findings import Finding
from echolung.kinds.kinds import KINDS
from echolung.settings import Settings


def sources(root: Path, settings: Settings) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """One finding per source, and the manifests of those that can be read."""
    manifests: dict[str, pd.DataFrame] = {}
    found = []
    for key, source in settings.ingest.sources.items():
        if settings.drawn(key):
            found.append(Finding(key, "ok", "drawn by the study"))
            continue
        folder, imported = Path(os.path.normpath(root / source.root)), f"{source.root}.dvc"
        try:
            read = scan(source.layout, folder, key, source.split)
        except EcholungError as error:
            can_pull = (root / imported).is_file() and not folder.is_dir()
            pull = f"dvc pull {shlex.quote(imported)}   " if can_pull else ""
            found.append(Finding(key, "error", error.problem, pull + error.remedy))
            continue
        manifests[key] = read.manifest
        found.append(_files(key, folder, read.manifest, read.notes))
    return manifests, found


def weights(root: Path, settings: Settings) -> list[Finding]:
    """One finding per file of weights that an encoder starts from and that is not there."""
    shapes = {name: settings.shape(name) for name in (*settings.initial(), *settings.pretrain.encoders)}
    files = {path: name for name, shape in shapes.items() if (path := shape.weights)}
    remedy = "`echolung weights import FILE NAME` puts a file below data/weights; or remove the rows that name it. "
    remedy += "Those of study lung are made by `python benchmarks/natural_images.py FOLDER`."
    return [
        Finding(name, "error", f"there are no weights {path}", remedy)
        for path, name in files.items()
        if not (root / Path(path).expanduser()).exists()
    ]


def _files(key: str, folder: Path, manifest: pd.DataFrame, notes: tuple[str, ...]) -> Finding:
    """How many videos and patients there are, and which files cannot be videos."""
    said = f"{len(manifest)} videos of {manifest['patient_id'].nunique()} patients in {folder}"
    bad = []
    for path in map(Path, manifest["path"]):
        try:
            if not path.name.endswith(nifti.SUFFIXES) and not dicom.detected(path):
                with opened(path):
                    pass
        except VideoError as error:
            bad.append(error)
    if bad:
        problems = listed((error.problem for error in bad), 3)
        remedy = f"{bad[0].remedy} The stage `ingest` stops at such files."
        return Finding(key, "error", f"{said}, but {problems}", remedy)
    return Finding(key, "ok", "; ".join((said, *notes)))


def tasks(settings: Settings, manifests: dict[str, pd.DataFrame]) -> list[Finding]:
    """One finding per task whose sources can be read: its labels, and whether there are enough patients."""
    found = []
    for name, task in settings.tasks.items():
        if not set(task.sources) <= manifests.keys():
            continue
        if late := [column for column in task.where if column in VIDEO_COLUMNS]:
            found.append(Finding(name, "ok", f"checked once its videos are decoded (where: {', '.join(late)})"))
            continue
        try:
            rows = KINDS[task.kind].labelled(task, pd.concat([manifests[source] for source in task.sources]))
            make_folds(rows.assign(split_group=rows["patient_id"]), settings.split, task.split, task.source)
        except EcholungError as error:
            found.append(Finding(name, "error", error.problem, error.remedy))
            continue
        counts = rows["label"].value_counts()
        said = f"{len(rows)} videos of {rows['patient_id'].nunique()} patients"
        if len(counts) <= 8:
            said += f" ({', '.join(f'{label} {count}' for label, count in counts.items())})"
        found.append(Finding(name, "ok", said))
    return found
