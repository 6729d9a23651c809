"""What a server answers, without the server: limits, paths, bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from small_models import registered

from echolung.core.errors import RequestError, SettingsError, VideoError
from echolung.serving.model import Model
from echolung.serving.request import LARGEST_VARIABLE, ROOT_VARIABLE, Limits, answer
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (ROOT_VARIABLE, LARGEST_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_server_reads_below_its_folder_and_a_users_own_program_anywhere(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.chdir(tmp_path)
    assert Limits.of_environment(serving=True).root == tmp_path
    assert Limits.of_environment(serving=False).root is None
    (tmp_path / "ward").mkdir()
    bare.setenv(ROOT_VARIABLE, "ward")
    bare.setenv(LARGEST_VARIABLE, "3")
    assert Limits.of_environment(serving=True) == Limits(tmp_path / "ward", 3_000_000)
    assert Limits.of_environment(serving=False).root == tmp_path / "ward"


@pytest.mark.parametrize(
    ("variable", "value"),
    [(ROOT_VARIABLE, "/nowhere"), (LARGEST_VARIABLE, "many"), (LARGEST_VARIABLE, "0"), (LARGEST_VARIABLE, "-1")],
)
def test_an_invalid_setting_is_named(bare: pytest.MonkeyPatch, variable: str, value: str) -> None:
    bare.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as error:
        Limits.of_environment(serving=True)
    assert error.value.remedy


def test_pipes_links_out_of_the_folder_and_odd_names_are_refused_in_one_line(model: Model, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.mkfifo(root / "pipe.mp4")  # opening it would wait forever
    (root / "one.mp4").symlink_to(root / "two.mp4")
    (root / "two.mp4").symlink_to(root / "one.mp4")
    (tmp_path / "secret.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    for sent in ("pipe.mp4", "one.mp4", "link.mp4", "../secret.mp4", "/etc/passwd", "x" * 5000, "y\nz", "a\0b"):
        with pytest.raises((RequestError, VideoError)) as error:
            answer(model, pd.DataFrame({"video": [sent]}), Limits(root, 10**6))
        assert len(str(error.value)) < 700 and "\n" not in str(error.value), sent


def test_an_internal_error_goes_to_the_log_and_not_to_the_client(
    folder: Path, tracking: Store, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc

    served = mlflow.pyfunc.load_model(str(registered(tracking, "inside", folder / "whole" / "model").artifacts))

    class Broken:
        def predict(self, videos: object) -> pd.DataFrame:
            raise ZeroDivisionError("secret detail")

    served.unwrap_python_model().model = Broken()
    with pytest.raises(Exception, match="internal error") as error:
        served.predict(pd.DataFrame({"video": [str(folder / "a.mp4")]}))
    assert type(error.value).__name__ == "Refused"
    assert error.value.get_http_status_code() == 500  # type: ignore[attr-defined]
    assert "secret detail" not in error.value.serialize_as_json()  # type: ignore[attr-defined]
    assert "secret detail" in caplog.text
