"""What a served model answers: the bytes of video files.

A request makes a server open no path, address or device: bytes are written to a temporary folder, reach FFmpeg only if
they begin like a video container (`data.containers`), and are deleted after the answer.
"""

import base64
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import EcholungError, RequestError
from echolung.serving.model import Model

CONTENT = "content"  # the column of a request: the bytes of a video file as base64
REMEDY = "Give each row `content`, a video file's bytes as base64."
LARGEST_MB = 256  # the largest video file that is accepted as `content`, in MB (10^6 bytes)


def answer(model: Model, rows: pd.DataFrame) -> pd.DataFrame:
    """`Model.predict` for every row of a request; `video` is `content[<row>]`.
    Raises RequestError for what may not be answered, VideoError for what cannot be decoded."""
    with tempfile.TemporaryDirectory(prefix="echolung-") as folder:
        files = [_file(row, Path(folder, f"content[{i}]")) for i, row in enumerate(rows.to_dict("records"))]
        if not files:
            raise RequestError("the request has no video", REMEDY)
        try:
            table = model.predict(files)
        except EcholungError as error:
            raise type(error)(error.problem.replace(f"{folder}/", ""), error.remedy) from None
    return table.assign(video=[path.removeprefix(f"{folder}/") for path in table["video"]])


def _file(row: dict[Any, Any], temporary: Path) -> Path:
    """A row's `content`, written to `temporary`."""
    if not isinstance(row.get(CONTENT), str):
        raise RequestError(f"{temporary.name} cannot be read: the row has none", REMEDY)
    try:
        content = base64.b64decode("".join(row[CONTENT].split()), validate=True)  # it may have line breaks
    except ValueError as error:
        raise RequestError(f"{temporary.name} is not base64 ({error})", REMEDY) from None
    if len(content) > LARGEST_MB * 1_000_000:
        raise RequestError(f"{temporary.name} is larger than {LARGEST_MB} MB", "Cut the video.")
    temporary.write_bytes(content)
    return temporary
