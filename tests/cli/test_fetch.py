"""`echolung fetch echonet-dynamic` from a server on this machine: cut, resumed, checked, unpacked, or told why not."""

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import called, made_project, refused

from echolung.cli import fetch

FETCH = ("fetch", "echonet-dynamic")
TABLE = "FileName,EF,Split\n" + "".join(f"0X{n},60,TRAIN\n" for n in range(3))


def packed(videos: int = 3, table: str = TABLE) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("EchoNet-Dynamic/FileList.csv", table)
        for number in range(videos):
            archive.writestr(f"EchoNet-Dynamic/Videos/0X{number}.avi", bytes(range(256)) * 40)
    return stream.getvalue()


class Server(HTTPServer):
    """Serves `content`, at most `cut` bytes of it the first time, or refuses with `code`."""

    content, cut, code = packed(), 10**9, 200

    def __init__(self) -> None:
        self.begins: list[int] = []  # where each answer began
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.code != 200:
            return self.send_error(self.server.code)
        begin = int(self.headers.get("Range", "bytes=0-").split("=")[1].rstrip("-"))
        self.server.begins.append(begin)
        self.send_response(206 if begin else 200)
        size = len(self.server.content)
        self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        self.wfile.write(self.server.content[begin : begin + self.server.cut])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(made_project(tmp_path))
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv(fetch.VARIABLE, f"http://127.0.0.1:{found.server_port}/echonet.zip?signature=secret")
        yield found
        found.shutdown()


def test_a_download_that_is_cut_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    place, half = tmp_path / "data" / "raw", len(server.content) // 2 + 1
    server.cut = half
    assert "goes on where it stopped" in refused(*FETCH)
    server.cut = 10**9
    assert "3 videos in" in called(*FETCH) and server.begins == [0, half]
    assert sorted(path.name for path in (place / "echonet-dynamic").iterdir()) == ["FileList.csv", "Videos"]
    assert [path.name for path in place.iterdir()] == ["echonet-dynamic"], "nothing is left of the archive"
    assert "exists" in refused(*FETCH)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"content": b"<html>log in</html>"}, "is not a whole EchoNet-Dynamic (File is not a zip file)"),
    ({"content": packed().replace(b"\x09\x0a", b"\x09\x0b", 1)}, "(Bad CRC-32 for file"),
    ({"content": packed(videos=2)}, "(the archive lacks 1 videos: 0X2.avi)"),
    ({"content": packed(table="a,b\n1,2\n")}, "FileList.csv has no column 'FileName'"),
    ({"code": 403}, "refused the link in ECHONET_DYNAMIC_URL"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_a_failure_says_what_to_do_and_unpacks_nothing(server, tmp_path, change, said) -> None:
    vars(server).update(change)
    output, remedy = refused(*FETCH), "Ask for a new link" if "code" in change else "Delete it"
    assert said in output and remedy in output and "secret" not in output, output
    assert not (tmp_path / "data/raw/echonet-dynamic").exists()


def test_no_network_and_no_link(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for link, said in (("http://127.0.0.1:1/x.zip", "Check the network"), ("file:///etc/passwd", "holds no URL")):
        monkeypatch.setenv(fetch.VARIABLE, link)
        assert said in refused(*FETCH)
