"""`mlflow models serve`, started for real: bytes are answered as by predict, the rest is refused in one line."""

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

import pytest
from small_models import TASK, registered

from echolung.serving.model import Model
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]

STUDY = "served"
PATIENCE = 180  # seconds until a server that does not answer has failed; it answers after about ten


@dataclass(frozen=True)
class Server:
    """A running server, and where it puts what it is sent."""

    port: int
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
    """The champion, as MLflow serves it."""
    registered(tracking, STUDY, folder / "whole" / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path_factory.mktemp("server")
    (place / "tmp").mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    variables |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": tracking.uri,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(place / "tmp"),
    }
    model = f"models:/echolung-{STUDY}-{TASK}@champion"
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=place, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, port, place / "log")
            yield Server(port, place / "tmp")
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


def test_bytes_are_answered_as_by_predict(folder: Path, model: Model, server: Server) -> None:
    videos = [folder / "a.mp4", folder / "b.avi"]
    status, body = server.post([{"content": sent(video)} for video in videos])
    assert status == 200, body
    expected = model.predict(videos).to_dict("records")
    assert [row["outside"] for row in expected] == [False, True]
    assert [row["video"] for row in body["predictions"]] == ["content[0]", "content[1]"]
    for found, wanted in zip(body["predictions"], expected, strict=True):
        for name, value in wanted.items():
            if name != "video":
                assert found[name] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), name


TEXT = base64.b64encode(b"not a video at all").decode()


@pytest.mark.parametrize("row", [{"content": TEXT}, {"content": None}, {"video": "/etc/passwd"}])
def test_what_cannot_be_answered_is_refused_in_one_line(server: Server, row: dict[str, Any]) -> None:
    status, body = server.post([row])
    assert status == 400
    assert ("content[0] " in body["message"]) == ("content" in row) and "\n" not in body["message"]
    assert set(body) == {"error_code", "message"}, "no stack trace"
    assert str(server.temporary) not in body["message"]
    assert [path for path in server.temporary.iterdir() if path.name.startswith("echolung-")] == [], "it is deleted"
