"""The registered model as MLflow loads it: this very file, run as code, and the classifier's folder. No pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

from echolung.serving.classifier import Classifier


class VideoClassifier(mlflow.pyfunc.PythonModel):
    """Takes a table with the column `video` (paths that this machine can read), gives what `Classifier.predict` does.

    Research use only; not a medical device.
    """

    def load_context(self, context: Any) -> None:
        """Load the classifier from the model's artifacts."""
        self.classifier = Classifier.open(Path(context.artifacts["classifier"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Class probabilities of every video."""
        return self.classifier.predict(model_input["video"])


set_model(VideoClassifier())
