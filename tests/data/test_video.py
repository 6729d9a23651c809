"""Videos are written and read back whole, damage is reported, and FFmpeg could open nothing but the file's bytes."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import encoded, speckle

from echolung.core.errors import VideoError
from echolung.data import containers, packets, video
from echolung.data.geometry import letterbox

FILES = ["mjpeg.avi", "h264.mp4", "h264.mov", "mpeg4.avi", "mpeg2video.mpeg", "gif.gif"]


@pytest.mark.parametrize("name", FILES)
def test_what_is_encoded_comes_back(name: str, tmp_path: Path) -> None:
    frames, path = speckle(40, 66, 90), tmp_path / name  # more than a chunk
    video.encode(path, frames, 25, path.stem)
    decoded = video.decode(path)
    assert (decoded.frames.shape, decoded.frames.dtype) == (frames.shape, np.uint8)
    error = np.mean((decoded.frames.astype(float) - frames) ** 2)
    assert error < 255**2 / 10**3.4, "a peak signal-to-noise ratio of 34 dB"
    assert (decoded.frames_declared, decoded.height, decoded.width, decoded.damage) == (40, 66, 90, "")
    assert (decoded.codec, decoded.fps) == (path.stem, pytest.approx(25, rel=1e-3))
    assert list(tmp_path.iterdir()) == [path]
    boxed = video.decode(path, 16)
    assert (boxed.height, boxed.width, boxed.pixel_aspect) == (66, 90, 1.0)
    assert np.array_equal(boxed.frames, letterbox(decoded.frames, 16)), "while decoding as afterwards"


def test_grey_keeps_its_value_and_colour_becomes_luma() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(packets.luma(np.stack([grey] * 3)), grey)
    colours = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    reference = np.tensordot([0.299, 0.587, 0.114], colours.astype(float), 1)  # ITU-R BT.601
    assert np.abs(packets.luma(colours) - reference).max() <= 1.5


def with_pixel_aspect(path: Path, across: int, down: int, turned: bool) -> None:
    """Write a box `pasp` into an mp4 of 16 pixels high and 24 wide, and if asked a quarter turn into its header."""
    content = path.read_bytes()
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4v"):
        at = content.index(name) - 4
        size = int.from_bytes(content[at : at + 4])
        content = content[:at] + struct.pack(">I", size + 16) + content[at + 4 :]
    end = at + size
    content = content[:end] + struct.pack(">I4sII", 16, b"pasp", across, down) + content[end:]
    if turned:
        at = content.index(b"tkhd") + 44
        content = content[:at] + struct.pack(">9i", 0, -0x10000, 0, 0x10000, 0, 0, 0, 0, 1 << 30) + content[at + 36 :]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("across", "down", "turned"), [(9, 8, False), (2, 3, False), (2, 1, True), (1, 1, False), (900, 1, False)]
)
def test_pixels_are_shown_as_the_container_says_unless_that_is_impossible(across, down, turned, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    video.encode(path, np.full((4, 16, 24), 200, np.uint8), 25, "mpeg4")
    content = path.read_bytes()
    assert b"pasp" not in content and content.index(b"mdat") < content.index(b"moov")  # offsets of frames stay right
    with_pixel_aspect(path, across, down, turned)
    decoded = video.decode(path, 48)
    assert (decoded.height, decoded.width) == ((24, 16) if turned else (16, 24))
    if across == 900:
        assert "900 times as wide as high" in decoded.damage and decoded.pixel_aspect == 1
    else:
        aspect = down / across if turned else across / down
        assert decoded.pixel_aspect == pytest.approx(aspect) and decoded.damage == ""
    rows, columns = np.nonzero(decoded.frames[0] > 100)
    shown = decoded.width * decoded.pixel_aspect / decoded.height
    assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(shown, rel=0.04)


def test_the_codec_s_own_pixel_aspect_counts_where_the_container_has_none(tmp_path: Path) -> None:
    for suffix in (".avi", ".mkv", ".mp4"):
        path = tmp_path / f"clip{suffix}"
        encoded("libx264", "yuv420p", {"x264-params": "sar=9/8"})(path)
        assert video.decode(path, 64).pixel_aspect == pytest.approx(9 / 8), suffix


def test_frames_without_a_timestamp_are_kept(tmp_path: Path) -> None:
    """Small frames share a packet of an MPEG program stream, and only the first of them has a timestamp."""
    still = np.repeat(speckle(1, 32, 32), 60, axis=0)
    path = tmp_path / "scanner.mpeg"
    video.encode(path, still, 25, "mpeg2video")
    decoded = video.decode(path)
    assert len(decoded.frames) == decoded.frames_declared == 60
    assert decoded.damage == "" and decoded.fps == pytest.approx(25)


def test_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "scratched.mp4"
    video.encode(path, speckle(40, 64, 64), 25, "h264")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    assert "damaged" in video.decode(path).damage


# --- what FFmpeg is given ---

HEADS: dict[bytes, str | None] = {  # besides those that tests/test_hostile.py reads
    b"\x00\x00\x00\x08wide": "mp4 or mov",
    (bytes(4) + b"\x47" + bytes(187)) * 3: "mts",
    b"RIFF\x00\x00\x00\x00WAVE": None,
    b"\x00\x00\x00\x20ftypheic": None,
    b"\x00\x00\x00\x20ftypM4A ": None,
    b"GIF8": None,
}


def test_a_container_is_known_by_its_first_bytes() -> None:
    assert {head: containers.container(head[: containers.ENOUGH]) for head in HEADS} == HEADS


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nbeside.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("text", [HLS, "ffconcat version 1.0\nfile beside.ts\n"], ids=["HLS", "ffconcat"])
def test_even_a_playlist_that_reaches_ffmpeg_opens_nothing(text: str, tmp_path, monkeypatch) -> None:
    """If the check of the first bytes failed, FFmpeg would still have only bytes and no way to open anything."""
    from torchcodec.decoders import VideoDecoder

    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8)
    video.encode(tmp_path / "beside.ts", frames, 25, "mpeg2video")
    path = tmp_path / "list.mp4"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    assert len(VideoDecoder(path)) >= 7, "FFmpeg no longer follows such lists: this test proves nothing"
    monkeypatch.setattr(containers, "container", lambda head: "mp4 or mov")
    with pytest.raises(VideoError):
        video.decode(path)
