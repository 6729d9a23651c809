"""A registered encoder as MLflow loads it: this file, run as code, and the encoder's folder. No pickle."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
from mlflow.models import set_model

from echolung.models.weights import load_encoder


class EncoderModel(mlflow.pyfunc.PythonModel):
    """Takes grey clips uint8 (B, T, H, W) of the encoder's `frames` at its `clip_fps`; answers tokens (B, N, D)."""

    def load_context(self, context: Any) -> None:
        self.encoder, _ = load_encoder(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Tokens float32 (B, N, D)."""
        return self.encoder.encode(torch.from_numpy(model_input)).numpy()


set_model(EncoderModel())
