"""What a served model may be sent: the path of a video below one folder, or the bytes of a video file.

A row has either `video`, a path that this machine can read, or `content`, the file's bytes as base64. FFmpeg is handed
nothing but an existing regular file that begins like a video container: no URL, no device, and no playlist, which would
make it open other files. Sent bytes lie in a folder of this process alone, under a name of ours, until their answer.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import EcholungError, RequestError, SettingsError
from echolung.data.containers import ACCEPTED, ENOUGH, container, nature
from echolung.serving.model import Classifier

ROOT_VARIABLE = "ECHOLUNG_SERVE_ROOT"
"""Environment variable: the folder below which a server reads videos; where the server was started if it is not set."""
LARGEST_VARIABLE = "ECHOLUNG_SERVE_MAX_MB"
"""Environment variable: the largest video file that is taken as `content`, in MB (10^6 bytes)."""
LARGEST_MB = 256
COLUMNS = ("video", "content")
GIVE_ONE = "Give each row either `video`, a path, or `content`, a video file's bytes as base64."


@dataclass(frozen=True)
class Limits:
    """What may be read. `root` None: any path, as in a program of the user's own."""

    root: Path | None
    largest: int
    """Bytes of a video file that is sent as `content`."""

    @classmethod
    def of_environment(cls, serving: bool) -> Limits:
        """As the environment says; a server without ROOT_VARIABLE reads below the folder it was started in.

        Raises SettingsError if a variable makes no sense.
        """
        named = os.environ.get(ROOT_VARIABLE)
        root = Path(named or Path.cwd()).resolve() if named or serving else None
        if root is not None and not root.is_dir():
            raise SettingsError(f"{ROOT_VARIABLE} is {named}, which is no folder", "Name the folder of the videos.")
        megabytes = os.environ.get(LARGEST_VARIABLE, str(LARGEST_MB))
        if not megabytes.isdecimal() or int(megabytes) == 0:
            raise SettingsError(f"{LARGEST_VARIABLE} is '{megabytes}'", "Give a whole number of MB, 256 for example.")
        return cls(root, int(megabytes) * 1_000_000)


def answer(classifier: Classifier, rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """What `Classifier.predict` says of every row of a request, in its columns; `video` is the path as it was sent.

    A row that came as bytes is called `content[<row>]`. Raises RequestError for what may not be answered, VideoError
    for what cannot be decoded; neither names a file of this machine that the request did not.
    """
    if rows.empty or not set(COLUMNS) & set(rows.columns):
        raise RequestError("the request holds no video", GIVE_ONE)
    parts = []
    for position, row in enumerate(rows.to_dict("records")):
        with _video_file(row, position, limits) as (name, path):
            try:
                parts.append(classifier.predict([path]).assign(video=name))
            except EcholungError as error:
                raise type(error)(error.problem.replace(str(path), _shown(name)), error.remedy) from None
    return pd.concat(parts, ignore_index=True)


@contextlib.contextmanager
def _video_file(row: dict[Any, Any], position: int, limits: Limits) -> Iterator[tuple[str, Path]]:
    """What a row is called, and the file to decode, which is gone afterwards if it was sent."""
    given = {name: row[name] for name in COLUMNS if isinstance(row.get(name), str) and row[name]}
    if len(given) != 1:
        raise RequestError(f"row {position} has {' and '.join(given) or 'neither video nor content'}", GIVE_ONE)
    if "video" in given:
        yield given["video"], _allowed(given["video"], limits)
        return
    name = f"content[{position}]"
    content = _decoded(given["content"], name, limits.largest)
    _check_container(content[:ENOUGH], name)
    with tempfile.TemporaryDirectory(prefix="echolung-") as folder:
        path = Path(folder).resolve() / "video"
        path.write_bytes(content)
        yield name, path


def _allowed(sent: str, limits: Limits) -> Path:
    """The file that a path means, with no link left in it; a relative one is below the root."""
    if limits.root is None:
        return Path(sent)
    try:
        path = (limits.root / sent).resolve()
        inside, there = path.is_relative_to(limits.root), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        inside = False
    if not inside:
        raise RequestError(
            f"{_shown(sent)} is not below the folder that this server reads",
            f"Send the file as `content`, or start the server with {ROOT_VARIABLE} naming the folder of the videos.",
        )
    if not there:
        raise RequestError(f"{_shown(sent)} is not there, or not a file", "Check the path.")
    try:
        with open(path, "rb") as stream:
            _check_container(stream.read(ENOUGH), _shown(sent))
    except OSError as error:
        raise RequestError(f"{_shown(sent)} cannot be read ({error.strerror})", "Check its permissions.") from None
    return path


def _decoded(content: str, name: str, largest: int) -> bytes:
    """The bytes of base64, which may be broken into lines."""
    if len(content) > 1.4 * largest + 1000:  # 4 characters for 3 bytes, and line breaks
        raise _too_large(name, largest)
    try:
        found = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"{name} is not base64 ({error})", "Send the bytes of the video file in standard base64, nothing before it."
        ) from None
    if len(found) > largest:
        raise _too_large(name, largest)
    return found


def _too_large(name: str, largest: int) -> RequestError:
    return RequestError(
        f"{name} is larger than {largest // 1_000_000} MB",
        f"Send a path, cut the video, or start the server with a larger {LARGEST_VARIABLE}.",
    )


def _check_container(first: bytes, name: str) -> None:
    """RequestError unless a file begins like a video container; playlists, which name other files, do not."""
    if container(first) is None:
        instead = nature(first) if first else "empty (0 bytes)"
        raise RequestError(f"{name} is no video but {instead}", f"Send a video file ({ACCEPTED}).")


def _shown(sent: str) -> str:
    """A path as an error names it: one line, of bearable length."""
    text = " ".join(sent.split())
    return text if len(text) <= 200 else text[:197] + "..."
