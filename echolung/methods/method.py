"""What a method is: how out-of-fold answers come about. The methods there are: `echolung.methods.methods`. Dimension
letters: n recordings, K columns of a prediction, V views."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from echolung.core.parameters import Parameters
from echolung.embedding.recordings import Recordings
from echolung.kinds.task import Task
from echolung.models.exchange import weights_digest

Rows = pd.DataFrame
"""Recordings to train on: sample_id, patient_id, split_group, y, stratum, label and `inner`, the inner fold that holds
a row out, -2 for rows that always train."""


@dataclass(frozen=True)
class Drawing:
    """Structures that a method draws on its frames."""

    labels: np.ndarray  # uint8 (V, time, height, width), 0 for none; time as in `Maps.weights`
    names: Sequence[str]  # of the labels 1, 2 and so on


@dataclass(frozen=True)
class Curve:
    """A quantity over the frames of one recording, and what is read off it."""

    lines: Mapping[str, np.ndarray]  # float64 (T,) each, by name; the last one is read off
    seconds: np.ndarray  # float64 (T,): when in the video
    label: str  # what it is, and its unit
    marks: Mapping[str, Sequence[int]]  # frames of the last line, by what happens there
    readings: Sequence[str]  # what is read off at each of the last marks; part of the answer
    words: str


@dataclass(frozen=True)
class Maps:
    """What an answer for one recording rests on, drawn over its frames."""

    weights: np.ndarray  # float64 (V, time, height, width): one number per token of each view
    signed: bool
    """Contributions of either sign, 0 says nothing. Else shares of attention, 1 is an even share."""
    words: str  # what the colours mean
    drawing: Drawing | None = None
    curve: Curve | None = None


class Method(abc.ABC):
    """A fitted method."""

    kinds: ClassVar[tuple[str, ...]]  # kinds of task that it can answer (keys of `KINDS`)
    reads_tokens: ClassVar[bool] = False  # it reads an encoder's frozen tokens (`Recordings.tokens`)
    Settings: ClassVar[type[Parameters]] = Parameters  # its parameters, `fit.methods.<name>`
    code: ClassVar[tuple[str, ...]] = ()
    """Modules and packages, besides its own module, whose change makes another fit of it."""
    gpus: ClassVar[float] = 0.0  # share of a GPU that one fit asks for where there is one
    _search: pd.DataFrame = pd.DataFrame()

    @classmethod
    @abc.abstractmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        """`directory` is this fit's own: it need not exist, survives a kill, and is removed when the fit is done; a
        heavy method resumes from it. What several fits of a study share may lie beside it."""

    @classmethod
    def files(cls, settings: Any) -> list[str]:
        """Digests of the files of weights that its settings name; raises CheckpointError if one is missing."""
        return [weights_digest(place) for place in named_weights(settings.model_dump())]

    @classmethod
    def reads(cls, task: Task, recordings: Recordings, training: Rows) -> list[str]:
        """The sample ids that `fit` learns from."""
        return list(training["sample_id"])

    @abc.abstractmethod
    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        """Predictions (n, K) in the columns of the task's kind."""

    @abc.abstractmethod
    def save(self, directory: Path) -> None:
        """Write everything that `load` needs; no pickle."""

    @classmethod
    @abc.abstractmethod
    def load(cls, directory: Path) -> Self:
        """What `save` wrote; `serving.model.Model.open` says what is wrong with a folder of something else."""

    def search(self) -> pd.DataFrame:
        """The choices that the inner folds scored, one row each; empty where nothing was chosen."""
        return self._search

    def explain(self, recordings: Recordings, sample_id: str) -> Maps | None:
        """What its answer for one recording rests on; None where it cannot say."""
        return None

    @classmethod
    def modules(cls) -> tuple[str, ...]:
        """All modules whose code decides the result of a fit."""
        return (cls.__module__, *cls.code)


def named_weights(values: Any) -> list[str]:
    """What stands under `weights`, in nested parameters, too, and is not empty."""
    if not isinstance(values, dict):
        return []
    own = [values["weights"]] if values.get("weights") else []
    return own + [place for value in values.values() for place in named_weights(value)]


def device_of() -> torch.device:
    """Where networks run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
