"""FFmpeg's libraries, as torchcodec finds them: are they there, how much memory may they ask for, what do they say?

Asked as a program (`python -m echolung.data.ffmpeg`) it says what is missing and how to get it.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from echolung.core.errors import DependencyError

MAX_ALLOCATION = 160 << 20
"""Bytes that FFmpeg may ask for at once: a plane of the largest frame in its deepest format, and not a header's lie."""

FFMPEG_REMEDY = """Install FFmpeg's shared libraries (version 4 to 9):
  Debian, Ubuntu:  apt-get install ffmpeg
  Fedora:          dnf install ffmpeg-free
  macOS:           brew install ffmpeg
  conda:           conda install -c conda-forge ffmpeg"""


def require_ffmpeg() -> int:
    """The major version of FFmpeg's libraries; raises DependencyError, one line per system, if they cannot be loaded.

    From here on FFmpeg allocates at most MAX_ALLOCATION at once in this process.
    """
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(f"torchcodec cannot be imported ({first_line(error)})", FFMPEG_REMEDY) from None
    if torchcodec.ffmpeg_major_version is None:
        raise DependencyError("FFmpeg's shared libraries are not installed", FFMPEG_REMEDY)
    _bound_allocations(Path(torchcodec.__file__).parent, int(torchcodec.ffmpeg_major_version))
    return int(torchcodec.ffmpeg_major_version)


@functools.cache
def _bound_allocations(package: Path, major: int) -> None:
    """Set FFmpeg's own limit, in the libavutil that torchcodec has loaded: Python has no door to it."""
    libraries = list(package.glob(f"libtorchcodec_core{major}.*"))
    try:
        ctypes.CDLL(str(libraries[0])).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))
    except (IndexError, OSError, AttributeError) as error:
        raise DependencyError(f"FFmpeg {major} takes no limit of memory ({error})", FFMPEG_REMEDY) from None


def first_line(error: BaseException) -> str:
    """Of what an exception says; its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason(error: BaseException) -> str:
    """What FFmpeg said, without torchcodec's source position before it and the path we name ourselves."""
    line = first_line(error)
    if ".cpp:" in line:
        line = line.split(".cpp:", 1)[1].split(",", 1)[-1].strip()
    return line if len(line) <= 160 else line[:157] + "..."


if __name__ == "__main__":
    # Asked by bootstrap.sh, before there is anything else to ask.
    try:
        require_ffmpeg()
    except DependencyError as missing:
        raise SystemExit(f"echolung: {missing.problem}.\n{missing.remedy}") from None
