"""The registered model as MLflow loads it: this very file, run as code, and the classifier's folder. No pickle."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from echolung.core.errors import EcholungError, RequestError, VideoError
from echolung.serving.model import Classifier
from echolung.serving.request import Limits, answer


class Refused(MlflowException):
    """An error as a server answers it: one line; HTTP 400 for what was sent, 500 for what is wrong here."""

    def __init__(self, line: str, error_code: int) -> None:
        super().__init__(line, error_code=error_code)
        self.line = line

    def serialize_as_json(self) -> str:
        """MLflow would put the request's data before the line."""
        return json.dumps({"error_code": self.error_code, "message": self.line})


class VideoClassifier(mlflow.pyfunc.PythonModel):
    """Takes a table with the column `video` (paths) or `content` (a video file's bytes as base64), one of them in each
    row; gives what `Classifier.predict` does. What a server may read: `echolung.serving.request`.

    Research use only; not a medical device.
    """

    def load_context(self, context: Any) -> None:
        """Load the classifier from the model's artifacts."""
        self.classifier = Classifier.open(Path(context.artifacts["classifier"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Class probabilities of every video; raises Refused if one cannot be answered."""
        serving = bool(_MLFLOW_IS_IN_SERVING_ENVIRONMENT.get())
        try:
            return answer(self.classifier, model_input, Limits.of_environment(serving))
        except (RequestError, VideoError) as error:
            raise Refused(str(error), BAD_REQUEST) from error
        except EcholungError as error:
            raise Refused(str(error), INTERNAL_ERROR) from error
        except Exception as error:
            # A server would send the stack trace to whoever asked: it belongs in the server's log.
            logging.getLogger(__name__).exception("a request could not be answered")
            raise Refused(f"internal error ({type(error).__name__}): see the server's log", INTERNAL_ERROR) from error


set_model(VideoClassifier())
