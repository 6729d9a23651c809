"""Hostile videos: odd, lying, cut, huge or something else. Each ends in the right frames or in one line of refusal.

    python benchmarks/hostile.py [part of a name]    # one JSON line per file: how it ended and the memory it took

tests/test_hostile.py runs it; docs/hostile-inputs.md says what is promised.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import io
import json
import os
import pickle
import re
import select
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from echolung.core.errors import EcholungError
from echolung.data import video

HANGS = 120
"""Seconds after which a case that has not ended stops the program."""
Write = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Case:
    """A file to write, and how reading it must end.

    `frames` (T, H, W): what must come back, within `decibels`; with `fewer`, only the first of them may. `size`: the
    shape is enough, letterboxed to it. `refused`: a pattern of the error; with frames given either end is right.
    """

    name: str
    write: Write
    frames: np.ndarray | None = None
    decibels: float = 30
    damage: str = ""
    fewer: bool = False
    size: int = 96
    refused: str = ""


def outcome(case: Case, folder: Path) -> str:
    """What came of the case; raises AssertionError if it ended in any other way than it must."""
    path = folder / case.name
    case.write(path)
    refusal = None
    try:
        decoded = video.decode(path, None if case.frames is not None else case.size)
    except EcholungError as error:
        refusal = error
    if refusal is not None:
        assert case.refused and re.search(case.refused, str(refusal)), f"refused for another reason: {refusal}"
        assert "\n" not in refusal.problem and refusal.remedy, f"not one line with a remedy: {refusal}"
        return f"refused: {refusal}"
    assert case.frames is not None or not case.refused, f"{decoded.frames.shape} came of what should be refused"
    assert re.search(case.damage, decoded.damage) and (case.damage or case.fewer or not decoded.damage), decoded.damage
    got, truth = decoded.frames, case.frames
    if truth is None:
        return f"frames: {got.shape}"
    assert got.shape[1:] == truth.shape[1:], f"{got.shape} came of {truth.shape}"
    assert len(got) == len(truth) or (case.fewer and len(got) < len(truth)), f"{len(got)} of {len(truth)} frames came"
    assert len(got) == len(truth) or decoded.damage or case.name.endswith(".mpeg"), "frames are missing without a word"
    whole = len(got) - (len(got) > 1 and len(got) < len(truth))  # the last may be half of one
    worst = max(
        np.mean((one.astype(float) - other) ** 2) for one, other in zip(got[:whole], truth[:whole], strict=True)
    )
    reached = 10 * np.log10(255**2 / worst) if worst else np.inf
    assert reached >= case.decibels, f"a frame has {reached:.1f} dB instead of {case.decibels}"
    return f"{len(got)} frames, {reached:.0f} dB {decoded.damage}"


def speckle(frames: int = 20, height: int = 64, width: int = 80) -> np.ndarray:
    """Moving speckle, uint8 (T, H, W): as hard to compress as ultrasound."""
    field = gaussian_filter(np.random.default_rng(0).normal(size=(frames, height, width)), (1, 1.5, 1.5))
    return (128 + 50 * field / max(field.std(), 1e-6)).clip(0, 255).astype(np.uint8)


TRUTH, LONG = speckle(), speckle(40)
FINE = {"qmin": 2, "qmax": 3, "threads": 1}
H264 = {"crf": 12, "threads": 1, "preset": "veryfast", "bf": 0}
VPX = {"crf": 4, "b": 4_000_000, "threads": 1, "cpu-used": 4}
CODECS: list[tuple[str, str, str, dict[str, Any], float]] = [  # name, encoder, pixel format, options, least decibels
    ("h264.mkv", "libx264", "yuv420p", H264, 34),
    ("h264-10-bit.mp4", "libx264", "yuv420p10le", H264, 34),
    ("hevc.mp4", "libx265", "yuv420p", {"crf": 10, "x265-params": "log-level=0"}, 33),
    ("vp8.webm", "libvpx", "yuv420p", VPX, 34),
    ("vp9-alpha.webm", "libvpx-vp9", "yuva420p", VPX, 34),
    ("theora.ogv", "libtheora", "yuv420p", {"qscale": 1180}, 30),
    ("msmpeg4.avi", "msmpeg4", "yuv420p", FINE, 34),
    ("wmv2.wmv", "wmv2", "yuv420p", FINE, 34),
    ("flv1.flv", "flv", "yuv420p", FINE, 34),
    ("mpeg1.mpg", "mpeg1video", "yuv420p", FINE, 34),
    ("mpeg2.ts", "mpeg2video", "yuv420p", FINE, 34),
    ("huffyuv.avi", "huffyuv", "yuv422p", {}, 48),
    ("ffv1-16-bit-grey.mkv", "ffv1", "gray16le", {}, 99),
    ("ffv1-rgb48.mkv", "ffv1", "rgb48le", {}, 99),
    ("png-alpha.mov", "png", "rgba", {}, 99),
    ("prores-10-bit-alpha.mov", "prores_ks", "yuva444p10le", {}, 44),
]


def encoded(codec: str, pixel_format: str, options: dict[str, Any], sound: bool = False, picture: bool = True) -> Write:
    """TRUTH with any encoder of FFmpeg; with `sound`, a second of it beside the picture."""

    def write(path: Path) -> None:
        import torch
        from torchcodec.encoders import Encoder

        encoder, size = Encoder(), {"height": TRUTH.shape[1], "width": TRUTH.shape[2], "frame_rate": 25.0}
        how = {"codec": codec, "pixel_format": pixel_format, "extra_options": options, "device": "cpu"}
        stream = encoder.add_video(**size, **how) if picture else None
        heard = encoder.add_audio(sample_rate=16000, num_channels=1) if sound else None
        with encoder.open_file(path):
            if stream:
                stream.add_frames(torch.from_numpy(TRUTH)[:, None].expand(-1, 3, -1, -1).contiguous())
            if heard:
                heard.add_samples(torch.sin(torch.arange(16000) * 0.1)[None])

    return write


def own(codec: video.Codec, frames: np.ndarray = TRUTH, suffix: str = "", keep: float = 1.0) -> Write:
    """A video by our own encoder, renamed from `suffix`, cut to a share of its bytes."""

    def write(path: Path) -> None:
        real = path.with_name(f"real{suffix or path.suffix}")
        video.encode(real, frames, 25, codec)
        size = real.stat().st_size
        os.truncate(real, size if keep == 1 else min(size - 1, max(1, round(size * keep))))
        real.rename(path)

    return write


def patched(suffix: str, *changes: tuple[bytes, int, str, tuple[int, ...]]) -> Write:
    """A video whose header is overwritten: (box or chunk, offset in its contents, struct format, values)."""

    def write(path: Path) -> None:
        (encoded("mpeg4", "yuv420p", FINE) if suffix == ".mp4" else encoded("mjpeg", "yuvj420p", FINE))(path)
        data = bytearray(path.read_bytes())
        for name, offset, form, values in changes:
            struct.pack_into(form, data, data.index(name) + (4 if suffix == ".mp4" else 8) + offset, *values)
        path.write_bytes(data)

    return write


def jpegs(*sizes: tuple[int, int], count: int = 1) -> Write:
    """Grey motion JPEG in .avi whose frames have these sizes (width, height); its header has the first."""

    def chunk(name: bytes, contents: bytes) -> bytes:
        return name + struct.pack("<I", len(contents)) + contents + b"\0" * (len(contents) % 2)

    def picture(size: tuple[int, int]) -> bytes:
        from PIL import Image

        memory = io.BytesIO()
        Image.new("L", size, 90).save(memory, "jpeg", quality=90)
        return memory.getvalue()

    def write(path: Path) -> None:
        pictures, (width, height) = [picture(size) for size in sizes] * count, sizes[0]
        frames, largest = len(pictures), max(map(len, pictures))
        avih = struct.pack("<14I", 40_000, largest * 25, 0, 16, frames, 0, 1, largest, width, height, *[0] * 4)
        strh = struct.pack("<4s4sIHH8I4H", b"vids", b"MJPG", 0, 0, 0, 0, 1, 25, 0, frames, largest, 0, 0, *[0] * 4)
        strf = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
        stream = chunk(b"LIST", b"strl" + chunk(b"strh", strh) + chunk(b"strf", strf))
        header = chunk(b"LIST", b"hdrl" + chunk(b"avih", avih) + stream)
        movie = chunk(b"LIST", b"movi" + b"".join(chunk(b"00dc", one) for one in pictures))
        path.write_bytes(chunk(b"RIFF", b"AVI " + header + movie))

    return write


def gif(width: int, height: int, frames: int = 3, behind: int = 0) -> Write:
    """A GIF that claims its size and paints one white pixel a frame in 23 bytes; `behind` it, zeros."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\4\0\0\0\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return lambda path: path.write_bytes(screen + frame * frames + b"\x3b" + bytes(behind))


class Payload:
    """Unpickling this makes the file `ran` in the current folder."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("ran", "w")


def holding(contents: bytes) -> Write:
    """A file of these bytes."""
    return lambda path: path.write_bytes(contents)


def corpus(port: int) -> list[Case]:
    """Every case; `port` of this machine is where addresses in the files lead."""
    dot = np.zeros((12, 30, 40), np.uint8)
    dot[:, 0, 0] = 255
    unsupported, limit, none = "holds no video", "limit of 16777216", "no frame that can be decoded"
    ended = f"its end is missing|{none}"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n".encode()
    box = b"\x00\x00\x00\x1cftypisom\x00\x00\x02\x00isomiso2mp41"
    noise, poison = np.random.default_rng(0).bytes(50_000), pickle.dumps(Payload())
    names = ['blank quote\'s "double".mp4', "new\nline.mp4", "Lunge äß 肺 🫁.mp4", "-i.mp4"]
    names += ["concat:a.mp4|b.mp4", "http:host.mp4", "frame%03d.jpg"]
    cuts: Sequence[tuple[str, video.Codec, float]] = [
        *(
            ("cut-in-header.mp4", "h264", 0.02),
            ("cut-in-half.mp4", "h264", 0.5),
            ("cut-last-byte.mp4", "h264", 0.99999),
        ),
        *(("cut-in-half.mkv", "h264", 0.5), ("cut-in-header.avi", "mjpeg", 0.002), ("cut-in-half.avi", "mjpeg", 0.5)),
        *(("cut-in-half.mpeg", "mpeg2video", 0.5), ("cut-early.gif", "gif", 0.1), ("cut-late.gif", "gif", 0.9)),
    ]
    shapes: Sequence[tuple[str, video.Codec, np.ndarray]] = [
        *(("1x1.gif", "gif", speckle(20, 1, 1)), ("3x5.avi", "mjpeg", speckle(20, 5, 3))),
        *(("2x2000.mp4", "h264", speckle(20, 2000, 2)), ("one-frame.mp4", "h264", speckle(1))),
    ]
    sixty, turned = 60_000, (0, -0x10000, 0, 0x10000, 0, 0, 0, 0, 0x40000000)
    return [
        *(Case(name, encoded(codec, form, how), TRUTH, least) for name, codec, form, how, least in CODECS),
        *(Case(name, own(codec, frames), frames) for name, codec, frames in shapes),
        *(Case(name, own("mjpeg", suffix=".avi"), TRUTH, 34) for name in names),
        *(Case(name, own(codec, LONG, keep=keep), LONG, fewer=True, refused=ended) for name, codec, keep in cuts),
        Case("sound-too.mp4", encoded("mpeg4", "yuv420p", FINE, sound=True), TRUTH, 34),
        Case("turned.mp4", patched(".mp4", (b"tkhd", 40, ">9i", turned)), np.rot90(TRUTH, 1, (1, 2)), 34),
        # Headers that lie.
        Case(
            "count.avi",
            patched(".avi", (b"avih", 16, "<I", (2**31 - 1,)), (b"strh", 32, "<I", (2**31 - 1,))),
            *(TRUTH, 34, "20 of 2147483647 frames"),
        ),
        Case("duration.mp4", patched(".mp4", (b"mvhd", 16, ">I", (10**9,)), (b"mdhd", 16, ">I", (10**9,))), TRUTH, 34),
        Case("fps.avi", patched(".avi", (b"strh", 20, "<2I", (1, 4_000_000))), TRUTH, 34, "is impossible"),
        Case("fps-zero.avi", patched(".avi", (b"strh", 20, "<2I", (1, 0))), TRUTH, 34),
        Case("timescale.mp4", patched(".mp4", (b"mdhd", 12, ">I", (0,))), TRUTH, 34, "|^$", fewer=True),
        Case("size.mp4", patched(".mp4", (b"stsd", 40, ">2H", (sixty,) * 2)), TRUTH, 34, refused=f"{limit}|{none}"),
        Case("size.avi", patched(".avi", (b"strf", 4, "<2I", (sixty,) * 2)), TRUTH, 34, refused=f"{limit}|{none}"),
        Case("delay.gif", gif(40, 30, 12), dot, 99),
        # What would fill memory or take days.
        Case("10000x10000.avi", jpegs((10_000, 10_000)), refused=limit),
        Case("4096x4096.avi", jpegs((4096, 4096), count=3)),
        Case("grows.avi", jpegs((80, 64), (160, 128)), refused="changes its frame size"),
        Case("explodes.avi", jpegs((80, 64), (10_000, 10_000)), refused="changes its frame size"),
        Case("claims-16000.gif", gif(16_000, 16_000), refused=limit),
        Case("claims-65535.gif", gif(65_535, 65_535), refused=f"{none}|{limit}"),
        Case("bomb.gif", gif(4_000, 4_000, 2_000), refused="unpacks 46020 bytes"),
        Case("stuffed.gif", gif(1_000, 1_000, 4_400, behind=1 << 20), refused="4295 million"),
        Case("tiny.gif", gif(16, 16, 25_000), refused="limit of 10000 frames"),
        Case("tiny.avi", jpegs((8, 8), count=10_500), refused="limit of 10000 frames"),
        Case("enlarged.gif", gif(16, 16, 500), size=740),
        Case("overfull.gif", gif(16, 16, 9_000), size=740, refused="take more than 320 MB"),
        # What is called a video and is something else.
        Case("empty.mp4", holding(b""), refused="is empty"),
        Case("text.mp4", holding(b"Dear colleague, the video follows.\n"), refused=unsupported),
        Case("pointer.mp4", holding(b"version https://git-lfs.github.com/spec/v1\n"), refused="git lfs pull"),
        Case("scan.mp4", holding(bytes(128) + b"DICM" + bytes(400)), refused="modality"),
        Case("noise.mp4", holding(noise), refused=unsupported),
        Case("noise-in-a-box.mp4", holding(box + noise), refused="its end is missing"),
        Case("pickle.mp4", holding(poison), refused=unsupported),
        Case("playlist.mp4", holding(playlist), refused=unsupported),
        Case("concat.mp4", holding(b"ffconcat version 1.0\nfile a.avi\n"), refused=unsupported),
        Case("sound.mp4", encoded("", "", {}, sound=True, picture=False), refused="has no picture"),
        Case("pipe.mp4", os.mkfifo, refused="is a pipe"),
        Case("folder.mp4", Path.mkdir, refused="is a folder"),
        Case("broken.mp4", lambda path: path.symlink_to("gone.mp4"), refused="does not exist"),
        Case("loop.mp4", lambda path: path.symlink_to(path.name), refused="Too many levels of symbolic links"),
    ]


def resident(kind: str) -> float:
    """Resident megabytes of this process: now (VmRSS) or at its peak (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for case in corpus(server.getsockname()[1]):
            if not any(part in case.name for part in sys.argv[1:] or [""]):
                continue
            faulthandler.dump_traceback_later(HANGS, exit=True)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
            before = resident("VmRSS")
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    ended, right = outcome(case, Path(folder)), True
                except Exception as error:  # whatever is not expected is the finding
                    ended, right = f"{type(error).__name__}: {error}", False
                if Path("ran").exists():
                    ended, right = "ran code", False
                if select.select([server], [], [], 0)[0]:
                    ended, right = "called an address", False
                os.chdir("/")
            ended = ended.replace(f"{folder}/", "")
            result = {"name": case.name, "right": right, "ended": ended, "megabytes": resident("VmHWM") - before}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
