"""Opens video files: only files that begin like a video container reach FFmpeg, and FFmpeg sees bytes, never a name.

FFmpeg also plays text, pictures and playlists, and playlists make it open other files and network addresses.
"""

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from echolung.core.errors import VideoError

DOWNLOAD_REMEDY = "Copy or download the file again; if the original is damaged, leave it out."
NO_RATE = "its frame rate is unknown"  # of a folder, a column `fps` of videos.csv gives it
ACCEPTED = "mp4, mov, avi, mkv, webm, mpeg, mts, wmv, flv, ogg, gif"

ENOUGH = 512  # bytes of a file's beginning that `opened` needs
MOVIE_HEADER = 1 << 24  # largest `moov` box that is searched for the pixel aspect ratio of an mp4 file

# Boxes that an ISO media file (mp4, mov, m4v, 3gp) may begin with.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"udta", b"uuid", b"junk", b"pict", b"prfl")
_NO_VIDEO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"M4A ", b"M4B ")  # the same boxes: pictures, sound
_PREFIXES: dict[str, bytes | tuple[bytes, ...]] = {
    "mkv or webm": b"\x1a\x45\xdf\xa3",
    "gif": (b"GIF87a", b"GIF89a"),
    "mpeg": (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
    "wmv": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "flv": b"FLV\x01",
    "ogg": b"OggS",
}
_TRANSPORT = 0x47  # every 188 bytes of an MPEG transport stream, or every 192 of a camcorder's


def container(head: bytes) -> str | None:
    """The video container of a file that begins with `head`; None if it is not a supported one."""
    if head[4:8] in _BOXES:
        return None if head[4:8] == b"ftyp" and head[8:12] in _NO_VIDEO_BRANDS else "mp4 or mov"
    if head[:4] == b"RIFF":
        return "avi" if head[8:12] == b"AVI " else None
    for step, first in ((188, 0), (192, 4)):
        marks = head[first::step]
        if len(head) >= ENOUGH and len(marks) >= 2 and set(marks) == {_TRANSPORT}:
            return "mts"
    return next((name for name, prefix in _PREFIXES.items() if head.startswith(prefix)), None)


class Source:
    """An open file for FFmpeg, which could take a name for a pattern or an address.

    `read` and `seek` never raise, because an exception does not survive FFmpeg's C code; `fault` keeps what went wrong.
    """

    def __init__(self, path: Path, stream: io.FileIO, kind: str) -> None:
        self.path, self.container = path, kind
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
            return -1  # before the beginning or beyond any file: a damaged index points anywhere


@contextlib.contextmanager
def regular(path: Path) -> Iterator[io.FileIO]:
    """A regular file, opened for reading without waiting, as opening a named pipe would.

    Raises VideoError naming the file if it does not exist, is something else or may not be read.
    """
    try:
        stream = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except IsADirectoryError:
        raise VideoError(f"{path} is a folder", f"Give the videos in it: {path}/*") from None
    except OSError as error:
        fault = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        raise VideoError(f"{path} {fault}", "Check the path; if it is a link, where it leads.") from None
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise VideoError(f"{path} is a pipe or a device, not a file", "Give a video file.")
        yield stream


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A file that begins like a video container; VideoError naming it if it cannot be read, is empty or is none."""
    with regular(path) as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise VideoError(f"{path} is empty (0 bytes)", DOWNLOAD_REMEDY)
        head = stream.read(ENOUGH) or b""
        stream.seek(0)
        kind = container(head)
        if kind is None:
            pointer = head.startswith(b"version https://git-lfs")
            fault = "it is a Git LFS pointer: run `git lfs pull`" if pointer else "whatever its name says"
            raise VideoError(f"{path} holds no video ({fault})", f"Convert it to one of {ACCEPTED}, or leave it out.")
        yield Source(path, stream, kind)


def pixel_aspect(source: Source) -> Fraction | None:
    """Width / height of a pixel as an mp4 or mov says, which torchcodec does not read; None if it has none."""
    at, across, down = source.seek(0, os.SEEK_CUR), 0, 0
    if source.container == "mp4 or mov":
        movie = _movie_header(source)
        box = movie.find(b"\x00\x00\x00\x10pasp")
        if 0 <= box <= len(movie) - 16:
            across, down = struct.unpack_from(">2I", movie, box + 8)
    source.seek(at)  # where FFmpeg goes on reading
    return Fraction(across, down) if across and down else None


def _movie_header(source: Source) -> bytes:
    """The `moov` box of an mp4 or mov file; b"" if there is none."""
    begin = 0
    while source.seek(begin) == begin and len(head := source.read(16)) == 16:
        size, kind, large = struct.unpack(">I4sQ", head)
        size = large if size == 1 else size
        if kind == b"moov":
            source.seek(begin)
            return source.read(min(size, MOVIE_HEADER))
        if size < 8:
            break
        begin += size
    return b""
