"""What is called a video and is none: other files, playlists of other files, and things that are no files"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_corpus.cases import Case, Place, decoded, speckle

from echolung.data import video


class Payload:
    """A pickle of this makes the canary when it is opened."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.canary, "w")


def disguised() -> list[Case]:
    """Files of other kinds under a video's name."""
    contents: list[tuple[str, str, Callable[[Place], bytes], str]] = [
        ("empty.mp4", "0 bytes", lambda place: b"", "is empty"),
        ("text.mp4", "a text", lambda place: b"Dear colleague, the video follows.\n", "but a text"),
        ("page.mp4", "a page that asks for a password", lambda place: b"<!DOCTYPE html><html>Log in", "a web page"),
        ("pointer.mp4", "what Git LFS leaves of a file", _pointer, "a Git LFS pointer"),
        ("picture.mp4", "a PNG", lambda place: _picture("png"), "a picture"),
        ("picture.avi", "a JPEG", lambda place: _picture("jpeg"), "a picture"),
        ("archive.mp4", "a zip", lambda place: _archive(), "a zip archive"),
        ("scan.mp4", "a DICOM file", lambda place: bytes(128) + b"DICM" + bytes(400), "a DICOM file"),
        ("noise.mp4", "random bytes", lambda place: _noise(), "no format that is known"),
        (
            "noise-in-a-box.mp4",
            "random bytes behind the first box of an mp4",
            _boxed_noise,
            "is not a video, or its end",
        ),
        ("pickle.mp4", "a pickle that runs code", _pickle, "never opened"),
        ("playlist.mp4", "an HLS playlist of an address", _playlist, "names other files"),
        ("concat.mp4", "an ffconcat list of a video beside it", _concat, "names other files"),
        ("stream.mp4", "an SDP description of a network stream", _stream, "network stream"),
    ]
    return [
        *(Case(name, what, _holding(make), decoded, refused) for name, what, make, refused in contents),
        Case("sound.avi", "a WAV", _sound("sound.wav"), decoded, "sound \\(WAV\\)"),
        Case("sound.mp4", "an mp4 without a picture", _sound("sound.mp4"), decoded, "holds no video"),
    ]


def not_files() -> list[Case]:
    """Things of a file system that have a name and no contents of their own."""
    made: list[tuple[str, str, Callable[[Place], object], str]] = [
        ("pipe.mp4", "a named pipe that nobody writes to", lambda place: os.mkfifo(place.path), "a pipe"),
        ("folder.mp4", "a folder", lambda place: place.path.mkdir(), "is a folder"),
        ("broken-link.mp4", "a link to nothing", lambda place: place.path.symlink_to("gone.mp4"), "a link to gone.mp4"),
        ("loop.mp4", "a link to itself", lambda place: place.path.symlink_to("loop.mp4"), "leads back to itself"),
    ]
    denied = "may not be read" if os.geteuid() else "but a text"  # root may read everything
    made.append(("forbidden.mp4", "a file that only root may read", _forbidden, denied))
    return [Case(name, what, make, decoded, refused) for name, what, make, refused in made]


def _holding(contents: Callable[[Place], bytes]) -> Callable[[Place], object]:
    return lambda place: place.path.write_bytes(contents(place))


def _pointer(place: Place) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def _picture(form: str) -> bytes:
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(speckle(1)[0]).save(memory, form)
    return memory.getvalue()


def _archive() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("clip.mp4", b"")
    return memory.getvalue()


def _noise() -> bytes:
    return np.random.default_rng(0).bytes(50_000)


def _boxed_noise(place: Place) -> bytes:
    return b"\x00\x00\x00\x1cftypisom\x00\x00\x02\x00isomiso2mp41" + _noise()


def _pickle(place: Place) -> bytes:
    return pickle.dumps(Payload(str(place.canary)))


def _playlist(place: Place) -> bytes:
    address = f"http://127.0.0.1:{place.port}/segment.ts"
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n".encode()


def _concat(place: Place) -> bytes:
    video.encode(place.folder / "secret.avi", speckle(), 25, "mjpeg")
    return b"ffconcat version 1.0\nfile secret.avi\n"


def _stream(place: Place) -> bytes:
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0"]
    return "\r\n".join([*lines, f"m=video {place.port} RTP/AVP 33", ""]).encode()


def _sound(name: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        import torch
        from torchcodec.encoders import AudioEncoder

        wave = torch.sin(torch.arange(16000) * 0.1)[None]
        AudioEncoder(wave, sample_rate=16000).to_file(str(place.folder / name))
        (place.folder / name).rename(place.path)

    return make


def _forbidden(place: Place) -> None:
    place.path.write_bytes(b"x")
    place.path.chmod(0)
