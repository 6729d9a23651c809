"""What a served model answers: the bytes of videos, by MLflow's own server too; the rest is refused in one line."""

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
import requests
import torch
from small_models import TASK, described, make_model, registered, usual

from echolung.core.errors import RequestError, VideoError
from echolung.kinds.kinds import KINDS
from echolung.kinds.segmentation import SegmentationTask
from echolung.methods.ejection_fraction import EjectionFraction, Reading
from echolung.methods.method import Method
from echolung.methods.segmentation import Segmentation, UNetSettings
from echolung.serving import request
from echolung.serving.model import Model
from echolung.serving.request import answer
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]
LABELS: dict[str, dict[str, str]] = {"segmentation": {}, "regression": {"label": "ef", "unit": "patient"}}
TEXT = base64.b64encode(b"not a video at all").decode()


def sent(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_what_a_server_does_not_answer_is_said_in_one_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "LARGEST_MB", 1)
    for column, content, said in [
        ("content", "%%%", "is not base64"),
        ("content", "A" * 1_400_000, "is larger than 1 MB"),
        ("content", TEXT, "holds no video"),
        ("video", "/etc/passwd", "cannot be read: the row has none"),
        ("content", None, "cannot be read: the row has none"),
    ]:
        with pytest.raises((RequestError, VideoError), match=rf"content\[0\] {said}") as error:
            answer(model, pd.DataFrame([{column: content}]))
        assert "\n" not in str(error.value) and "/tmp" not in str(error.value)


@pytest.mark.parametrize("kind", ["segmentation", "regression"])
def test_a_served_heart_answers_with_areas_or_with_a_fraction_and_its_interval(folder, model, tracking, kind) -> None:
    masks = SegmentationTask.parse({"kind": "segmentation", "source": "h"}, "")
    settings = UNetSettings(encoder="tu-test_resnet", image_size=32).model_dump(mode="json")
    torch.manual_seed(0)
    method: Method = Segmentation(masks, settings, Segmentation.build(settings), pd.DataFrame())
    task, name = KINDS[kind].Settings.parse({"kind": kind, "source": "h"} | LABELS[kind], ""), "segmentation"
    if kind == "regression":
        name, constants = "ejection-fraction", {"offset": 1, "half": 9, "fallback": 55, "common": 0}
        method = EjectionFraction(method, Reading(), constants)
    looks = usual({"handmade": described(model, folder / "a.mp4")["handmade"]})
    made = make_model(folder, f"heart-{kind}", looks, method, name, task)
    served = mlflow.pyfunc.load_model(str(registered(tracking, f"hearts-{kind}", made).artifacts))
    path = folder / "a.mp4"
    table, expected = served.predict(pd.DataFrame({"content": [sent(path)]})), Model.open(made).predict([path])
    pd.testing.assert_frame_equal(table.drop(columns="video"), expected.drop(columns="video"), rtol=1e-4)
    row = table.loc[0]
    if kind == "regression":
        assert (row["low"], row["high"]) == pytest.approx((row["predicted"] - 9, row["predicted"] + 9))
    else:
        assert 0 <= row["left ventricle, smallest %"] <= row["left ventricle, largest %"] <= 100


def test_an_internal_error_goes_to_the_log_and_not_to_the_client(folder, tracking, caplog) -> None:
    served = mlflow.pyfunc.load_model(str(registered(tracking, "inside", folder / "whole" / "model").artifacts))

    class Broken:
        def predict(self, videos: object) -> pd.DataFrame:
            raise ZeroDivisionError("secret detail")

    served.unwrap_python_model().model = Broken()
    with pytest.raises(Exception, match="internal error") as error:
        served.predict(pd.DataFrame({"content": [TEXT]}))
    refused: Any = error.value
    assert type(refused).__name__ == "Refused" and refused.get_http_status_code() == 500
    assert "secret detail" not in refused.serialize_as_json() and "secret detail" in caplog.text


# --- `mlflow models serve`, started for real ---

STUDY = "served"
PATIENCE = 180  # seconds until a server that does not answer has failed; it answers after about ten


@pytest.fixture(scope="module")
def server(folder: Path, tracking: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The champion, as MLflow serves it: its address, and where it puts what it is sent."""
    registered(tracking, STUDY, folder / "whole" / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path_factory.mktemp("server")
    log, temporary, address = place / "log", place / "tmp", f"http://127.0.0.1:{port}"
    temporary.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    variables |= {"MLFLOW_TRACKING_URI": tracking.uri, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    model = f"models:/echolung-{STUDY}-{TASK}@champion"
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    options: dict[str, Any] = {"cwd": place, "env": variables, "stderr": subprocess.STDOUT, "start_new_session": True}
    with open(log, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, **options)
    try:
        until, ready = time.monotonic() + PATIENCE, False
        while not ready:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            with contextlib.suppress(requests.RequestException):
                ready = requests.get(f"{address}/ping", timeout=5).ok
            time.sleep(0.3)
        yield address, temporary
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in log.read_text()


def post(address: str, *contents: str) -> tuple[int, Any]:
    """Status and JSON body of the answer."""
    rows = {"dataframe_records": [{"content": content} for content in contents]}
    told = requests.post(f"{address}/invocations", json=rows, timeout=60)
    return told.status_code, told.json()


def test_a_server_answers_bytes_as_predict_does(folder: Path, model: Model, server: tuple[str, Path]) -> None:
    videos = [folder / "a.mp4", folder / "b.avi"]
    lines = base64.encodebytes(videos[1].read_bytes()).decode()  # as `base64` writes it
    status, body = post(server[0], sent(videos[0]), lines)
    assert status == 200, body
    expected = model.predict(videos).to_dict("records")
    assert [row["outside"] for row in expected] == [False, True]
    assert [row["video"] for row in body["predictions"]] == ["content[0]", "content[1]"]
    for found, wanted in zip(body["predictions"], expected, strict=True):
        for name, value in wanted.items():
            if name != "video":
                assert found[name] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), name


def test_a_server_refuses_in_one_line_and_deletes_what_it_was_sent(server: tuple[str, Path]) -> None:
    address, temporary = server
    status, body = post(address, TEXT)
    assert status == 400 and set(body) == {"error_code", "message"}, "no stack trace"
    assert "content[0] " in body["message"] and "\n" not in body["message"] and str(temporary) not in body["message"]
    assert list(temporary.glob("echolung-*")) == []
