"""What a served model answers: the bytes of video files; in a program of the user's own, paths as well.

A request makes a server open no path, address or device: bytes are written to a temporary folder, reach FFmpeg only if
they begin like a video container (`data.containers`), and are deleted after the answer.
"""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import EcholungError, RequestError
from echolung.serving.model import Model

INPUTS = ("video", "content")
"""Columns of a request: a path, or the bytes of a video file as base64; one of them in each row."""
REMEDY = "Give each row `content`, a video file's bytes as base64, or, where nothing is served, `video`, a path."
LARGEST_MB = 256
"""The largest video file that is accepted as `content`, in MB (10^6 bytes)."""


def answer(model: Model, rows: pd.DataFrame, paths: bool) -> pd.DataFrame:
    """`Model.predict` for every row of a request; `video` is the path as it was sent, or `content[<row>]`.

    `paths`: whether rows may have paths. Raises RequestError for what may not be answered, VideoError for what cannot
    be decoded.
    """
    with tempfile.TemporaryDirectory(prefix="echolung-") as folder:
        files = [_file(row, Path(folder, f"content[{i}]"), paths) for i, row in enumerate(rows.to_dict("records"))]
        if not files:
            raise RequestError("the request has no video", REMEDY)
        try:
            table = model.predict(files)
        except EcholungError as error:
            raise type(error)(error.problem.replace(f"{folder}/", ""), error.remedy) from None
    return table.assign(video=[path.removeprefix(f"{folder}/") for path in table["video"]])


def _file(row: dict[Any, Any], temporary: Path, paths: bool) -> Path:
    """The file to decode; a row's `content` is written to `temporary`."""
    given = [name for name in INPUTS if isinstance(row.get(name), str) and row[name]]
    if len(given) != 1 or (given == ["video"] and not paths):
        raise RequestError(f"{temporary.name} cannot be read: the row has {' and '.join(given) or 'nothing'}", REMEDY)
    if given == ["video"]:
        return Path(row["video"])
    try:
        content = base64.b64decode("".join(row["content"].split()), validate=True)  # it may have line breaks
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{temporary.name} is not base64 ({error})", REMEDY) from None
    if len(content) > LARGEST_MB * 1_000_000:
        raise RequestError(f"{temporary.name} is larger than {LARGEST_MB} MB", "Cut the video.")
    temporary.write_bytes(content)
    return temporary
