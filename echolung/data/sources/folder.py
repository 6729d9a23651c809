"""Your own videos: a folder and a csv that says whose they are and what they show.

Layout:
    videos.csv    path (relative to the folder), patient, label; optional: collection, view, split, license, fps (for
                  files that do not say it, as NIfTI), and more labels in columns named label_<name>
    anywhere/below/*.mp4, .avi, .mov, .gif, ...

Other columns are yours and are not read.
"""

import os.path
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.sources.files import Layout, Scan

TABLE = "videos.csv"
OPTIONAL = {"collection": "collection", "view": "view", "split": "split_official", "license": "license"}
HOW_TO_GET = f"Put your videos into one folder with a {TABLE} of the columns path, patient, label; set `root` to it."


def scan(root: Path, source: str) -> Scan:
    """One row per line of videos.csv; a path that leaves the folder is refused."""
    layout = Layout(root, "folder of videos", HOW_TO_GET)
    table = layout.table(TABLE, ("path", "patient", "label"), also=[*OPTIONAL, "fps"], prefix="label_")
    for column in ("path", "patient"):
        if len(empty := table.index[table[column] == ""]):
            problem = f"{root / TABLE}: {column} is empty in lines {listed(empty)}"
            raise DataError(problem, "Fill it in for every video.")
    paths = table["path"].str.replace("\\", "/").map(os.path.normpath)
    rows = {
        "sample_id": source + "/" + paths.map(lambda path: os.path.splitext(path)[0]),
        "source": source,
        "path": list(map(str, layout.match(paths))),
        "patient_id": source + "/" + table["patient"],
        "label": _or_missing(table["label"]),
    }
    rows |= {ours: _or_missing(table[theirs]) for theirs, ours in OPTIONAL.items() if theirs in table}
    if "fps" in table:
        rows["fps"] = layout.numbers(TABLE, table["fps"], 1, 1000, table["path"])
    rows |= {str(name): _or_missing(table[name]) for name in table if str(name).startswith("label_")}
    return Scan(pd.DataFrame(rows), notes=tuple(layout.notes))


def _or_missing(texts: pd.Series) -> pd.Series:
    return texts.astype("string").where(texts != "")
