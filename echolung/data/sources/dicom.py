"""A folder of ultrasound DICOM files, as a machine or an archive exports it: cine loops and stills.

Any file below the folder that begins like DICOM is a recording, whatever its name; a DICOMDIR is left out. Nothing that
names a patient is kept: sample id and patient are keyed hashes (HMAC-SHA256, 12 hexadecimal digits) of

    patient   PatientID, or StudyInstanceUID where it is empty
    study     StudyInstanceUID
    instance  SOPInstanceUID with the size of the picture and the number of frames

The key is $ECHOLUNG_SALT, or else a random one that is made once in echolung/salt in the user's configuration folder:
the same patient has one pseudonym in all folders, and nobody without the key can find it by trying numbers. The `path`
of a row is the file's own: rename files that are called by a name.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, VideoError, listed
from echolung.core.runtime import atomic_path
from echolung.data import dicom
from echolung.data.sources.files import Layout, Scan

DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
FIELDS = (
    *("MediaStorageSOPClassUID", "Manufacturer", "PatientID", "StudyInstanceUID"),
    *("SOPInstanceUID", "Rows", "Columns", "NumberOfFrames"),
)
HOW_TO_GET = "Export the recordings as DICOM files (not as one DICOMDIR); set `root` to the folder that holds them."
SALT = "ECHOLUNG_SALT"
IN_REGION = "what is burnt into the image region itself cannot be told: look at the frames before you pass them on"


def scan(root: Path, source: str) -> Scan:
    """One row per DICOM file; raises DataError if there is none.

    A file that is no 2D ultrasound image keeps its row, so that it is named when it is decoded.
    """
    layout, salt = Layout(root, "folder of DICOM files", HOW_TO_GET), _salt()
    rows, others = [], []
    for name in sorted(layout.files):
        path = root / name
        kind, maker, person, study, *instance = [""] * len(FIELDS)
        with contextlib.suppress(VideoError):  # the reason is named when it is decoded
            kind, maker, person, study, *instance = dicom.texts(path, *FIELDS)
        if kind == DIRECTORY or not dicom.detected(path):
            others.append(name)
            continue
        study = study or name
        patient = f"{source}/{_pseudonym(salt, person or study)}"
        recording = f"{patient}/{_pseudonym(salt, study)}/{_pseudonym(salt, *instance)}"
        rows.append((recording, source, str(path), patient, maker or "unknown"))
    if not rows:
        raise DataError(f"{root} holds no DICOM file", HOW_TO_GET)
    left = [f"{len(others)} files are no DICOM recording: {listed(others)}"] if others else []
    manifest = pd.DataFrame(rows, columns=["sample_id", "source", "path", "patient_id", "collection"])
    return Scan(manifest, notes=(*layout.notes, *left, IN_REGION))


def _pseudonym(salt: bytes, *parts: str) -> str:
    return hmac.new(salt, "\0".join(parts).encode(), "sha256").hexdigest()[:12]


def _salt() -> bytes:
    """The user's key, made at random the first time; raises DataError if it cannot be kept."""
    if given := os.environ.get(SALT):
        return given.encode()
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "echolung" / "salt"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.chmod(0o600)
                temporary.write_text(secrets.token_hex(32))
        return path.read_bytes()
    except OSError as error:
        problem = f"the key of the patients' pseudonyms cannot be kept in {path} ({error.strerror})"
        raise DataError(problem, f"Set {SALT} to a secret of your own.") from None
