"""Your own videos: a folder and a csv that says whose they are and what they show.

Layout:
    videos.csv    path (relative to the folder), patient, label; optional: collection, view, split, license, and further
                  labels in columns named label_<name>
    any/where/below/*.mp4, .avi, .mov, .gif, ...

Columns of other names are yours and are not read.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from echolung.core.errors import DataError
from echolung.data.manifest import listed
from echolung.data.sources.files import inside, read_table, require_folder

TABLE = "videos.csv"
COLUMNS = ("path", "patient", "label")
OPTIONAL = {"collection": "collection", "view": "view", "split": "split_official", "license": "license"}
DRIVE_OR_ADDRESS = re.compile(r"[A-Za-z]:|[A-Za-z][\w+.-]*:/")
HOW_TO_GET = f"Put your videos into one folder with a {TABLE} of the columns path, patient, label; set `root` to it."


def scan(root: Path, source: str) -> pd.DataFrame:
    """One row per line of videos.csv; a path that leaves the folder is refused."""
    what = "folder of videos"
    require_folder(root, what, HOW_TO_GET)
    table = read_table(root / TABLE, COLUMNS, what, HOW_TO_GET, also=OPTIONAL, prefix="label_")
    if table.empty:
        raise DataError(f"{root / TABLE} has no row", HOW_TO_GET)
    for column in ("path", "patient"):
        empty = table.index[table[column] == ""]
        if len(empty):
            raise DataError(
                f"{root / TABLE}: {column} is empty in lines {listed(empty + 2)}", "Fill it in for every video."
            )
    paths = table["path"].str.replace("\\", "/")
    outside = paths[[_leaves(path) for path in paths]]
    if len(outside):
        raise DataError(
            f"{root / TABLE}: paths must stay inside {root}: {listed(outside)}", "Give them relative to that folder."
        )
    paths = paths.map(os.path.normpath)
    inside(root, (root / path for path in paths), str(root / TABLE))
    rows = {
        "sample_id": source + "/" + paths.map(lambda path: str(PurePosixPath(path).with_suffix(""))),
        "source": source,
        "path": [str(root / path) for path in paths],
        "patient_id": source + "/" + table["patient"],
        "label": _or_missing(table["label"]),
    }
    rows |= {ours: _or_missing(table[theirs]) for theirs, ours in OPTIONAL.items() if theirs in table}
    rows |= {str(name): _or_missing(table[name]) for name in table if str(name).startswith("label_")}
    return pd.DataFrame(rows)


def _leaves(path: str) -> bool:
    """Whether a relative path climbs out of the folder it is relative to (or is no relative path at all)."""
    return os.path.isabs(path) or bool(DRIVE_OR_ADDRESS.match(path)) or os.path.normpath(path).split("/")[0] == ".."


def _or_missing(texts: pd.Series) -> pd.Series:
    return texts.astype("string").where(texts != "")
