"""Decodes the packets of a video file in order: every frame the codec gives, within limits, and what is missing.

Random access finds frames by timestamp and never returns those without one. MPEG-2 recordings of scanners have such
frames, among them 24 of the 56 healthy POCUS videos: by index 268 of 280 frames come back, in order all 280.

Dimension letters: T frames, H W pixels.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from echolung.core.errors import VideoError
from echolung.data.containers import DOWNLOAD_REMEDY, NO_RATE, Source, opened, pixel_aspect
from echolung.data.ffmpeg import reason

CHUNK = 32  # most frames held at full size at a time, while decoding and encoding
CHUNK_BYTES = 1 << 24  # most bytes of grey frames held at full size at a time, unless one frame has more: 16 MB
MAX_PIXELS = 4096 * 4096  # of a frame: larger ones would fill the memory; no scanner has a screen of a third of it
MAX_FRAMES = 10_000  # most frames of a file, whatever their size: over six minutes; recordings have hundreds
MAX_DECODED = 1 << 32  # pixels of all frames of a file: over three minutes of 1024 x 768 at 25 frames per second
CUT_REMEDY = "Cut it into shorter videos: ffmpeg -ss 0 -t 60 -i VIDEO part-1.mp4, then -ss 60, and so on."
FRAME_RATES = (1.0, 1000.0)  # lowest and highest frames per second that a recording can have
PIXEL_ASPECTS = (0.2, 5.0)  # narrowest and widest pixels that a recording can have, width / height
_EARLIEST = -1e9  # seconds; FFmpeg's "no timestamp" reads as about -1e14


class Packets:
    """The packets of one file, decoded in order; counts what was read and refused, and when frames are shown."""

    def __init__(self, source: Source) -> None:
        from torchcodec.decoders import ColorConverter, Demuxer

        self.path, self.source = source.path, source
        try:
            self.demuxer = Demuxer(source)
            stream = self.demuxer.streams[0]
            self.header = stream.metadata
            self.decoder = stream.make_decoder(device="cpu", num_ffmpeg_threads=1)
        except ValueError:
            raise VideoError(f"{self.path} has no picture (only sound?)", "Give a video file.") from None
        except RuntimeError as error:
            said = source.fault or reason(error).replace("Could not open input buffer: ", "").rstrip(".").lower()
            raise VideoError(f"{self.path} is not a video, or its end is missing ({said})", DOWNLOAD_REMEDY) from None
        self.converter = ColorConverter(device="cpu")
        # As a pixel is shown: by the container, else by the codec's header, else square.
        aspect = float(pixel_aspect(source) or self.header.pixel_aspect_ratio or 1)
        self.stated_aspect = 1 / aspect if round(self.header.rotation or 0) % 180 == 90 else aspect
        self.size = (self.header.height or 0, self.header.width or 0)  # of the first frame, as soon as it is decoded
        self.read = self.refused = self.frames = 0
        self.broken = ""
        self.first: tuple[int, float] | None = None  # (frame, seconds) of the first and last frame with a timestamp
        self.last: tuple[int, float] | None = None
        self.end = -np.inf  # seconds at which the last frame ends

    def chunks(self) -> Iterator[np.ndarray]:
        """Grey frames, uint8 (t <= CHUNK, H, W). Packets are counted first: no file is refused after long work."""
        from torchcodec.decoders import Demuxer

        _check_pixels(self.path, *self.size)
        with opened(self.path) as again, contextlib.suppress(RuntimeError, ValueError):  # what is damaged is decoded
            self._check_length(sum(1 for _ in itertools.islice(Demuxer(again), MAX_FRAMES + 1)))
        chunk: list[np.ndarray] = []
        for raw in self._raw_frames():
            chunk.append(luma(self._rgb(raw)))
            if len(chunk) == CHUNK or len(chunk) * chunk[0].size >= CHUNK_BYTES:
                yield chunk[0][None] if len(chunk) == 1 else np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)

    def _rgb(self, raw: Any) -> np.ndarray:
        try:
            return np.asarray(self.converter.convert(raw).data.numpy())
        except RuntimeError as error:
            problem = f"{self.path}: its pixels ({raw.pixel_format}) cannot be converted to grey ({reason(error)})"
            raise VideoError(problem, "Convert it: ffmpeg -i VIDEO -pix_fmt yuv420p out.mp4") from None

    def _raw_frames(self) -> Iterator[Any]:
        for packet in self._packets():
            try:
                ready = self.decoder.decode(packet)
            except RuntimeError:
                self.refused += 1
            else:
                yield from map(self._seen, ready)
        yield from map(self._seen, self.decoder.drain())

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self.demuxer:
                self.read += 1
                yield packet
        except RuntimeError as error:
            self.broken = reason(error)

    def _seen(self, raw: Any) -> Any:
        size = (raw.height, raw.width)
        self.size = size if self.frames == 0 else self.size
        if size != self.size:
            problem = f"{self.path} changes its frame size, {self.size} to {size} (height, width)"
            raise VideoError(problem, "Cut it into one file per size.")
        _check_pixels(self.path, *size)
        if raw.pts_seconds > _EARLIEST:
            self.first = self.first or (self.frames, raw.pts_seconds)
            self.last = (self.frames, raw.pts_seconds)
            self.end = max(self.end, raw.pts_seconds + raw.duration_seconds)
        self.frames += 1
        self._check_length(self.frames)
        return raw

    def _check_length(self, frames: int) -> None:
        """Refuse a file of so many frames or packets if no recording can be that long."""
        pixels = frames * max(1, self.size[0] * self.size[1])
        if frames > MAX_FRAMES:
            raise VideoError(f"{self.path} has more than the limit of {MAX_FRAMES} frames", CUT_REMEDY)
        if pixels > MAX_DECODED:
            limit = f"{MAX_DECODED / 1e6:.0f} million pixels"
            raise VideoError(f"{self.path}: its {frames} frames or more exceed the limit of {limit}", CUT_REMEDY)

    def pixel_aspect(self) -> float:
        """Width / height of a pixel; 1 where the file says nothing, or nothing possible (see `damage`)."""
        return self.stated_aspect if PIXEL_ASPECTS[0] <= self.stated_aspect <= PIXEL_ASPECTS[1] else 1.0

    def fps(self) -> float:
        """Frames per second between the first and the last timestamp, else from the header, else 0."""
        if self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return float(self.header.average_fps_from_header or 0.0)
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])

    def damage(self) -> str:
        """What is wrong with the file, "" if nothing."""
        faults = []
        if self.refused:
            faults.append(f"{self.refused} of {self.read} compressed frames are damaged")
        if self.broken or self.source.fault:
            faults.append(f"reading stopped early ({self.source.fault or self.broken})")
        faults += filter(None, [self._cut()])
        fps = self.fps()
        if not fps:
            faults.append(NO_RATE)
        elif not FRAME_RATES[0] <= fps <= FRAME_RATES[1]:
            faults.append(f"its frame rate, {fps:g} per second, is impossible")
        if self.pixel_aspect() != self.stated_aspect:
            faults.append(f"its pixels are {self.stated_aspect:g} times as wide as high, which is impossible")
        return "; ".join(faults)

    def _cut(self) -> str:
        """How much less there is than the header says, "" if it is complete or the header says nothing."""
        promised = self.header.num_frames_from_header or 0
        if self.read < promised and self._ends_early():
            return f"cut short: {self.read} of {promised} frames are in the file"
        if promised or self.header.duration_seconds_from_header is not None:
            return ""
        seconds = self.demuxer.metadata.duration_seconds_from_header
        if seconds is None:
            # FFmpeg has no duration for a .wmv whose size is not what its header says.
            return "cut short, or never finished: its length is unknown" if self.source.container == "wmv" else ""
        # .mkv, .webm and .flv state one length for picture and sound; .flv does not count the last frame.
        begin, fps = self.header.begin_stream_seconds_from_header or 0.0, self.fps()
        slack = 1.5 / (fps or 1.0) + (1.0 if self.demuxer.metadata.best_audio_stream_index is not None else 0.0)
        shown = self.end - begin if np.isfinite(self.end) else 0.0
        return f"cut short: {shown:.2f} of {seconds:.2f} seconds are in the file" if seconds - shown > slack else ""

    def _ends_early(self) -> bool:
        """Whether the video ends over half a frame before its header says; a frame dropped inside it does not count."""
        fps = self.fps()
        if self.header.duration_seconds_from_header is None or not fps or not np.isfinite(self.end):
            return True
        begin = self.header.begin_stream_seconds_from_header or 0.0
        return bool(begin + self.header.duration_seconds_from_header - self.end > 0.5 / fps)


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        problem = f"the frames of {path} are {width} x {height} pixels, over the limit of {MAX_PIXELS} (4096 x 4096)"
        raise VideoError(problem, "Make it smaller: ffmpeg -i VIDEO -vf scale=1024:-2 out.mp4")


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma of one frame, uint8 (3, H, W) -> uint8 (H, W); its integer weights keep grey values exactly."""
    total = rgb[0] * np.uint16(77) + rgb[1] * np.uint16(150) + rgb[2] * np.uint16(29) + np.uint16(128)
    return (total >> 8).astype(np.uint8)
