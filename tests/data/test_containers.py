"""FFmpeg only gets video files, and could not open other files or addresses if it got something else."""

import numpy as np
import pytest

from echolung.core.errors import VideoError
from echolung.data import containers, video

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


LISTS = [
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nbeside.ts\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile beside.ts\n",
]


@pytest.mark.parametrize("text", LISTS, ids=["HLS", "ffconcat"])
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
