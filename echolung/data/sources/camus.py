"""CAMUS: hearts of 500 patients in two views, with masks (Leclerc et al. 2019, 10.1109/TMI.2019.2900516).

Layout:
    database_nifti/<patient>/<patient>_{2CH,4CH}_{ED,ES}.nii.gz         end-diastole and end-systole, one still each
    database_nifti/<patient>/<patient>_{2CH,4CH}_half_sequence.nii.gz   the frames from one to the other, if published
    ..._gt.nii.gz                                                       label maps: cavity, myocardium, left atrium
    database_nifti/<patient>/Info_{2CH,4CH}.cfg    "Key: value": ED, ES (1-based; either may be the first frame),
                                                   NbFrame, Sex, Age, ImageQuality, EF, FrameRate; what is known of them
                                                   (drawn hearts: AbnormalFrames too)
    database_split/subgroup_{training,validation,testing}.txt           patients, one per line

`scan` makes one recording of each patient and view: the half sequence, else ED followed by ES.
`scan_stills` makes one of each still, `label` ED or ES, without masks: a clip of it shows that frame throughout.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.masks import Tracing
from echolung.data.sources.files import Layout, Scan

FOLDER, SPLIT_FOLDER = "database_nifti", "database_split"
IMAGE = re.compile(rf"{FOLDER}/([^/]+)/(\1_([24]CH)_(ED|ES|half_sequence))\.nii(\.gz)?")
SPLITS = {"TRAIN": "training", "VAL": "validation", "TEST": "testing"}
PHASES = ("ED", "ES")
PHASES_FPS = 3.0
"""Of ED and ES alone, which lie about a third of a second apart; at the 1 of files without a rate, a clip of a second
ends before end-systole."""
LICENSE = "CC BY-NC-SA 4.0, non-commercial research"
SITE = "https://humanheart-project.creatis.insa-lyon.fr/database"
HOW_TO_GET = f"Register at {SITE} for CAMUS_public; set `root` to the folder that holds {FOLDER}/ and {SPLIT_FOLDER}/."
Info = dict[str, str]


def scan(root: Path, source: str) -> Scan:
    """One row per patient and view, with its masks; raises DataError naming the patients that are not complete.

    A view needs ED and ES, or a half sequence whose cfg says which frames they are.
    """
    layout, images = _images(root)
    views: dict[tuple[str, str], dict[str, str]] = {}
    for one in images:
        views.setdefault((one[1], one[3]), {})[one[4]] = one[0]
    rows, further, incomplete = [], {}, []
    tracings: list[Tracing] = []
    for (patient, view), files in views.items():
        name, info = f"{source}/{patient}/{view}", _info(layout, patient, view)
        sequence = files.get("half_sequence")
        frame_of = {"ED": 0, "ES": 1}
        if sequence:
            frame_of = {phase: int(info[phase]) - 1 for phase in frame_of if info.get(phase, "").isdecimal()}
        if missing := [phase for phase in PHASES if phase not in (frame_of if sequence else files)]:
            incomplete.append(f"{patient} {view} (no {' and '.join(missing)}{' in its cfg' if sequence else ''})")
            continue
        parts = [root / sequence] if sequence else [root / files[phase] for phase in PHASES]
        further[name] = tuple(parts[1:])
        drawn = _masks(layout, patient, view, sequence is not None, frame_of)
        phases = {frame: phase for phase, frame in frame_of.items()}
        tracings += [Tracing(name, frame, path, phases) for frame, path in drawn]
        rows.append((name, str(parts[0]), patient, view, info))
        if not drawn:
            layout.notes.append(f"{patient} {view} has no mask")
    if incomplete:
        raise DataError(f"CAMUS: not complete: {listed(incomplete)}", HOW_TO_GET)
    manifest = _manifest(layout, source, rows)
    return Scan(manifest, tracings, tuple(layout.notes), further)


def scan_stills(root: Path, source: str) -> Scan:
    """One row per still, its phase as `label`; raises DataError if there is none, or if a patient is in no split."""
    layout, images = _images(root)
    stills = [one for one in images if one[4] in PHASES]
    rows = [(f"{source}/{one[2]}", str(root / one[0]), one[1], one[3], _info(layout, one[1], one[3])) for one in stills]
    manifest = _manifest(layout, source, rows).assign(label=[one[4] for one in stills])
    return Scan(manifest, notes=tuple(layout.notes))


def _images(root: Path) -> tuple[Layout, list[re.Match[str]]]:
    """Every image that is not a mask: groups patient, name, view, phase or half_sequence."""
    layout = Layout(root, "CAMUS", HOW_TO_GET)
    layout.folder(FOLDER)
    found = [match for match in map(IMAGE.fullmatch, sorted(layout.files)) if match]
    if not found:
        raise DataError(f"CAMUS: no <patient>_<view>_ED.nii.gz below {root / FOLDER}", HOW_TO_GET)
    return layout, found


def _masks(layout: Layout, patient: str, view: str, sequence: bool, frame_of: dict[str, int]) -> list[tuple[int, Path]]:
    """The label maps of a view and the frame that each begins at: of the whole sequence if there is one."""
    begin = {"half_sequence": 0} if sequence else {}
    there = {
        kind: (frame, layout.root / name)
        for kind, frame in (begin | frame_of).items()
        for name in (f"{FOLDER}/{patient}/{patient}_{view}_{kind}_gt.nii{end}" for end in ("", ".gz"))
        if name in layout.files
    }
    return [there["half_sequence"]] if "half_sequence" in there else list(there.values())


def _manifest(layout: Layout, source: str, rows: list[tuple[str, str, str, str, Info]]) -> pd.DataFrame:
    """The manifest of (sample id, path, patient, view, cfg); raises DataError if a patient is in no split."""
    split_of = {
        line.strip(): name
        for name, subgroup in SPLITS.items()
        for line in layout.text(f"{SPLIT_FOLDER}/subgroup_{subgroup}.txt").splitlines()
    }
    if homeless := sorted({row[2] for row in rows} - split_of.keys()):
        raise DataError(f"CAMUS: patients in no file of {layout.root / SPLIT_FOLDER}: {listed(homeless)}", HOW_TO_GET)
    names = pd.Series([row[0] for row in rows])

    def told(key: str) -> pd.Series:
        return pd.Series([row[4].get(key, "") for row in rows], name=key, dtype=str)

    def number(key: str, high: float) -> pd.Series:
        return layout.numbers("Info_*.cfg", told(key), 0, high, names)

    columns = {
        "sample_id": names,
        "source": source,
        "path": [row[1] for row in rows],
        "patient_id": [f"{source}/{row[2]}" for row in rows],
        "collection": "camus",
        "view": [f"A{row[3][0]}C" for row in rows],
        "split_official": [split_of[row[2]] for row in rows],
        "license": layout.license(LICENSE),
        "ef": number("EF", 100),
        "fps": number("FrameRate", 1000).where(np.array(["half_sequence" in row[1] for row in rows]), PHASES_FPS),
        "abnormal_frames": number("AbnormalFrames", 1e6),
        "image_quality": told("ImageQuality").replace("", None),
        "sex": told("Sex").replace("", None),
        "age": number("Age", 120),
    }
    return pd.DataFrame(columns)


def _info(layout: Layout, patient: str, view: str) -> Info:
    """The lines of a cfg; none if the patient has no such file."""
    name = f"{FOLDER}/{patient}/Info_{view}.cfg"
    if name not in layout.files:
        return {}
    parts = (line.partition(":") for line in layout.text(name).splitlines())
    return {key.strip(): value.strip() for key, _, value in parts}
