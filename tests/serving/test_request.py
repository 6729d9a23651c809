"""What a request may hold, without the server."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import described, make_model, registered, usual

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


def test_the_bytes_of_a_file_are_answered_as_the_file_is(folder: Path, model: Model) -> None:
    path = folder / "a.mp4"
    whole, lines = base64.b64encode(path.read_bytes()), base64.encodebytes(path.read_bytes())  # as `base64` writes it
    table = answer(model, pd.DataFrame({"content": [whole.decode(), lines.decode()]}))
    assert list(table["video"]) == ["content[0]", "content[1]"]
    columns = ["p_covid", "distance"]
    expected = np.repeat(model.predict([path])[columns].to_numpy(float), 2, axis=0)
    np.testing.assert_allclose(table[columns].to_numpy(float), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"content": "%%%"}, r"content\[0\] is not base64"),
        ({"content": "A" * 1_400_000}, r"content\[0\] is larger than 1 MB"),
        ({"content": TEXT}, r"^content\[0\] holds no video"),
        ({"video": "/etc/passwd"}, r"content\[0\] cannot be read: the row has none"),
        ({"content": None}, r"content\[0\] cannot be read: the row has none"),
    ],
)
def test_what_a_server_does_not_answer_is_said_in_one_line(
    model: Model, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(request, "LARGEST_MB", 1)
    with pytest.raises((RequestError, VideoError), match=said) as error:
        answer(model, pd.DataFrame([row]))
    assert "\n" not in str(error.value) and "/tmp" not in str(error.value)


@pytest.mark.parametrize("kind", ["segmentation", "regression"])
def test_a_served_heart_answers_bytes_with_areas_or_with_a_fraction_and_its_interval(
    folder: Path, model: Model, tracking: Store, kind: str
) -> None:
    import mlflow.pyfunc

    masks = SegmentationTask.parse({"kind": "segmentation", "source": "h"}, "")
    settings = UNetSettings(encoder="tu-test_resnet", image_size=32).model_dump(mode="json")
    torch.manual_seed(0)
    method: Method = Segmentation(masks, settings, Segmentation.build(settings), pd.DataFrame())
    task, name = KINDS[kind].Settings.parse({"kind": kind, "source": "h"} | LABELS[kind], ""), "segmentation"
    if kind == "regression":
        method, name = (
            EjectionFraction(method, Reading(), {"offset": 1, "half": 9, "fallback": 55, "common": 0}),
            "ejection-fraction",
        )
    looks = usual({"handmade": described(model, folder / "a.mp4")["handmade"]})
    made = make_model(folder, f"heart-{kind}", looks, method, name, task)
    served = mlflow.pyfunc.load_model(str(registered(tracking, f"hearts-{kind}", made).artifacts))
    content = base64.b64encode((folder / "a.mp4").read_bytes()).decode()
    table, expected = served.predict(pd.DataFrame({"content": [content]})), Model.open(made).predict([folder / "a.mp4"])
    pd.testing.assert_frame_equal(table.drop(columns="video"), expected.drop(columns="video"), rtol=1e-4)
    if kind == "regression":
        assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(
            [table.loc[0, "predicted"] + at for at in (-9, 9)]
        )
    else:
        assert 0 <= table.loc[0, "left ventricle, smallest %"] <= table.loc[0, "left ventricle, largest %"] <= 100


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
        served.predict(pd.DataFrame({"content": [TEXT]}))
    assert type(error.value).__name__ == "Refused"
    assert error.value.get_http_status_code() == 500  # type: ignore[attr-defined]
    assert "secret detail" not in error.value.serialize_as_json()  # type: ignore[attr-defined]
    assert "secret detail" in caplog.text
