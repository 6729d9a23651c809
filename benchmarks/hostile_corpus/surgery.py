"""Makers of videos: any encoder of this FFmpeg, and headers changed by hand until they say anything"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from hostile_corpus.cases import Place

from echolung.data import video

Make = Callable[[Place], None]
NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
FINE = {"qmin": 2, "qmax": 3, "threads": 1}


def encoded(
    place: Place, frames: np.ndarray, codec: str, pixel_format: str, options: dict[str, Any], sound: bool = False
) -> None:
    """Write grey frames with any encoder; `sound` puts a second of it beside them."""
    import torch
    from torchcodec.encoders import Encoder

    encoder = Encoder()
    grey = torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1).contiguous()
    how = {"codec": codec, "pixel_format": pixel_format, "extra_options": options, "device": "cpu"}
    stream = encoder.add_video(height=frames.shape[1], width=frames.shape[2], frame_rate=25.0, **how)
    heard = encoder.add_audio(sample_rate=16000, num_channels=1) if sound else None
    with encoder.open_file(place.path):
        stream.add_frames(grey)
        if heard:
            heard.add_samples(torch.sin(torch.arange(16000) * 0.1)[None])


def written(frames: np.ndarray, codec: video.Codec, suffix: str = "") -> Make:
    """A maker by the product's own encoder; with `suffix`, in that container under whatever name."""

    def make(place: Place) -> None:
        path = place.folder / f"real{suffix}" if suffix else place.path
        video.encode(path, frames, 25, codec)
        path.rename(place.path)

    return make


def among_pictures(frames: np.ndarray) -> Make:
    """A maker of a video beside white pictures that its name, a pattern, would find."""
    from PIL import Image

    def make(place: Place) -> None:
        for number in range(3):
            Image.new("L", (80, 64), 255).save(place.folder / f"frame{number:03d}.jpg")
        written(frames, "mjpeg", ".avi")(place)

    return make


def patched_mp4(frames: np.ndarray, change: Callable[[bytes], bytes]) -> Make:
    """A maker of MPEG-4 in .mp4 or .mov whose bytes are changed afterwards."""
    return _patched(frames, "mpeg4", "yuv420p", change)


def patched_avi(frames: np.ndarray, change: Callable[[bytes], bytes]) -> Make:
    """A maker of motion JPEG in .avi whose bytes are changed afterwards."""
    return _patched(frames, "mjpeg", "yuvj420p", change)


def _patched(frames: np.ndarray, codec: str, pixel_format: str, change: Callable[[bytes], bytes]) -> Make:
    def make(place: Place) -> None:
        encoded(place, frames, codec, pixel_format, FINE)
        place.path.write_bytes(change(place.path.read_bytes()))

    return make


def boxes(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Every box of an ISO media file, with those inside it: (offset, size, type)."""
    end = len(data) if end is None else end
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        if size < 8:
            return
        yield begin, size, kind
        if kind in NESTED:
            yield from boxes(data, begin + 8, begin + size)
        begin += size


def _box(data: bytes, kind: bytes) -> tuple[int, int]:
    """Offset and size of the first box of that kind."""
    return next((begin, size) for begin, size, found in boxes(data) if found == kind)


def _set(data: bytes, kind: bytes, offset: int, form: str, *values: int) -> bytes:
    """`data` with `values` written at `offset` into the contents of its first box of that kind."""
    out = bytearray(data)
    struct.pack_into(form, out, _box(data, kind)[0] + 8 + offset, *values)
    return bytes(out)


def _replace(data: bytes, kind: bytes, contents: bytes) -> bytes:
    """`data` with other contents in its first box of that kind; nothing may point to what lies behind it."""
    begin, size = _box(data, kind)
    out = bytearray(data)
    for start, length, found in boxes(data):
        if found in NESTED and start < begin < start + length:
            struct.pack_into(">I", out, start, length + len(contents) + 8 - size)
    out[begin : begin + size] = struct.pack(">I4s", len(contents) + 8, kind) + contents
    return bytes(out)


def _set_riff(data: bytes, chunk: bytes, offset: int, form: str, *values: int) -> bytes:
    """As `_set`, for a chunk of a RIFF file."""
    out = bytearray(data)
    struct.pack_into(form, out, data.index(chunk) + 8 + offset, *values)
    return bytes(out)


def turned(data: bytes) -> bytes:
    """The matrix of a picture that is shown a quarter turn anticlockwise."""
    return _set(data, b"tkhd", 40, ">9i", 0, -0x10000, 0, 0x10000, 0, 0, 0, 0, 0x40000000)


def slowed(data: bytes) -> bytes:
    """The second half of 20 frames at a third of the rate."""
    _, entries, frames, delta = struct.unpack_from(">4I", data, _box(data, b"stts")[0] + 8)
    assert (entries, frames) == (1, 20)
    data = data.replace(b"edts", b"free")  # its edit list would show the first 0.8 seconds and no more
    return _replace(data, b"stts", struct.pack(">6I", 0, 2, 10, delta, 10, 3 * delta))


def lasting(data: bytes) -> bytes:
    """1,000 times the duration."""
    for kind in (b"mdhd", b"mvhd"):
        (duration,) = struct.unpack_from(">I", data, _box(data, kind)[0] + 24)
        data = _set(data, kind, 16, ">I", duration * 1000)
    return data


def still(data: bytes) -> bytes:
    """A clock of no tick per second."""
    return _set(data, b"mdhd", 12, ">I", 0)


def counting_mp4(data: bytes) -> bytes:
    """89,000,000 samples of one byte each, in one chunk: as many as FFmpeg's own limit lets it note."""
    claimed = 89_000_000
    data = _replace(data, b"stsc", struct.pack(">5I", 0, 1, 1, claimed, 1))
    data = _replace(data, b"stts", struct.pack(">4I", 0, 1, claimed, 512))
    return _replace(data, b"stsz", struct.pack(">3I", 0, 1, claimed))


def sized_mp4(data: bytes) -> bytes:
    """60,000 x 60,000 pixels."""
    data = _set(data, b"tkhd", 76, ">2I", 60_000 << 16, 60_000 << 16)
    return _set(data, b"stsd", 40, ">2H", 60_000, 60_000)


def counting_avi(data: bytes) -> bytes:
    """2,147,483,647 frames."""
    return _set_riff(_set_riff(data, b"avih", 16, "<I", 2**31 - 1), b"strh", 32, "<I", 2**31 - 1)


def sized_avi(data: bytes) -> bytes:
    """60,000 x 60,000 pixels."""
    return _set_riff(_set_riff(data, b"avih", 32, "<2I", 60_000, 60_000), b"strf", 4, "<2I", 60_000, 60_000)


def rated(fps: int) -> Callable[[bytes], bytes]:
    """So many frames per second."""
    return lambda data: _set_riff(data, b"strh", 20, "<2I", 1, fps)


def jpegs(sizes: Sequence[tuple[int, int]]) -> Make:
    """A maker of grey motion JPEG whose frames have these sizes (width, height); its header says the first."""
    from PIL import Image

    def make(place: Place) -> None:
        pictures = {}
        for size in set(sizes):
            memory = io.BytesIO()
            Image.new("L", size, 90).save(memory, "jpeg", quality=90)
            pictures[size] = memory.getvalue()
        place.path.write_bytes(_avi([pictures[size] for size in sizes], *sizes[0]))

    return make


def _avi(pictures: Sequence[bytes], width: int, height: int, fps: int = 25) -> bytes:
    def chunk(name: bytes, contents: bytes) -> bytes:
        return name + struct.pack("<I", len(contents)) + contents + b"\0" * (len(contents) % 2)

    count, largest = len(pictures), max(map(len, pictures))
    avih = struct.pack("<14I", 10**6 // fps, largest * fps, 0, 16, count, 0, 1, largest, width, height, *[0] * 4)
    strh = struct.pack("<4s4sIHH8I4H", b"vids", b"MJPG", 0, 0, 0, 0, 1, fps, 0, count, largest, 0, 0, *[0] * 4)
    strf = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", strh) + chunk(b"strf", strf))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", avih) + stream)
    movie = chunk(b"LIST", b"movi" + b"".join(chunk(b"00dc", picture) for picture in pictures))
    return chunk(b"RIFF", b"AVI " + header + movie)


def claiming_gif(width: int, height: int, frames: int = 3, delay: int = 4, behind: int = 0) -> Make:
    """A maker of a GIF that claims its size and paints one white pixel a frame, in 23 bytes; `behind` it, zeros."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04" + struct.pack("<H", delay) + b"\0\0"
    frame += b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return lambda place: place.path.write_bytes(screen + frame * frames + b"\x3b" + bytes(behind)) and None
