"""Videos of every kind, whole, lying, cut and huge: each with the frames that were put into it"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from hostile_corpus.cases import Case, Place, Wrong, decoded, frames_of, speckle
from hostile_corpus.surgery import (
    among_pictures,
    claiming_gif,
    counting_avi,
    counting_mp4,
    encoded,
    jpegs,
    lasting,
    patched_avi,
    patched_mp4,
    rated,
    sized_avi,
    sized_mp4,
    slowed,
    still,
    turned,
    written,
)

from echolung.data import video
from echolung.data.clips import letterbox

FINE = {"qmin": 2, "qmax": 3, "threads": 1}
H264 = {"crf": 12, "threads": 1, "preset": "veryfast", "bf": 0}
VPX = {"crf": 4, "b": 4_000_000, "threads": 1, "cpu-used": 4}
# name, encoder, pixel format, encoder's options, least decibels
KINDS: list[tuple[str, str, str, dict[str, Any], float]] = [
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
    ("qtrle-alpha.mov", "qtrle", "argb", {}, 99),
    ("png-alpha.mov", "png", "rgba", {}, 99),
    ("prores-10-bit-alpha.mov", "prores_ks", "yuva444p10le", {}, 44),
]
NAMES = [
    ('blank quote\'s "double".mp4', "blanks and quotes in its name"),
    ("new\nline.mp4", "a new line in its name"),
    ("Lunge \u00e4\u00df \u80ba \U0001fac1.mp4", "letters of three scripts in its name"),
    ("-i.mp4", "a name that begins with a dash"),
    ("concat:a.mp4|b.mp4", "a name that FFmpeg reads as two files"),
    ("http:host.mp4", "a name that FFmpeg reads as an address"),
]
SHAPES: list[tuple[str, tuple[int, int, int], video.Codec]] = [
    ("1x1.gif", (20, 1, 1), "gif"),
    ("3x5.avi", (20, 5, 3), "mjpeg"),
    ("2x2000.mp4", (20, 2000, 2), "h264"),
    ("one-frame.mp4", (1, 64, 80), "h264"),
]
CUTS: list[tuple[str, video.Codec, float]] = [  # which part of the file is left
    ("cut-in-header.mp4", "h264", 0.02),
    ("cut-in-half.mp4", "h264", 0.5),
    ("cut-last-byte.mp4", "h264", 0.99999),
    ("cut-in-half.mkv", "h264", 0.5),
    ("cut-in-header.avi", "mjpeg", 0.002),
    ("cut-in-half.avi", "mjpeg", 0.5),
    ("cut-in-half.mpeg", "mpeg2video", 0.5),
    ("cut-late.mpeg", "mpeg2video", 0.95),
    ("cut-early.gif", "gif", 0.1),
    ("cut-late.gif", "gif", 0.9),
]


def kinds() -> list[Case]:
    """Every codec, container and pixel format that an archive may hold."""
    truth = speckle()
    return [
        Case(
            name,
            f"{codec} in {pixels}",
            functools.partial(encoded, frames=truth, codec=codec, pixel_format=pixels, options=options),
            frames_of(truth, least),
        )
        for name, codec, pixels, options, least in KINDS
    ]


def shapes() -> list[Case]:
    """Sizes, lengths, sound, rotation and names that are odd and right."""
    truth = speckle()
    intact = frames_of(truth, 34)
    sound = functools.partial(encoded, frames=truth, codec="mpeg4", pixel_format="yuv420p", options=FINE, sound=True)
    series = "a name that FFmpeg reads as a series of pictures beside it"
    return [
        *(
            Case(
                name,
                f"{w} x {h} pixels, frames: {t}",
                written(speckle(t, h, w), codec),
                frames_of(speckle(t, h, w), 30),
            )
            for name, (t, h, w), codec in SHAPES
        ),
        *(Case(name, what, written(truth, "mjpeg", ".avi"), intact) for name, what in NAMES),
        Case("frame%03d.jpg", series, among_pictures(truth), intact),
        Case("sound-too.mp4", "sound beside the picture", sound, intact),
        Case(
            "turned.mp4",
            "rotated by 90 degrees in its header",
            patched_mp4(truth, turned),
            frames_of(np.rot90(truth, 1, (1, 2)), 34),
        ),
    ]


def lies() -> list[Case]:
    """Headers that say what is not so."""
    truth = speckle()
    intact, slow = frames_of(truth, 34), frames_of(truth, 34, fps=19 / (10 * 0.04 + 9 * 0.12))
    counted = frames_of(truth, 34, damage="20 of 2147483647 frames are in the file")
    rushed = frames_of(truth, 34, fps=4e6, damage="none of a recording")
    timeless, some = frames_of(truth, 34, fps=None), frames_of(truth, 34, cut=True)
    stopped = frames_of(truth, 34, fps=None, cut=True, damage="none of a recording|^$")
    dots = frames_of(_dot(12, 30, 40), 99, fps=None)
    sixty = "header claims 60,000 x 60,000 pixels"
    nothing, too_large = "no frame that can be decoded", "limit of 16777216|no frame that can be decoded"
    return [
        Case("uneven.mp4", "variable rate: half of it three times slower", patched_mp4(truth, slowed), slow),
        Case("count.avi", "header counts 2,147,483,647 frames", patched_avi(truth, counting_avi), counted),
        Case("count.mp4", "89,000,000 frames of 1 byte", patched_mp4(truth, counting_mp4), some, nothing, either=True),
        Case("duration.mp4", "header claims 1,000 times the duration", patched_mp4(truth, lasting), intact),
        Case("fps.avi", "header claims 4,000,000 frames per second", patched_avi(truth, rated(4_000_000)), rushed),
        Case("fps-zero.avi", "header claims no frame per second", patched_avi(truth, rated(0)), timeless),
        Case("timescale.mov", "its clock does not tick", patched_mp4(truth, still), stopped),
        Case("size.mp4", sixty, patched_mp4(truth, sized_mp4), intact, too_large, either=True),
        Case("size.avi", sixty, patched_avi(truth, sized_avi), intact, too_large, either=True),
        Case("delay.gif", "a GIF without delay", claiming_gif(40, 30, 12, delay=0), dots),
    ]


def huge() -> list[Case]:
    """What would fill memory or days."""
    limit, grows = "more than the limit of 16777216", "changes its size"
    grown, exploded = [(80, 64)] * 6 + [(160, 128)] * 2, [(80, 64)] * 6 + [(10_000, 10_000)]
    sixteen, all_bits = claiming_gif(16_000, 16_000), claiming_gif(65_535, 65_535)
    bomb, stuffed = claiming_gif(4_000, 4_000, 2_000), claiming_gif(1_000, 1_000, 4_400, behind=1 << 20)
    tiny, tiny_jpegs = claiming_gif(16, 16, 25_000), jpegs([(8, 8)] * 10_500)
    wide = functools.partial(_enlarged, frames=500, size=740)
    too_wide, too_many = functools.partial(_enlarged, frames=9_000, size=740), "more than the limit of 10000 frames"
    return [
        Case("10000x10000.avi", "a real frame of 10,000 x 10,000 pixels", jpegs([(10_000, 10_000)]), decoded, limit),
        Case("4096x4096.avi", "4,096 x 4,096 pixels, the largest frames accepted", jpegs([(4096, 4096)] * 3), _boxed),
        Case("grows.avi", "frames of 80 x 64, then of 160 x 128", jpegs(grown), decoded, grows),
        Case("explodes.avi", "frames of 80 x 64, then one of 10,000 x 10,000", jpegs(exploded), decoded, grows),
        Case("claims-16000.gif", "87 bytes that claim 16,000 x 16,000 pixels", sixteen, decoded, limit),
        Case("claims-65535.gif", "87 bytes that claim 65,535 x 65,535", all_bits, decoded, f"no frame|{limit}"),
        Case("bomb.gif", "2,000 frames of 4,000 x 4,000 pixels in 46 KB", bomb, decoded, "unpacks 46020 bytes"),
        Case("stuffed.gif", "4,400 frames of 1,000 x 1,000 pixels, and zeros", stuffed, decoded, "4295 million"),
        Case("tiny.gif", "25,000 frames of 16 x 16 pixels in 575 KB", tiny, decoded, too_many),
        Case("tiny.avi", "10,500 frames of 8 x 8 pixels", tiny_jpegs, decoded, too_many),
        Case("enlarged.gif", "500 frames of 16 x 16 pixels, wanted at 740 x 740", claiming_gif(16, 16, 500), wide),
        Case("overfull.gif", "9,000 of them", claiming_gif(16, 16, 9_000), too_wide, "fill more than 320 MB"),
    ]


def cut() -> list[Case]:
    """Cut off at ten places."""
    truth = speckle(40)
    missing = "not a video, or its end is missing|no frame"
    cases = []
    for name, codec, left in CUTS:
        # An MPEG program stream promises nothing: cut cleanly, it is a shorter recording.
        read = _beginning if name.endswith(".mpeg") else frames_of(truth, 30, fps=None, cut=True)
        what = f"{codec}, all behind {left:.1%} missing" if left < 0.999 else f"{codec}, its last byte missing"
        cases.append(Case(name, what, functools.partial(_cut, truth, codec, left), read, missing, either=True))
    return cases


def _cut(truth: np.ndarray, codec: video.Codec, left: float, place: Place) -> None:
    video.encode(place.path, truth, 25, codec)
    size = place.path.stat().st_size
    os.truncate(place.path, min(size - 1, max(1, round(size * left))))


def _beginning(place: Place) -> str:
    truth = speckle(40)
    return frames_of(truth[: len(video.decode(place.path).frames)], 30, cut=True)(place)


def _boxed(place: Place) -> str:
    """Reads by the way that ingest takes, against the grey that was drawn."""
    frames = video.decode(place.path, functools.partial(letterbox, size=96)).frames
    if frames.shape != (3, 96, 96) or np.abs(frames.astype(int) - 90).max() > 2:
        raise Wrong(f"{frames.shape}, grey {frames.min()} to {frames.max()} came of 90")
    return "3 frames, exact to 2 of 255"


def _enlarged(place: Place, frames: int, size: int) -> str:
    """Reads by the way that ingest takes, where that makes the frames larger than they are."""
    shape = video.decode(place.path, functools.partial(letterbox, size=size)).frames.shape
    if shape != (frames, size, size):
        raise Wrong(f"{shape} came of {frames} frames")
    return str(shape)


def _dot(frames: int, height: int, width: int) -> np.ndarray:
    """What `claiming_gif` shows: black, with its first pixel white."""
    shown = np.zeros((frames, height, width), np.uint8)
    shown[:, 0, 0] = 255
    return shown
