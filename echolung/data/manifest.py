"""The manifest: one row per video, the same columns for every public set or folder."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.core.runtime import atomic_path

IDENTITY_COLUMNS: dict[str, str] = {
    "sample_id": "string",  # <source>/<stem>, unique
    "source": "string",
    "path": "string",
    "sha256": "string",
    "patient_id": "string",  # <source>/<patient>
    "split_group": "string",  # patients that must stay on one side of every split
    "collection": "string",  # where the video was published or recorded
    "view": "string",
    "split_official": "string",
    "license": "string",
}
VIDEO_COLUMNS: dict[str, str] = {
    "frames": "Int64",  # decoded; 0 if the file cannot be decoded
    "frames_declared": "Int64",  # by the container
    "fps": "Float64",
    "height": "Int64",
    "width": "Int64",
    "pixel_aspect": "Float64",  # width / height of a pixel of the file; stored frames always have square pixels
    "pixel_mm": "Float64",  # height of a pixel of the file in mm; missing where the file does not say
    "codec": "string",
    "decode_error": "string",  # missing if all is well; with frames > 0: damaged, but some frames decode
}
LABEL_COLUMNS: dict[str, str] = {
    "diagnosis": "string",  # covid | pneumonia | regular | viral
    "covid": "Int64",  # 0 | 1
    "severity": "Int64",  # 0..3
    "a_lines": "Int64",  # 0 | 1
    "b_lines": "Int64",  # 0 | 1
    "ef": "Float64",  # ejection fraction, 0..100 %
    "abnormal_frames": "Int64",  # frames in which a wall of the heart does not move; known of drawn hearts
    "image_quality": "string",  # as the source's readers grade it: Good | Medium | Poor
    "sex": "string",  # F | M, or as the source says
    "age": "Float64",  # years
    "weight_kg": "Float64",
    "height_cm": "Float64",
    "label": "string",  # of a user's own folder, like the columns label_*
}
MANIFEST_COLUMNS: dict[str, str] = {**IDENTITY_COLUMNS, **VIDEO_COLUMNS, **LABEL_COLUMNS}
"""Column -> pandas dtype. Every manifest has all of them in this order, then the label_* (string) of its source."""


def conform(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with every manifest column, typed and in order; columns that are not given are missing values.

    `split_group` defaults to the patient. Raises DataError if a sample id is repeated.
    """
    extra = [name for name in rows.columns if name not in MANIFEST_COLUMNS]
    frame = rows.reset_index(drop=True).reindex(columns=[*MANIFEST_COLUMNS, *extra])
    frame = frame.astype(MANIFEST_COLUMNS | dict.fromkeys(extra, "string"))
    frame["split_group"] = frame["split_group"].fillna(frame["patient_id"])
    repeated = frame.loc[frame["sample_id"].duplicated(keep=False)]
    if len(repeated):
        named = listed(f"{row.sample_id} ({row.path})" for row in repeated.itertuples())
        problem = f"{repeated['sample_id'].nunique()} sample ids are repeated: {named}"
        raise DataError(problem, "Give every video its own name, and list it once.")
    return frame


def write_manifest(path: Path, frame: pd.DataFrame) -> None:
    """Write a manifest that conforms as parquet, atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest; raises DataError if the file is missing, damaged or lacks a column."""
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "Run `dvc repro` to make it.") from None
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{path} is not a parquet table ({error})", "Delete it and run `dvc repro` again.") from None
    require_columns(frame.columns, MANIFEST_COLUMNS, str(path))
    return frame


def require_columns(present: Iterable[str], needed: Iterable[str], where: str) -> None:
    """Raise DataError naming each `needed` column that is not `present`, and those that are."""
    names = [str(name) for name in present]
    if missing := [name for name in needed if name not in names]:
        remedy = f"Its columns are: {listed(names, 60) or 'none'}. Correct it."
        raise DataError(f"{where} has no column {listed(repr(name) for name in missing)}", remedy)
