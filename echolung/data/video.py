"""Video files in and out: the one place that knows torchcodec and FFmpeg.

Decoding goes through the packets of the file in order and keeps every frame the codec gives. Random access is avoided
on purpose: it finds frames by timestamp and so never returns those that have none. MPEG-2 recordings of scanners have
some, among them 24 of the 56 healthy POCUS videos: 268 of 280 frames come back by index, and all 280 in order.

Dimension letters: T frames, H W pixels.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from echolung.data.containers import ACCEPTED, DOWNLOAD_REMEDY, Source, opened
from echolung.errors import DependencyError, VideoError
from echolung.runtime import atomic_path, disk_error

CHUNK = 32
"""Frames that are held at full size at a time, at most, while decoding and encoding."""
CHUNK_BYTES = 1 << 24
"""Bytes of grey frames that are held at full size at a time, unless one frame has more: 16 MB."""
LUMA_AT_ONCE = 1 << 20
"""Pixels that become grey at a time."""
MAX_PIXELS = 4096 * 4096
"""Pixels of a frame: larger ones are refused before they fill the memory. No scanner's screen has a third of it."""
MAX_ALLOCATION = 160 << 20
"""Bytes that FFmpeg may ask for at once: a plane of the largest frame in its deepest format, and not a header's lie."""
MAX_UNPACKED = 1 << 28
PIXELS_PER_BYTE = 1 << 15
"""A file that holds more pixels than MAX_UNPACKED and than this many for each of its bytes is empty, and is refused."""
MAX_FRAMES = 10_000
"""Frames of a file, of whatever size: each costs time and, enlarged, memory. Six minutes; recordings have hundreds."""
MAX_DECODED = 1 << 32
"""Pixels of all frames of a file together: over three minutes of 1024 x 768 at 25 frames per second."""
MAX_BYTES = 320 << 20
"""Bytes of the frames that `decode` returns, after its transform; it holds them once."""
CUT_REMEDY = "Cut the video into shorter ones: ffmpeg -ss 0 -t 60 -i VIDEO part-1.mp4, then -ss 60, and so on."
FRAME_RATES = (1.0, 1000.0)
"""Frames per second that a recording can have; outside, the file says something impossible of itself."""

Codec = Literal["mjpeg", "h264", "mpeg4", "mpeg2video", "gif"]

FFMPEG_REMEDY = """Install FFmpeg's shared libraries (version 4 to 9):
  Debian, Ubuntu:  apt-get install ffmpeg
  Fedora:          dnf install ffmpeg-free
  macOS:           brew install ffmpeg
  conda:           conda install -c conda-forge ffmpeg"""

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


def require_ffmpeg() -> int:
    """The major version of FFmpeg's libraries; raises DependencyError, one line per system, if they cannot be loaded.

    From here on FFmpeg allocates at most MAX_ALLOCATION at once in this process.
    """
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(f"torchcodec cannot be imported ({_first_line(error)})", FFMPEG_REMEDY) from None
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


def decode(path: Path, transform: Callable[[np.ndarray], np.ndarray] | None = None) -> Video:
    """Decode every frame of a video to grey, from the first to the last.

    `transform` (uint8 (t, H, W) -> uint8 (t, ...)) is applied to chunks of at most CHUNK frames or CHUNK_BYTES as they
    come, so that with a `transform` that shrinks, a long video never stands in memory at full size.

    `Video.damage` is set where the file holds less than it should: the codec refused some of its packets, or the file
    ends before the frame count and the duration of its own header. A header that counts more than is *shown* is no
    damage (a .mov trimmed by an edit list). MPEG and Ogg streams promise nothing, so one that was cut cleanly cannot be
    told from a shorter recording.

    Raises VideoError, naming the file, if nothing can be decoded, if it is no video, if its frames have more than
    MAX_PIXELS or change their size, if there are more than MAX_FRAMES, MAX_DECODED or MAX_BYTES allow, or if it unpacks
    beyond all measure; DependencyError without FFmpeg.
    """
    require_ffmpeg()
    piece: np.ndarray | None = None
    held = bytearray()  # grows where it lies: joining pieces would hold every frame twice
    height = width = 0
    with opened(path) as source:
        packets = _Packets(source)
        for chunk in packets.chunks():
            height, width = chunk.shape[1:]
            piece = np.ascontiguousarray(chunk if transform is None else transform(chunk))
            if max(len(held) + piece.nbytes, packets.ahead * piece[0].nbytes) > MAX_BYTES:
                size = " x ".join(map(str, piece.shape[:0:-1]))
                raise VideoError(f"{path}: its frames of {size} fill more than {MAX_BYTES >> 20} MB", CUT_REMEDY)
            held += piece.data
    if piece is None:
        raise VideoError(f"{path} holds no frame that can be decoded ({packets.refused} refused)", DOWNLOAD_REMEDY)
    fps = packets.fps()
    return Video(
        frames=np.frombuffer(held, piece.dtype).reshape(-1, *piece.shape[1:]),
        fps=fps or 1.0,
        frames_declared=int(packets.header.num_frames_from_header or packets.read),
        codec=str(packets.header.codec),
        height=height,
        width=width,
        damage=packets.damage(),
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
            if disk_error(error) is not None:
                raise
            raise VideoError(
                f"cannot write {path} as {codec}, {width}x{height} at {fps:g} frames per second ({_reason(error)})",
                "Choose a container, size and frame rate that the codec allows (MPEG-2: 24, 25, 30, 50 or 60).",
            ) from None


class _Packets:
    """The packets of one file, decoded in order; counts what was read, refused and when frames are shown."""

    def __init__(self, source: Source) -> None:
        from torchcodec.decoders import ColorConverter, Demuxer

        self.path, self.source = source.path, source
        try:
            self.demuxer = Demuxer(source)
            stream = self.demuxer.streams[0]
            self.header = stream.metadata
            self.decoder = stream.make_decoder(device="cpu", num_ffmpeg_threads=1)
        except ValueError:
            raise VideoError(f"{self.path} holds no video (sound alone?)", f"Give a video file ({ACCEPTED}).") from None
        except RuntimeError as error:
            reason = source.fault or _reason(error).replace("Could not open input buffer: ", "").rstrip(".").lower()
            raise VideoError(f"{self.path} is not a video, or its end is missing ({reason})", DOWNLOAD_REMEDY) from None
        self.converter = ColorConverter(device="cpu")
        self.size = (0, 0)  # height and width of the first frame, as it is stored
        self.ahead = 0  # packets of the file, if they were counted before the first is decoded
        self.read = self.refused = self.frames = 0
        self.broken = ""
        self.first: tuple[int, float] | None = None  # (frame, seconds) of the first and last frame with a timestamp
        self.last: tuple[int, float] | None = None
        self.end = -np.inf  # seconds at which the last frame goes dark

    def chunks(self) -> Iterator[np.ndarray]:
        """Grey frames, uint8 (t <= CHUNK, H, W)."""
        _check_pixels(self.path, self.header.height or 0, self.header.width or 0)
        self._check_length_ahead()
        chunk: list[np.ndarray] = []
        for raw in self._raw_frames():
            chunk.append(_luma(self._rgb(raw)))
            if len(chunk) == CHUNK or len(chunk) * chunk[0].size >= CHUNK_BYTES:
                yield chunk[0][None] if len(chunk) == 1 else np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)

    def _rgb(self, raw: Any) -> np.ndarray:
        try:
            return np.asarray(self.converter.convert(raw).data.numpy())
        except RuntimeError as error:
            raise VideoError(
                f"{self.path}: its pixels ({raw.pixel_format}) cannot be converted to grey ({_reason(error)})",
                "Convert it: ffmpeg -i VIDEO -pix_fmt yuv420p out.mp4",
            ) from None

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
            self._check_length(self.read)  # those that show nothing are work, too
            try:
                ready = self.decoder.decode(packet)
            except RuntimeError:
                self.refused += 1
                continue
            yield from map(self._seen, ready)
        yield from map(self._seen, self.decoder.drain())

    def _seen(self, raw: Any) -> Any:
        size = (raw.height, raw.width)
        self.size = size if self.frames == 0 else self.size
        if size != self.size:
            raise VideoError(
                f"{self.path} changes its size, {self.size} to {size} (height, width)", "Cut it into one file per size."
            )
        _check_pixels(self.path, *size)
        if raw.pts_seconds > _EARLIEST:
            self.first = self.first or (self.frames, raw.pts_seconds)
            self.last = (self.frames, raw.pts_seconds)
            self.end = max(self.end, raw.pts_seconds + raw.duration_seconds)
        self.frames += 1
        self._check_length(self.frames)
        return raw

    def _check_length_ahead(self) -> None:
        """Refuse by the number of packets, which costs little, what would be refused after long work."""
        from torchcodec.decoders import Demuxer

        if self.source.size <= self._most_frames():  # not even one byte for each frame
            return
        with opened(self.path) as again:
            try:
                self.ahead = sum(1 for _ in itertools.islice(Demuxer(again), self._most_frames() + 1))
            except (RuntimeError, ValueError):
                return  # damage, which is reported where frames are decoded
        self._check_length(self.ahead)

    def _check_length(self, frames: int) -> None:
        """Refuse a file of so many frames, or compressed ones, if that is more work than a recording can be."""
        if frames <= self._most_frames():
            return
        million = frames * self._pixels() / 1e6
        if million * 1e6 > max(MAX_UNPACKED, PIXELS_PER_BYTE * self.source.size):
            raise VideoError(
                f"{self.path} unpacks {self.source.size} bytes to {million:.0f} million pixels or more",
                f"No recording holds over {PIXELS_PER_BYTE} pixels a byte: take it out of the data set.",
            )
        if frames > MAX_FRAMES:
            raise VideoError(f"{self.path} holds more than the limit of {MAX_FRAMES} frames", CUT_REMEDY)
        limit = f"{MAX_DECODED / 1e6:.0f} million pixels"
        raise VideoError(f"{self.path}: its {frames} frames or more pass the limit of {limit} together", CUT_REMEDY)

    def _most_frames(self) -> int:
        """As many frames of its size as a file of its bytes may hold."""
        unpacked = max(MAX_UNPACKED, PIXELS_PER_BYTE * self.source.size)
        return min(MAX_FRAMES, min(unpacked, MAX_DECODED) // self._pixels())

    def _pixels(self) -> int:
        """Of one frame: as it came or, before any did, as the header says."""
        height, width = self.size if self.frames else (self.header.height or 0, self.header.width or 0)
        return max(1, height * width)

    def fps(self) -> float:
        """Frames per second between the first and the last timestamp, else as the header says, else 0."""
        if self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return float(self.header.average_fps_from_header or 0.0)
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])

    def damage(self) -> str:
        """What the file lacks, "" if nothing."""
        faults = []
        if self.refused:
            faults.append(f"{self.refused} of {self.read} compressed frames are damaged")
        if self.broken or self.source.fault:
            faults.append(f"reading stopped early ({self.source.fault or self.broken})")
        faults += filter(None, [self._cut()])
        fps = self.fps()
        if not fps:
            faults.append("its frame rate is unknown")
        elif not FRAME_RATES[0] <= fps <= FRAME_RATES[1]:
            faults.append(f"its frame rate, {fps:g} per second, is none of a recording")
        return "; ".join(faults)

    def _cut(self) -> str:
        """How much less there is than the header promises, "" if it is all there or nothing is promised."""
        promised = self.header.num_frames_from_header or 0
        if self.read < promised and self._ends_early():
            return f"cut short: {self.read} of {promised} frames are in the file"
        if promised or self.header.duration_seconds_from_header is not None:
            return ""
        seconds = self.demuxer.metadata.duration_seconds_from_header
        if seconds is None:
            # FFmpeg leaves it out where a .wmv has another size than its header says.
            return "cut short, or never finished: its length is unknown" if self.source.container == "wmv" else ""
        # .mkv, .webm and .flv promise one length for picture and sound; .flv counts the last frame as none.
        begin, fps = self.header.begin_stream_seconds_from_header or 0.0, self.fps()
        slack = 1.5 / (fps or 1.0) + (1.0 if self.demuxer.metadata.best_audio_stream_index is not None else 0.0)
        shown = self.end - begin if np.isfinite(self.end) else 0.0
        return f"cut short: {shown:.2f} of {seconds:.2f} seconds are in the file" if seconds - shown > slack else ""

    def _ends_early(self) -> bool:
        """Whether the film ends more than half a frame before its header says: a frame dropped inside it does not."""
        fps = self.fps()
        if self.header.duration_seconds_from_header is None or not fps or not np.isfinite(self.end):
            return True
        begin = self.header.begin_stream_seconds_from_header or 0.0
        return bool(begin + self.header.duration_seconds_from_header - self.end > 0.5 / fps)


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise VideoError(
            f"the frames of {path} are {width} x {height} pixels, more than the limit of {MAX_PIXELS} (4096 x 4096)",
            "Make it smaller: ffmpeg -i VIDEO -vf scale=1024:-2 out.mp4",
        )


def _luma(rgb: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601 of one frame, uint8 (3, H, W) -> uint8 (H, W); the integer weights keep grey exactly."""
    grey = np.empty(rgb.shape[1:], np.uint8)
    step = max(1, LUMA_AT_ONCE // rgb.shape[2])
    for top in range(0, len(grey), step):
        rows = rgb[:, top : top + step]
        total = rows[0] * np.uint16(77)
        total += rows[1] * np.uint16(150)
        total += rows[2] * np.uint16(29)
        total += np.uint16(128)
        grey[top : top + step] = total >> 8
    return grey


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
