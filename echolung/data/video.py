"""Video files in and out: the one place that knows torchcodec and FFmpeg.

Decoding goes through the packets of the file in order and keeps every frame the codec gives. Random access is avoided
on purpose: it finds frames by timestamp and so never returns those that have none. MPEG-2 recordings of scanners have
some, among them 24 of the 56 healthy POCUS videos: 268 of 280 frames come back by index, and all 280 in order.

Dimension letters: T frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from echolung.errors import DependencyError, VideoError
from echolung.runtime import atomic_path

CHUNK = 32
"""Frames that are held at full size at a time, while decoding and encoding."""

Codec = Literal["mjpeg", "h264", "mpeg4", "mpeg2video", "gif"]

FFMPEG_REMEDY = """Install FFmpeg's shared libraries (version 4 to 9):
  Debian, Ubuntu:  apt-get install ffmpeg
  Fedora:          dnf install ffmpeg-free
  macOS:           brew install ffmpeg
  conda:           conda install -c conda-forge ffmpeg"""
DOWNLOAD_REMEDY = "Copy or download the file again; if it is damaged at its source, take it out of the data set."

# Speckle should survive, hence quantisers near the finest; one thread, so that the bytes are reproducible.
_ENCODERS: dict[str, dict[str, Any]] = {
    "mjpeg": {"codec": "mjpeg", "pixel_format": "yuvj420p", "extra_options": {"qmin": 2, "qmax": 3, "threads": 1}},
    # x264 places its B-frames differently from run to run.
    "h264": {"codec": "libx264", "pixel_format": "yuv420p", "crf": 18, "extra_options": {"bf": 0, "threads": 1}},
    "mpeg4": {"codec": "mpeg4", "pixel_format": "yuv420p", "extra_options": {"qmin": 2, "qmax": 3, "threads": 1}},
    "mpeg2video": {
        "codec": "mpeg2video",
        "pixel_format": "yuv420p",
        "extra_options": {"qmin": 2, "qmax": 3, "threads": 1},
    },
    "gif": {"codec": "gif", "pixel_format": "gray", "extra_options": {"threads": 1}},
}
# Text and pictures that FFmpeg is willing to play as a film of themselves.
_NOT_VIDEO = ("ansi", "png", "bmp", "tiff", "webp", "jpegls", "dds", "svg")
_EARLIEST = -1e9  # seconds; FFmpeg's "no timestamp" reads as about -1e14


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video.

    frames: uint8 (T, ...): grey, 0 black to 255 white; (T, H, W) unless a transform changed it.
    fps: frames per second, measured from the timestamps where there are any; 1 where nothing tells it (see damage).
    frames_declared: how many frames the container promises; where it promises nothing, how many it holds compressed.
    height, width: pixels of the file, whatever a transform made of them.
    damage: "" or what is wrong with the file, which still gave `frames`.
    """

    frames: np.ndarray
    fps: float
    frames_declared: int
    codec: str
    height: int
    width: int
    damage: str


def require_ffmpeg() -> None:
    """Raise DependencyError, with one line per system, unless FFmpeg's libraries can be loaded."""
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(f"torchcodec cannot be imported ({_first_line(error)})", FFMPEG_REMEDY) from None
    if torchcodec.ffmpeg_major_version is None:
        raise DependencyError("FFmpeg's shared libraries are not installed", FFMPEG_REMEDY)


def decode(path: Path, transform: Callable[[np.ndarray], np.ndarray] | None = None) -> Video:
    """Decode every frame of a video to grey, from the first to the last.

    `transform` (uint8 (t, H, W) -> uint8 (t, ...)) is applied to chunks of at most CHUNK frames as they come, so that
    with a `transform` that shrinks, a long video never stands in memory at full size.

    `Video.damage` is set where the file holds less than it should: the codec refused some of its packets, or the file
    ends before the frame count and the duration of its own header. A header that counts more than is *shown* is no
    damage (a .mov trimmed by an edit list). MPEG-2 program streams promise nothing, so one that was cut cleanly cannot
    be told from a shorter recording.

    Raises VideoError, naming the file, if nothing can be decoded; DependencyError without FFmpeg.
    """
    require_ffmpeg()
    demuxer, stream = _open(path)
    packets = _Packets(path, demuxer, stream.make_decoder(device="cpu", num_ffmpeg_threads=1))
    pieces: list[np.ndarray] = []
    height = width = 0
    for chunk in packets.chunks():
        height, width = chunk.shape[1:]
        pieces.append(chunk if transform is None else transform(chunk))
    if not pieces:
        raise VideoError(f"{path} holds no frame that can be decoded ({packets.refused} refused)", DOWNLOAD_REMEDY)
    header = stream.metadata
    fps = packets.fps() or header.average_fps_from_header or 0.0
    return Video(
        frames=np.concatenate(pieces),
        fps=float(fps) or 1.0,
        frames_declared=int(header.num_frames_from_header or packets.read),
        codec=str(header.codec),
        height=height,
        width=width,
        damage="; ".join(filter(None, [packets.damage(header), "" if fps else "its frame rate is unknown"])),
    )


def encode(path: Path, frames: np.ndarray, fps: float, codec: Codec) -> None:
    """Write grey frames uint8 (T, H, W) as a video; the suffix of `path` chooses the container.

    The file appears whole or not at all. Raises VideoError if FFmpeg cannot write it.
    """
    require_ffmpeg()
    import torch
    from torchcodec.encoders import Encoder

    if frames.ndim != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise VideoError(f"cannot write {path}: frames are {frames.dtype} {frames.shape}", "Give uint8 (T, H, W).")
    _, height, width = frames.shape
    settings = dict(_ENCODERS[codec])
    if codec == "h264" and (height % 2 or width % 2):
        settings["pixel_format"] = "yuv444p"  # halved chroma needs even sizes
    with atomic_path(path) as temporary:
        try:
            encoder = Encoder()
            video = encoder.add_video(height=height, width=width, frame_rate=fps, device="cpu", **settings)
            with encoder.open_file(temporary):
                for start in range(0, len(frames), CHUNK):
                    grey = torch.from_numpy(np.ascontiguousarray(frames[start : start + CHUNK]))
                    video.add_frames(grey[:, None].expand(-1, 3, -1, -1).contiguous())
        except (RuntimeError, ValueError) as error:
            raise VideoError(
                f"cannot write {path} as {codec}, {width}x{height} at {fps:g} frames per second ({_reason(error)})",
                "Choose a container, size and frame rate that the codec allows (MPEG-2: 24, 25, 30, 50 or 60).",
            ) from None


def _open(path: Path) -> tuple[Any, Any]:
    """The demuxer of a video file and its video stream."""
    from torchcodec.decoders import Demuxer

    if not path.is_file():
        raise VideoError(f"{path} is not there", "Check the path.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)", DOWNLOAD_REMEDY)
    absolute = path.resolve()  # FFmpeg would read "a:b.mp4" as a protocol
    try:
        demuxer = Demuxer(absolute)
        stream = demuxer.streams[0]
        codec = stream.metadata.codec
    except (RuntimeError, ValueError) as error:
        reason = _reason(error).replace(f"Could not open input file: {absolute} ", "").rstrip(".").lower()
        raise VideoError(f"{path} is not a video, or its end is missing ({reason})", DOWNLOAD_REMEDY) from None
    if codec in _NOT_VIDEO:
        raise VideoError(
            f"{path} is not a video but a text or picture ({codec})", "Give a video file (mp4, mov, avi, ...)."
        )
    return demuxer, stream


class _Packets:
    """The packets of one file, decoded in order; counts what was read, refused and when frames are shown."""

    def __init__(self, path: Path, demuxer: Any, decoder: Any) -> None:
        from torchcodec.decoders import ColorConverter

        self.path, self.demuxer, self.decoder = path, demuxer, decoder
        self.converter = ColorConverter(device="cpu")
        self.read = self.refused = self.frames = 0
        self.broken = ""
        self.first: tuple[int, float] | None = None  # (frame, seconds) of the first and last frame with a timestamp
        self.last: tuple[int, float] | None = None
        self.end = -np.inf  # seconds at which the last frame goes dark

    def chunks(self) -> Iterator[np.ndarray]:
        """Grey frames, uint8 (t <= CHUNK, H, W)."""
        chunk: list[np.ndarray] = []
        shape: tuple[int, ...] = ()
        for raw in self._raw_frames():
            grey = _luma(self.converter.convert(raw).data.numpy())
            shape = shape or grey.shape
            if grey.shape != shape:
                raise VideoError(
                    f"{self.path} changes its size, {shape} to {grey.shape}", "Cut it into one file per size."
                )
            chunk.append(grey)
            if len(chunk) == CHUNK:
                yield np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)

    def _raw_frames(self) -> Iterator[Any]:
        while True:
            try:
                packet = next(self.demuxer, None)
            except RuntimeError as error:
                self.broken = _reason(error)
                break
            if packet is None:
                break
            self.read += 1
            try:
                ready = self.decoder.decode(packet)
            except RuntimeError:
                self.refused += 1
                continue
            yield from map(self._seen, ready)
        yield from map(self._seen, self.decoder.drain())

    def _seen(self, raw: Any) -> Any:
        if raw.pts_seconds > _EARLIEST:
            self.first = self.first or (self.frames, raw.pts_seconds)
            self.last = (self.frames, raw.pts_seconds)
            self.end = max(self.end, raw.pts_seconds + raw.duration_seconds)
        self.frames += 1
        return raw

    def fps(self) -> float | None:
        """Frames per second between the first and the last timestamp, or None if there are not two."""
        if self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])

    def damage(self, header: Any) -> str:
        """What the file lacks, "" if nothing."""
        faults = []
        if self.refused:
            faults.append(f"{self.refused} of {self.read} compressed frames are damaged")
        if self.broken:
            faults.append(f"reading stopped early ({self.broken})")
        promised = header.num_frames_from_header or 0
        if self.read < promised and self._ends_early(header):
            faults.append(f"cut short: {self.read} of {promised} frames are in the file")
        return "; ".join(faults)

    def _ends_early(self, header: Any) -> bool:
        """Whether the film ends more than half a frame before its header says: a frame dropped inside it does not."""
        fps = self.fps() or header.average_fps_from_header
        if header.duration_seconds_from_header is None or not fps or not np.isfinite(self.end):
            return True
        begin = header.begin_stream_seconds_from_header or 0.0
        return bool(begin + header.duration_seconds_from_header - self.end > 0.5 / fps)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601 of one frame, uint8 (3, H, W) -> uint8 (H, W); the integer weights keep grey exactly."""
    total = rgb[0] * np.uint16(77)
    total += rgb[1] * np.uint16(150)
    total += rgb[2] * np.uint16(29)
    total += np.uint16(128)
    return (total >> 8).astype(np.uint8)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _reason(error: BaseException) -> str:
    """What FFmpeg said, without torchcodec's source position before it and the path we name ourselves."""
    line = _first_line(error)
    if ".cpp:" in line:
        line = line.split(".cpp:", 1)[1].split(",", 1)[-1].strip()
    return line if len(line) <= 160 else line[:157] + "..."


if __name__ == "__main__":
    # Asked by bootstrap.sh, before there is anything else to ask.
    try:
        require_ffmpeg()
    except DependencyError as missing:
        raise SystemExit(f"echolung: {missing.problem}.\n{missing.remedy}") from None
