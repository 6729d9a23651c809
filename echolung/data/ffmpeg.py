"""FFmpeg's shared libraries: whether torchcodec finds them, and a limit on the memory they allocate."""

import ctypes
import functools
from pathlib import Path

from echolung.core.errors import DependencyError

MAX_ALLOCATION = 160 << 20  # bytes at once: enough for a plane of the largest frame at its greatest bit depth

FFMPEG_REMEDY = """Install FFmpeg's shared libraries (version 4 to 9):
  Debian, Ubuntu:  apt-get install ffmpeg
  Fedora:          dnf install ffmpeg-free
  macOS:           brew install ffmpeg
  conda:           conda install -c conda-forge ffmpeg"""


def require_ffmpeg() -> int:
    """The major version of FFmpeg's libraries; raises DependencyError with a line per system if they cannot be loaded.

    From then on FFmpeg allocates at most MAX_ALLOCATION at once in this process.
    """
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(f"torchcodec cannot be imported ({reason(error)})", FFMPEG_REMEDY) from None
    if torchcodec.ffmpeg_major_version is None:
        raise DependencyError("FFmpeg's shared libraries are not installed", FFMPEG_REMEDY)
    _bound_allocations(Path(torchcodec.__file__).parent, int(torchcodec.ffmpeg_major_version))
    return int(torchcodec.ffmpeg_major_version)


@functools.cache
def _bound_allocations(package: Path, major: int) -> None:
    """Set FFmpeg's own limit in the libavutil that torchcodec has loaded; torchcodec has no function for it."""
    libraries = list(package.glob(f"libtorchcodec_core{major}.*"))
    try:
        ctypes.CDLL(str(libraries[0])).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))
    except (IndexError, OSError, AttributeError) as error:
        raise DependencyError(f"FFmpeg {major} does not accept a memory limit ({error})", FFMPEG_REMEDY) from None


def reason(error: BaseException) -> str:
    """The first line of FFmpeg's message, without the position in torchcodec's source that precedes it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = line.partition(".cpp:")[2].partition(",")[2].strip() or line
    return line if len(line) <= 160 else line[:157] + "..."


if __name__ == "__main__":  # bootstrap.sh asks whether to install them
    try:
        require_ffmpeg()
    except DependencyError as missing:
        raise SystemExit(f"echolung: {missing.problem}.\n{missing.remedy}") from None
