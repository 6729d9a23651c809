"""What kind of file stands behind a name, by its first bytes: FFmpeg is handed containers of video and nothing else.

FFmpeg itself plays much more: text as a film of letters, pictures, and playlists, which make it open the files and
addresses they name. None of that is a video of a patient, and a name proves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from echolung.core.errors import VideoError

DOWNLOAD_REMEDY = "Copy or download the file again; if it is damaged at its source, take it out of the data set."

ENOUGH = 512
"""Bytes of a file's beginning that `container` and `nature` want to see."""

# Boxes that an ISO media file (mp4, mov, m4v, 3gp) may begin with.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"udta", b"uuid", b"junk", b"pict", b"prfl")
# What comes in the same boxes but is a picture or sound.
_BRANDS = {
    b"avif": "a picture (AVIF)",
    b"avis": "a picture (AVIF)",
    b"heic": "a picture (HEIC)",
    b"heix": "a picture (HEIC)",
    b"mif1": "a picture (HEIC)",
    b"M4A ": "sound (M4A)",
    b"M4B ": "sound (M4A)",
}
_PREFIXES = {
    b"\x1a\x45\xdf\xa3": "mkv or webm",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpeg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "wmv",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
}
_TRANSPORT = 0x47  # begins every 188 bytes of an MPEG transport stream, or every 192 of a camcorder's
ACCEPTED = "mp4, mov, avi, mkv, webm, mpeg, mts, wmv, flv, ogg, gif"

_OTHERS = {
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"BM": "a picture (BMP)",
    b"II*\x00": "a picture (TIFF)",
    b"MM\x00*": "a picture (TIFF)",
    b"ID3": "sound (MP3)",
    b"fLaC": "sound (FLAC)",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive (or a file of PyTorch, which is one)",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "a database",
    b"#EXTM3U": "a playlist, which names other files",
    b"ffconcat": "a playlist, which names other files",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for",
}


def container(head: bytes) -> str | None:
    """The container of video that a file beginning with `head` is, or None if it is none that is accepted."""
    if head[4:8] in _BOXES:
        return None if head[4:8] == b"ftyp" and head[8:12] in _BRANDS else "mp4 or mov"
    if head[:4] == b"RIFF":
        return "avi" if head[8:12] == b"AVI " else None
    for step, first in ((188, 0), (192, 4)):
        marks = head[first::step]
        if len(head) >= ENOUGH and len(marks) >= 2 and set(marks) == {_TRANSPORT}:
            return "mts"
    return next((name for prefix, name in _PREFIXES.items() if head.startswith(prefix)), None)


def nature(head: bytes) -> str:
    """What a file beginning with `head` is instead of a video, for a message."""
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    if head[:4] == b"RIFF":
        return {b"WAVE": "sound (WAV)", b"WEBP": "a picture (WebP)"}.get(head[8:12], "a RIFF file other than AVI")
    if head[128:132] == b"DICM":
        return "a DICOM file"
    for prefix, name in _OTHERS.items():
        if head.startswith(prefix):
            return name
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle, which is never opened"
    text = _text(head)
    if text is None:
        return "of no format that is known here"
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")):
        return "a web page"
    if start.startswith("v=0"):
        return "a description of a network stream"
    return "a text"


def _text(head: bytes) -> str | None:
    """`head` as text, or None if it is none; its last character may be cut."""
    try:
        text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8", errors="replace")
    return None if "\x00" in text else text


class Source:
    """A video file opened for FFmpeg, which sees bytes and no name: a name can be a pattern or an address to it.

    Nothing is raised while FFmpeg reads, for an exception does not survive its C code; `fault` keeps what went wrong.
    """

    def __init__(self, path: Path, stream: io.FileIO, size: int, kind: str) -> None:
        self.path, self.size, self.container = path, size, kind
        self.fault = ""
        self._stream = stream

    def read(self, count: int) -> bytes:
        try:
            return self._stream.read(count) or b""
        except OSError as error:
            self.fault = self.fault or str(error.strerror)
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return -1  # before the beginning, or further than files reach: a damaged index points anywhere


@contextlib.contextmanager
def regular(path: Path) -> Iterator[io.FileIO]:
    """A regular file, opened for reading; never waits, as opening a named pipe would.

    Raises VideoError, naming the file, if it is not there, something else, or may not be read.
    """
    try:
        stream = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except (OSError, ValueError) as error:
        raise VideoError(*_unopened(path, error)) from None
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise VideoError(f"{path} is not a file but a pipe or a device", f"Give a video file ({ACCEPTED}).")
        yield stream


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A file that begins as a container of video does.

    Raises VideoError, naming the file, if it cannot be read, is empty, or is something else.
    """
    with regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise VideoError(f"{path} is empty (0 bytes)", DOWNLOAD_REMEDY)
        try:
            head = stream.read(ENOUGH) or b""
            stream.seek(0)
        except OSError as error:
            raise VideoError(f"{path} cannot be read ({error.strerror})", DOWNLOAD_REMEDY) from None
        kind = container(head)
        if kind is None:
            raise VideoError(f"{path} is not a video but {nature(head)}", f"Give a video file ({ACCEPTED}).")
        yield Source(path, stream, size, kind)


def _unopened(path: Path, error: OSError | ValueError) -> tuple[str, str]:
    """Why a file cannot be opened, and what to do."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"{path} is not there: it is a link to {os.readlink(path)}", "Mend or remove the link."
        return f"{path} is not there", "Check the path."
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, not a file", "Give the video files in it."
    if isinstance(error, PermissionError):
        return f"{path} may not be read by this user", "Allow it: chmod u+r, or ask whose file it is."
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{path} is a link that leads back to itself", "Mend or remove the link."
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"{str(path)!r} cannot be opened ({reason})", "Check the path."
