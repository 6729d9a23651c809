"""Decodes and encodes video files. Dimension letters: T frames, H W pixels."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from echolung.core.errors import VideoError
from echolung.core.runtime import atomic_path, disk_error
from echolung.data import dicom, nifti
from echolung.data.containers import DOWNLOAD_REMEDY, NO_RATE, opened
from echolung.data.ffmpeg import reason, require_ffmpeg
from echolung.data.geometry import letterbox
from echolung.data.packets import CHUNK, CUT_REMEDY, Packets

MAX_BYTES = 320 << 20  # most bytes of the frames that `decode` returns; it holds them once
Codec = Literal["mjpeg", "h264", "mpeg4", "mpeg2video", "gif"]

# Fine quantisers keep the speckle; one thread makes the bytes reproducible.
_FINE = {"qmin": 2, "qmax": 3, "threads": 1}
_ENCODERS: dict[str, dict[str, Any]] = {
    "mjpeg": {"codec": "mjpeg", "pixel_format": "yuvj420p", "extra_options": _FINE},
    # x264 places B-frames differently from run to run.
    "h264": {"codec": "libx264", "pixel_format": "yuv420p", "crf": 18, "extra_options": {"bf": 0, "threads": 1}},
    "mpeg4": {"codec": "mpeg4", "pixel_format": "yuv420p", "extra_options": _FINE},
    "mpeg2video": {"codec": "mpeg2video", "pixel_format": "yuv420p", "extra_options": _FINE},
    "gif": {"codec": "gif", "pixel_format": "gray", "extra_options": {"threads": 1}},
}


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video."""

    frames: np.ndarray  # grey, 0 black to 255 white: uint8 (T, H, W) as stored, or letterboxed to (T, size, size)
    fps: float  # frames per second, measured from the timestamps if there are any; 1 if it is unknown (see damage)
    frames_declared: int  # by the container; if it declares none, the compressed frames in it
    codec: str
    height: int  # pixels of a frame in the file
    width: int
    pixel_aspect: float  # width / height of such a pixel; 1 if it is square or the file does not say
    damage: str  # what is wrong with the file although it gave `frames`; "" if nothing
    pixel_mm: float | None = None  # height of such a pixel in mm; None if the file does not say


def decode(path: Path, size: int | None = None) -> Video:
    """Decode every frame of a video to grey, from the first to the last.

    With `size` the frames are letterboxed to a square, with square pixels whatever the file's are: in chunks, so that a
    long video is never in memory at full size.

    `Video.damage` is set if the file holds less than it should: the codec refused some packets, or the file ends before
    the frame count and the duration of its header. A header that counts more frames than are *shown* is not damage (a
    .mov trimmed by an edit list). MPEG and Ogg streams state no length, so a clean cut goes unnoticed.

    Raises VideoError naming the file if it is not a video, if nothing can be decoded, if its frames change size, or if
    MAX_PIXELS, MAX_FRAMES, MAX_DECODED or MAX_BYTES are exceeded; DependencyError without FFmpeg.
    """
    if path.name.endswith(nifti.SUFFIXES):
        stills, aspect, spacing = nifti.read(path)
        height, width = stills.shape[1:]
        frames = stills if size is None else letterbox(stills, size, aspect)
        unknown = NO_RATE if len(frames) > 1 else ""
        return Video(frames, 1.0, len(frames), "nifti", height, width, aspect, unknown, spacing)
    if dicom.detected(path):
        return _decode_dicom(path, size)
    require_ffmpeg()
    with opened(path) as source:
        packets = Packets(source)
        frames, (height, width) = _held(path, packets.chunks(), size, packets.pixel_aspect)
    if not len(frames):
        raise VideoError(f"{path} has no frame that can be decoded ({packets.refused} refused)", DOWNLOAD_REMEDY)
    declared, codec = int(packets.header.num_frames_from_header or packets.read), str(packets.header.codec)
    aspect = packets.pixel_aspect()
    return Video(frames, packets.fps() or 1.0, declared, codec, height, width, aspect, packets.damage())


def _decode_dicom(path: Path, size: int | None) -> Video:
    """A DICOM cine or still, cut to its image region; see `echolung.data.dicom`."""
    source = dicom.Recording(path)
    frames = source.frames()
    chunks = (np.stack([first, *itertools.islice(frames, CHUNK - 1)]) for first in frames)
    held, shape = _held(path, chunks, size, lambda: source.pixel_aspect)
    fps, aspect = source.fps or 1.0, source.pixel_aspect
    return Video(held, fps, source.count, "dicom", *shape, aspect, source.damage, source.pixel_mm)


def _held(
    path: Path, chunks: Iterable[np.ndarray], size: int | None, aspect: Callable[[], float]
) -> tuple[np.ndarray, tuple[int, int]]:
    """All frames of chunks (T, H, W), letterboxed if `size` is given, and H, W; VideoError beyond MAX_BYTES."""
    piece = np.empty((0, 0, 0), np.uint8)
    held = bytearray()  # grows in place: joining pieces would hold every frame twice
    height = width = 0
    for chunk in chunks:
        height, width = chunk.shape[1:]
        piece = np.ascontiguousarray(chunk if size is None else letterbox(chunk, size, aspect()))
        if len(held) + piece.nbytes > MAX_BYTES:
            shape = " x ".join(map(str, piece.shape[:0:-1]))
            raise VideoError(f"{path}: its frames of {shape} take more than {MAX_BYTES >> 20} MB", CUT_REMEDY)
        held += piece.data
    return np.frombuffer(held, piece.dtype).reshape(-1 if held else 0, *piece.shape[1:]), (height, width)


def encode(path: Path, frames: np.ndarray, fps: float, codec: Codec) -> None:
    """Write grey frames uint8 (T, H, W) as a video, whole or not at all; the suffix of `path` chooses the container.

    Raises VideoError if FFmpeg cannot write it.
    """
    require_ffmpeg()
    import torch
    from torchcodec.encoders import Encoder

    _, height, width = frames.shape
    settings = dict(_ENCODERS[codec])
    if codec == "h264" and (height % 2 or width % 2):
        settings["pixel_format"] = "yuv444p"  # yuv420p needs even sizes
    with atomic_path(path) as temporary:
        try:
            encoder = Encoder()
            video = encoder.add_video(height=height, width=width, frame_rate=fps, device="cpu", **settings)
            with encoder.open_file(temporary):
                for start in range(0, len(frames), CHUNK):
                    grey = torch.from_numpy(np.ascontiguousarray(frames[start : start + CHUNK]))
                    video.add_frames(grey[:, None].expand(-1, 3, -1, -1).contiguous())
        except (RuntimeError, ValueError) as error:
            if disk_error(error) is not None:
                raise
            wanted = f"{codec}, {width}x{height} at {fps:g} frames per second"
            remedy = "Choose a container, size and frame rate that the codec allows (MPEG-2: 24, 25, 30, 50 or 60)."
            raise VideoError(f"cannot write {path} as {wanted} ({reason(error)})", remedy) from None
