"""What a server may be sent, apart from the server: limits, paths, containers."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.core.errors import RequestError, SettingsError, VideoError
from echolung.data.video import encode
from echolung.registry.models import load_pyfunc, register
from echolung.serving.model import Classifier
from echolung.serving.request import LARGEST_VARIABLE, ROOT_VARIABLE, Limits, answer
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import Store

pytest_plugins = ["small_classifier"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (ROOT_VARIABLE, LARGEST_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_server_reads_below_its_folder_and_a_program_of_ones_own_anywhere(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.chdir(tmp_path)
    assert Limits.of_environment(serving=True).root == tmp_path
    assert Limits.of_environment(serving=False).root is None
    (tmp_path / "ward").mkdir()
    bare.setenv(ROOT_VARIABLE, "ward")
    assert Limits.of_environment(serving=True).root == tmp_path / "ward"
    assert Limits.of_environment(serving=False).root == tmp_path / "ward"
    bare.setenv(LARGEST_VARIABLE, "3")
    assert Limits.of_environment(serving=True).largest == 3_000_000


@pytest.mark.parametrize(
    ("variable", "value"),
    [(ROOT_VARIABLE, "/nowhere"), (LARGEST_VARIABLE, "many"), (LARGEST_VARIABLE, "0"), (LARGEST_VARIABLE, "-1")],
)
def test_a_setting_that_makes_no_sense_is_named(bare: pytest.MonkeyPatch, variable: str, value: str) -> None:
    bare.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as error:
        Limits.of_environment(serving=True)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "h264"),
        (".mov", "mpeg4"),
        (".avi", "mpeg4"),
        (".gif", "gif"),
        (".mpeg", "mpeg2video"),
        (".mkv", "h264"),
    ],
)
def test_every_container_that_studies_hold_is_taken_whatever_it_is_called(
    folder: Path, tmp_path: Path, suffix: str, codec: str
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 48, 48), dtype=np.uint8)
    encode(tmp_path / f"clip{suffix}", frames, 25.0, codec)  # type: ignore[arg-type]
    classifier = Classifier.open(folder / "classifier")
    content = base64.b64encode((tmp_path / f"clip{suffix}").read_bytes()).decode()
    found = answer(classifier, pd.DataFrame({"content": [content]}), Limits(tmp_path, 10**7))
    wanted = classifier.predict([tmp_path / f"clip{suffix}"])
    pd.testing.assert_frame_equal(found.drop(columns="video"), wanted.drop(columns="video"))


def of_a_camcorder(stream: bytes) -> bytes:
    """A transport stream whose packets carry a time of 4 bytes before them: 192 bytes instead of 188."""
    return b"".join(bytes(4) + stream[start : start + 188] for start in range(0, len(stream), 188))


@pytest.mark.parametrize("first", ["mts", "junk", "uuid", "pict", "prfl", "udta", "skip"])
def test_the_server_takes_what_predict_takes(folder: Path, tmp_path: Path, first: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 48, 48), dtype=np.uint8)
    made = tmp_path / ("clip.ts" if first == "mts" else "clip.mp4")
    encode(made, frames, 25.0, "mpeg2video" if first == "mts" else "mpeg4")
    data = made.read_bytes()
    odd = of_a_camcorder(data) if first == "mts" else data.replace(b"ftyp", first.encode(), 1)
    (tmp_path / "odd").write_bytes(odd)
    classifier = Classifier.open(folder / "classifier")
    wanted = classifier.predict([tmp_path / "odd"]).drop(columns="video")
    for row in ({"video": "odd"}, {"content": base64.b64encode(odd).decode()}):
        found = answer(classifier, pd.DataFrame([row]), Limits(tmp_path, 10**7))
        pd.testing.assert_frame_equal(found.drop(columns="video"), wanted)


@pytest.mark.parametrize(
    ("data", "nature"),
    [
        (b"\0\0\0\x20ftypavif" + bytes(600), "a picture (AVIF)"),
        (b"\0\0\0\x20ftypheic" + bytes(600), "a picture (HEIC)"),
        (b"\0\0\0\x20ftypM4A " + bytes(600), "sound (M4A)"),
        (b"GIF8" + bytes(600), "of no format that is known here"),
        (b"G" + bytes(187) + b"G" + bytes(600), "of no format that is known here"),
        (b"", "empty (0 bytes)"),
    ],
)
def test_what_predict_refuses_at_sight_never_reaches_the_decoder(
    folder: Path, tmp_path: Path, data: bytes, nature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.mp4").write_bytes(data)
    classifier = Classifier.open(folder / "classifier")
    with pytest.raises(VideoError, match=r"is empty|is not a video but"):
        classifier.predict([tmp_path / "odd.mp4"])
    monkeypatch.setattr(Classifier, "predict", lambda *_: pytest.fail("it was handed on"))
    rows = [{"video": "odd.mp4"}, *([{"content": base64.b64encode(data).decode()}] if data else [])]
    for row in rows:
        with pytest.raises(RequestError) as error:
            answer(classifier, pd.DataFrame([row]), Limits(tmp_path, 10**7))
        assert error.value.problem.endswith(f" is no video but {nature}")
        assert "mp4" in error.value.remedy


def test_a_pipe_is_not_opened(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    with pytest.raises(RequestError, match=r"pipe\.mp4 is not there, or not a file"):
        answer(Classifier.open(folder / "classifier"), pd.DataFrame({"video": ["pipe.mp4"]}), Limits(tmp_path, 10**6))


def test_a_circle_of_links_and_an_endless_name_are_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.mp4").symlink_to(tmp_path / "two.mp4")
    (tmp_path / "two.mp4").symlink_to(tmp_path / "one.mp4")
    classifier = Classifier.open(folder / "classifier")
    for sent in ("one.mp4", "x" * 5000, "y\nz"):
        with pytest.raises(RequestError) as error:
            answer(classifier, pd.DataFrame({"video": [sent]}), Limits(tmp_path, 10**6))
        assert len(str(error.value)) < 500
        assert "\n" not in str(error.value)


def test_what_is_wrong_inside_stays_inside(folder: Path, tracking: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is nobody's fault outside goes to the log; who asked is told that it is there."""
    columns = Classifier.open(folder / "classifier").record.columns
    with stage_run(tracking, "inside", "promote", "t", {}) as run:
        model = load_pyfunc(register(tracking, run, "inside", "t", folder / "classifier", columns, {}, ""))

    class Broken:
        def predict(self, videos: object) -> pd.DataFrame:
            raise ZeroDivisionError("secret detail")

    model.unwrap_python_model().classifier = Broken()
    with pytest.raises(Exception, match="internal error") as error:
        model.predict(pd.DataFrame({"video": [str(folder / "a.mp4")]}))
    assert type(error.value).__name__ == "Refused"
    assert error.value.get_http_status_code() == 500  # type: ignore[attr-defined]
    assert "secret detail" not in error.value.serialize_as_json()  # type: ignore[attr-defined]
    assert "secret detail" in caplog.text
