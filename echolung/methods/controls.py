"""The controls `majority`, `constant`, `source-only` and `hand-made`: no encoder, the same folds."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Self

import numpy as np
import pandas as pd

from echolung.core.parameters import Parameters
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.regression import regression_of
from echolung.kinds.task import Task
from echolung.methods import ridge
from echolung.methods.cohort import Cohort, of_units
from echolung.methods.handmade import handmade_table
from echolung.methods.method import Rows
from echolung.methods.tabular import Tabular


class Majority(Tabular):
    """The class frequencies of the training videos, each patient counting once where patients are the unit."""

    kinds = ("classification",)
    Settings = Parameters

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(index=list(sample_ids))

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        classes = len(classes_of(task))
        frequencies = Cohort.of(training, task.unit).frequencies(classes)
        with np.errstate(divide="ignore"):  # a class without a video
            weights = {"coefficients": np.zeros((classes, 0)), "intercepts": np.log(frequencies)}
        return cls([], weights, pd.DataFrame())


class Constant(Majority):
    """The median of the training units: no constant has a lower absolute error on them."""

    kinds = ("regression",)

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        cohort = Cohort.of(training, task.unit)
        y = of_units(training["y"].to_numpy(float), cohort.unit)
        half = ridge.conformal(np.abs(y - np.median(y)), regression_of(task).coverage)
        weights = {"coefficients": np.zeros((1, 0)), "intercepts": np.array([np.median(y)]), "half": np.array([half])}
        return cls([], weights, pd.DataFrame())


class SourceOnly(Tabular):
    """Frame size, rate, length, container and codec: what can be predicted without looking at the picture."""

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        rows = recordings.manifest(sample_ids)
        numbers = {f"log_{name}": np.log2(rows[name].astype(float)) for name in ("height", "width", "frames")}
        kinds = {"container": [PurePath(str(path)).suffix.lower() for path in rows["path"]], "codec": rows["codec"]}
        dummies = pd.get_dummies(pd.DataFrame(kinds, index=rows.index).astype(str), dtype=float)
        return pd.concat([pd.DataFrame(numbers).assign(fps=rows["fps"].astype(float)), dummies], axis=1)


class HandMade(Tabular):
    """Brightness, texture and motion: what needs no network."""

    code = (*Tabular.code, "echolung.methods.handmade")

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: Sequence[str]) -> pd.DataFrame:
        return handmade_table(recordings, sample_ids)
