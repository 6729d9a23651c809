"""Tracings: the outlines that a source's readers drew on some of its frames, as one table.

Columns: sample_id, frame (0 is the first), structure, points: a closed polygon, a list of [x, y] in pixels with the
centre of the first pixel at (0, 0). A source gives them in pixels of its videos, `ingest` stores them in those of the
clip store.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from echolung.data.geometry import Letterbox

COLUMNS = ("sample_id", "frame", "structure", "points")
LEFT_VENTRICLE = "left ventricle"


def moved(tracings: pd.DataFrame, manifest: pd.DataFrame, size: int) -> pd.DataFrame:
    """The tracings in pixels of a clip store of `size`, without those of frames that were not decoded."""
    videos = manifest.set_index("sample_id")
    known = tracings[tracings["frame"] < tracings["sample_id"].map(videos["frames"]).fillna(0)]
    shapes = videos.loc[known["sample_id"], ["height", "width", "pixel_aspect"]].to_numpy(float)
    points = [
        Letterbox(int(height), int(width), size, aspect).points(np.array(polygon)).tolist()
        for (height, width, aspect), polygon in zip(shapes, known["points"], strict=True)
    ]
    return known.assign(points=points)[list(COLUMNS)].reset_index(drop=True)
