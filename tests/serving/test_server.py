"""`mlflow models serve`, started for real: paths and bytes are answered alike, the rest is refused in one line."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import TASK, registered

from echolung.serving.model import Model
from echolung.serving.request import LARGEST_VARIABLE, ROOT_VARIABLE
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]

STUDY = "served"
PATIENCE = 180  # seconds until a server that does not answer has failed; it answers after about ten


@dataclass(frozen=True)
class Server:
    """A running server, the folder it reads, and where it puts what it is sent."""

    port: int
    root: Path
    temporary: Path

    def post(self, rows: list[dict[str, Any]]) -> tuple[int, Any]:
        """Status and JSON body of the answer to these rows."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations",
            json.dumps({"dataframe_records": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(folder: Path, tracking: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The champion, as MLflow serves it, reading below the folder of the two videos."""
    registered(tracking, STUDY, folder / "whole" / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path_factory.mktemp("server")
    (place / "tmp").mkdir()
    secret = place / "secret.avi"
    secret.write_bytes((folder / "b.avi").read_bytes())
    (folder / "link.avi").symlink_to(secret)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    variables |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": tracking.uri,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(place / "tmp"),
        ROOT_VARIABLE: str(folder),
        LARGEST_VARIABLE: "1",
    }
    model = f"models:/echolung-{STUDY}-{TASK}@champion"
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=place, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, port, place / "log")
            yield Server(port, folder, place / "tmp")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
    assert "Traceback" not in (place / "log").read_text()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
            return
        time.sleep(0.3)
    pytest.fail(f"the server does not answer:\n{log.read_text()}")


def sent(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_path_and_the_same_file_as_bytes_are_answered_as_by_predict(
    folder: Path, model: Model, server: Server
) -> None:
    rows: list[dict[str, Any]] = [
        {"video": str(folder / "a.mp4")},
        {"content": sent(folder / "a.mp4")},
        {"video": "b.avi"},  # below the server's folder
        {"content": base64.encodebytes((folder / "b.avi").read_bytes()).decode()},  # in lines, as `base64` writes it
    ]
    status, body = server.post(rows)
    assert status == 200, body
    expected = model.predict([folder / "a.mp4", folder / "b.avi"]).to_dict("records")
    assert sorted(row["outside"] for row in expected) == [False, True]
    names = [row["video"] for row in body["predictions"]]
    assert names == [str(folder / "a.mp4"), "content[1]", "b.avi", "content[3]"]
    for found, wanted in zip(body["predictions"], np.repeat(expected, 2), strict=True):
        for name, value in wanted.items():
            if name != "video":
                assert found[name] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), name


TEXT = base64.b64encode(b"not a video at all").decode()
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"content": "%%%"}, "content[0] is not base64"),
        ({"content": "A" * 1_400_000}, "content[0] is larger than 1 MB"),
        ({"content": TEXT, "video": "a.mp4"}, "row 0 has video and content"),
        ({"video": None}, "row 0 has neither video nor content"),
        ({"video": "absent.mp4"}, "absent.mp4 does not exist"),
        ({"video": "/etc/passwd"}, "/etc/passwd is not below the folder that this server reads"),
        ({"video": "../secret.avi"}, "is not below the folder that this server reads"),
        ({"video": "link.avi"}, "is not below the folder that this server reads"),
        ({"video": "http://127.0.0.1/a.mp4"}, "http://127.0.0.1/a.mp4 does not exist"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(server: Server, row: dict[str, Any], said: str) -> None:
    status, body = server.post([row])
    assert status == 400
    assert said in body["message"]
    assert "\n" not in body["message"]
    assert set(body) == {"error_code", "message"}, "no stack trace"
    assert str(server.temporary) not in body["message"]


def test_nothing_that_was_sent_is_kept(server: Server, folder: Path) -> None:
    assert server.post([{"content": sent(folder / "a.mp4")}])[0] == 200
    assert server.post([{"content": TEXT}])[0] == 400
    assert [path for path in server.temporary.iterdir() if path.name.startswith("echolung-")] == []


def test_nothing_is_fetched(server: Server, folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"
        playlist = folder / "list.m3u8"
        playlist.write_text(PLAYLIST.format(url=url))
        for row in ({"video": url}, {"video": "list.m3u8"}, {"content": sent(playlist)}):
            status, body = server.post([row])
            assert status == 400, body
        with pytest.raises(BlockingIOError):
            listener.accept()
