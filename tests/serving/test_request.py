"""What a request may hold, without the server."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_models import registered

from echolung.core.errors import RequestError, VideoError
from echolung.serving import request
from echolung.serving.model import Model
from echolung.serving.request import answer
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]
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
