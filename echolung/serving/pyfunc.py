"""The registered model as MLflow loads it: this file, run as code, and the model's folder. No pickle."""

import json
import logging
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from echolung.core.errors import EcholungError, RequestError, VideoError
from echolung.serving.model import Model
from echolung.serving.request import answer


class Refused(MlflowException):
    """An error as a server answers it: one line; HTTP 400 for a bad request, 500 otherwise."""

    def __init__(self, line: str, error_code: int) -> None:
        super().__init__(line, error_code=error_code)
        self.line = line  # MLflow adds the request's data to `message`

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.line})


class VideoModel(mlflow.pyfunc.PythonModel):
    """Takes a table with `content`, a video file's bytes as base64, in each row, and answers like `Model.predict`.
    For research use only; not a medical device."""

    def load_context(self, context: Any) -> None:
        self.model = Model.open(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row per row of `model_input`; raises Refused if one cannot be answered."""
        try:
            return answer(self.model, model_input)
        except (RequestError, VideoError) as error:
            raise Refused(str(error), BAD_REQUEST) from error
        except EcholungError as error:
            raise Refused(str(error), INTERNAL_ERROR) from error
        except Exception as error:  # the trace belongs in the server's log, not in the answer
            logging.getLogger(__name__).exception("a request could not be answered")
            raise Refused(f"internal error ({type(error).__name__}): see the server's log", INTERNAL_ERROR) from error


set_model(VideoModel())
