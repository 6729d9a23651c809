"""`echolung fetch echonet-dynamic` from a server on this machine: cut, resumed, checked, unpacked, or told why not."""

import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from echolung.cli import fetch
from echolung.cli.main import main

ROOT = Path(__file__).parents[2]
TABLE = "FileName,EF,Split\n" + "".join(f"0X{n},60,TRAIN\n" for n in range(3))


def packed(videos: int = 3, table: str = TABLE) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("EchoNet-Dynamic/FileList.csv", table)
        for number in range(videos):
            archive.writestr(f"EchoNet-Dynamic/Videos/0X{number}.avi", bytes(range(256)) * 40)
    return stream.getvalue()


class Server(HTTPServer):
    """Serves `content` under its ETag, `cut` bytes of it at a time, or refuses with `code`."""

    content, etag, cut, code = packed(), '"1"', 10**9, 200

    def __init__(self) -> None:
        self.begins: list[int] = []  # where each answer began
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.code != 200:
            return self.send_error(self.server.code)
        same = self.headers.get("If-Range") == self.server.etag
        begin = int(self.headers["Range"].split("=")[1].rstrip("-")) if same else 0
        self.server.begins.append(begin)
        self.send_response(206 if same else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(self.server.content) - begin))
        self.end_headers()
        self.wfile.write(self.server.content[begin : begin + self.server.cut])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv(fetch.VARIABLE, f"http://127.0.0.1:{found.server_port}/echonet.zip?signature=secret")
        yield found
        found.shutdown()


def fetched() -> Result:
    return CliRunner().invoke(main, ["fetch", "echonet-dynamic"])


def test_a_download_that_is_cut_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    place, half = tmp_path / "data" / "raw", len(server.content) // 2 + 1
    server.cut = half
    done = fetched()
    assert done.exit_code == 0 and "3 videos in" in done.output, done.output
    assert server.begins == [0, half]
    assert sorted(path.name for path in (place / "echonet-dynamic").iterdir()) == ["FileList.csv", "Videos"]
    assert [path.name for path in place.iterdir()] == ["echonet-dynamic"], "nothing is left of the archive"
    assert "exists" in fetched().output


def test_what_changed_on_the_server_is_downloaded_anew(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cut, copy = 1000, shutil.copyfileobj

    def once(*arguments: Any) -> None:
        copy(*arguments)
        server.content, server.etag, server.cut = packed(table=TABLE.replace("60", "50")), '"2"', 10**9

    monkeypatch.setattr(fetch.shutil, "copyfileobj", once)
    assert fetched().exit_code == 0 and server.begins == [0, 0]
    assert "50" in (Path("data/raw/echonet-dynamic/FileList.csv")).read_text()


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ({"code": 403}, "refused the link in ECHONET_DYNAMIC_URL (HTTP 403)", "Ask for a new link"),
        ({"cut": 0}, "does not go on (it ended early)", "Check the network"),
        ({"content": b"<html>log in</html>"}, "is not a whole EchoNet-Dynamic (File is not a zip file)", "Delete it"),
        ({"content": packed().replace(b"\x09\x0a", b"\x09\x0b", 1)}, "(Bad CRC-32 for file", "Delete it"),
        ({"content": packed(videos=2)}, "(the archive lacks 1 videos: 0X2.avi)", "Delete it"),
        ({"content": packed(table="a,b\n1,2\n")}, "FileList.csv has no column 'FileName'", "Delete it"),
    ],
)
def test_a_failure_says_what_to_do_and_unpacks_nothing(
    server: Server, tmp_path: Path, change: dict[str, Any], said: str, remedy: str
) -> None:
    vars(server).update(change)
    done = fetched()
    assert done.exit_code == 1 and said in done.output and remedy in done.output, done.output
    assert "secret" not in done.output and "Traceback" not in done.output
    assert not (tmp_path / "data/raw/echonet-dynamic").exists()


def test_no_network_no_room_and_no_link(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "disk_usage", lambda place: SimpleNamespace(free=100))
        assert "has no room for 0.0 GB" in fetched().output
    monkeypatch.setenv(fetch.VARIABLE, "http://127.0.0.1:1/x.zip")
    assert "does not go on ([Errno 111] Connection refused)" in fetched().output
    monkeypatch.setenv(fetch.VARIABLE, "file:///etc/passwd")
    assert "ECHONET_DYNAMIC_URL holds no URL" in fetched().output
