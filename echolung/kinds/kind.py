"""What a kind of task is: the rest of the platform calls it through this class only (`echolung.kinds.kinds`).

Dimension letters: U units (videos or patients), P patients, S seeds, R repeats, K prediction columns, B resamples.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from echolung.kinds.metrics import Metric
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task

if TYPE_CHECKING:
    from echolung.evaluation.comparison import Comparison
    from echolung.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Scores:
    """The metrics of one arm: `values[metric]` is (S, B); the first column counts every patient once."""

    values: Mapping[str, np.ndarray]
    notes: Mapping[str, str] = field(default_factory=dict)  # what a reader must know of a metric, by its name


@dataclass(frozen=True)
class Captioned:
    """A figure of the report."""

    draw: Callable[[Comparison, Mapping[str, str]], Any]
    """From the tasks of the kind and the colour of each arm; None if there is nothing to draw."""
    title: str
    caption: str


class Kind(abc.ABC):
    """One kind of task."""

    Settings: ClassVar[type[Task]]  # the class of its tasks
    metrics: ClassVar[Mapping[str, Metric]]  # in the order of the tables
    paired: ClassVar[tuple[str, ...]]
    """Metrics of the main table, whose paired differences are reported; the loss is one of them."""
    loss: ClassVar[str]
    """The metric that is the mean of `losses`: the one paired test and promotion use it. Lower is better."""
    baseline: ClassVar[str]
    """The trivial method, which ignores the recording; every task has it as an arm of the same name."""
    valid: ClassVar[str]  # what holds of every prediction, in words

    @abc.abstractmethod
    def labelled(self, task: Task, manifest: pd.DataFrame) -> pd.DataFrame:
        """The manifest rows of the task with `y` (float), `stratum` (int: what folds keep even) and `label` (text).
        Raises DataError naming the rows whose label cannot be used."""

    @abc.abstractmethod
    def columns(self, task: Task) -> list[str]:
        """The K columns of a prediction."""

    @abc.abstractmethod
    def wrong(self, task: Task, values: np.ndarray) -> np.ndarray:
        """Which rows of predictions (n, K) are not valid: bool (n,)."""

    def strata(self, task: Task, y: np.ndarray) -> np.ndarray:
        """Of labels (U,): the group each is resampled with, int (U,). All in one unless a kind says otherwise."""
        return np.zeros(len(y), dtype=np.int64)

    @abc.abstractmethod
    def losses(self, task: Task, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Loss of each unit: y (U,), values (..., U, K) -> (..., U)."""

    @abc.abstractmethod
    def scores(self, units: Units, key: Key, counts: np.ndarray) -> Scores:
        """Every metric of one arm under each row of `counts` (B, P): how often each patient counts. `units` may be one
        fold alone; what is not defined there is NaN."""

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        """Further tables of one arm, by name, each a csv of the comparison. The report shows those that no figure of
        the same name draws: `estimate`, `low` and `high` in one cell, a column for each value of `metric`."""
        return {}

    def secondary(self, units: Units, key: Key, reference: Key) -> dict[str, Estimate]:
        """Other tests of a pair, by name; never the basis of a verdict."""
        return {}

    def bar(self, task: Task) -> dict[str, float]:
        """Metric -> value that a first champion must beat, besides the baseline's loss."""
        return {}

    @abc.abstractmethod
    def answer(self, task: Task, values: np.ndarray) -> pd.DataFrame:
        """Predictions (n, K) as they are shown and served; the first column is the answer, text or number."""

    def answer_columns(self, task: Task) -> dict[str, str]:
        """The columns of `answer` and their types as MLflow names them (string, double)."""
        shown = self.answer(task, np.zeros((1, len(self.columns(task)))))
        return {str(name): "double" if is_float_dtype(kind) else "string" for name, kind in shown.dtypes.items()}

    def figures(self) -> Mapping[str, Captioned]:
        """Figures of this kind for the report, by name."""
        return {}

    def plots(self, comparison: Comparison) -> dict[str, pd.DataFrame]:
        """Tables for `dvc plots`, by path below reports/<study>/plots (without .csv)."""
        return {}
