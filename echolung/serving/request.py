"""What a server answers: the path of a video below one folder, or the bytes of a video file.

Only regular files that begin like a video container reach FFmpeg (`data.containers`), so that no request makes a server
open an address, a device or a playlist. Bytes are written to a temporary folder and deleted after the answer.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import EcholungError, RequestError, SettingsError
from echolung.serving.model import Model

ROOT_VARIABLE = "ECHOLUNG_SERVE_ROOT"
"""Environment variable: the folder below which a server reads videos; by default the one it was started in."""
LARGEST_VARIABLE = "ECHOLUNG_SERVE_MAX_MB"
"""Environment variable: the largest video file that is accepted as `content`, in MB (10^6 bytes)."""
LARGEST_MB = 256
COLUMNS = ("video", "content")
GIVE_ONE = "Give each row either `video`, a path, or `content`, a video file's bytes as base64."


@dataclass(frozen=True)
class Limits:
    """What may be read. `root` None: any path, as in a program of the user's own. `largest`: bytes of a `content`."""

    root: Path | None
    largest: int

    @classmethod
    def of_environment(cls, serving: bool) -> Limits:
        """As the environment says; raises SettingsError if a variable is invalid."""
        named = os.environ.get(ROOT_VARIABLE)
        root = Path(named or Path.cwd()).resolve() if named or serving else None
        if root is not None and not root.is_dir():
            raise SettingsError(f"{ROOT_VARIABLE} is {named}, which is not a folder", "Name the folder of the videos.")
        megabytes = os.environ.get(LARGEST_VARIABLE, str(LARGEST_MB))
        if not megabytes.isdecimal() or int(megabytes) == 0:
            raise SettingsError(f"{LARGEST_VARIABLE} is '{megabytes}'", "Give a whole number of MB, 256 for example.")
        return cls(root, int(megabytes) * 1_000_000)


def answer(model: Model, rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """`Model.predict` for every row of a request; `video` is the path as it was sent, or `content[<row>]`.

    Raises RequestError for what may not be answered, VideoError for what cannot be decoded. Neither names a file that
    the request did not name.
    """
    if rows.empty or not set(COLUMNS) & set(rows.columns):
        raise RequestError("the request has no video", GIVE_ONE)
    with tempfile.TemporaryDirectory(prefix="echolung-") as folder:
        names: dict[Path, str] = {}
        paths = []
        for place, row in enumerate(rows.to_dict("records")):
            name, path = _file(row, place, Path(folder).resolve() / str(place), limits)
            names[path] = name
            paths.append((name, path))
        try:
            return model.predict([path for _, path in paths]).assign(video=[name for name, _ in paths])
        except EcholungError as error:
            problem = error.problem
            for path, name in names.items():
                problem = problem.replace(str(path), _shown(name))
            raise type(error)(problem, error.remedy) from None


def _file(row: dict[Any, Any], place: int, temporary: Path, limits: Limits) -> tuple[str, Path]:
    """What a row is called, and the file to decode; a `content` is written to `temporary`."""
    given = {name: row[name] for name in COLUMNS if isinstance(row.get(name), str) and row[name]}
    if len(given) != 1:
        raise RequestError(f"row {place} has {' and '.join(given) or 'neither video nor content'}", GIVE_ONE)
    if "video" in given:
        return given["video"], _allowed(given["video"], limits.root)
    name = f"content[{place}]"
    temporary.write_bytes(_decoded(given["content"], name, limits.largest))
    return name, temporary


def _allowed(sent: str, root: Path | None) -> Path:
    """The file that a path names, links resolved; relative ones are below `root`."""
    if root is None:
        return Path(sent)
    try:
        path = (root / sent).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        path = Path("/")
    if not path.is_relative_to(root):
        raise RequestError(
            f"{_shown(sent)} is not below the folder that this server reads",
            f"Send the file as `content`, or start the server with {ROOT_VARIABLE} naming the folder of the videos.",
        )
    return path


def _decoded(content: str, name: str, largest: int) -> bytes:
    """The bytes of base64, which may have line breaks."""
    try:
        found = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        remedy = "Send the bytes of the video file in standard base64, nothing before it."
        raise RequestError(f"{name} is not base64 ({error})", remedy) from None
    if len(found) > largest:
        raise RequestError(
            f"{name} is larger than {largest // 1_000_000} MB",
            f"Send a path, cut the video, or start the server with a larger {LARGEST_VARIABLE}.",
        )
    return found


def _shown(sent: str) -> str:
    """A path as an error names it: one line of at most 200 characters."""
    text = " ".join(sent.split())
    return text if len(text) <= 200 else text[:197] + "..."
