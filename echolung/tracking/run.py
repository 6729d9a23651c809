"""One run: what can be written to it, from any process."""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import TrackingError
from echolung.tracking.store import Store, reported

METRICS_PER_CALL = 500  # MLflow takes at most 1000 in one call
PARAMETERS_PER_CALL = 100
LONGEST_PARAMETER = 6000
LONGEST_SKIP = 63  # points


@dataclass(frozen=True)
class Run:
    """One run of the store; picklable."""

    store: Store
    id: str

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log numbers at one step; missing ones (None) are left out."""
        self.series([(step, values)])

    def series(self, points: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        """Log many (step, {name: value}) points in few calls."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, step)
            for step, values in points
            for name, value in values.items()
            if value is not None
        ]
        with reported(self.store):
            for start in range(0, len(metrics), METRICS_PER_CALL):
                self.store.client().log_batch(self.id, metrics=metrics[start : start + METRICS_PER_CALL])

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log what the run was asked to do; nested sections become dotted names."""
        from mlflow.entities import Param

        flat = [Param(name, _parameter(value)) for name, value in flatten(values).items()]
        with reported(self.store):
            for start in range(0, len(flat), PARAMETERS_PER_CALL):
                self.store.client().log_batch(self.id, params=flat[start : start + PARAMETERS_PER_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        with reported(self.store):
            self.store.client().log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    def attach(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all it holds, with the run; the same name again replaces it."""
        with reported(self.store):
            if path.is_dir():
                self.store.client().log_artifacts(self.id, str(path), folder or None)
            else:
                self.store.client().log_artifact(self.id, str(path), folder or None)

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """Keep a table with the run; `name` ends in .csv, which the browser shows as a table."""
        with reported(self.store):
            self.store.client().log_text(self.id, frame.to_csv(index=False), name)

    def dataset(self, frame: pd.DataFrame, source: Path, name: str, data_digest: str, context: str) -> None:
        """Record which table the run read: its file, digest (at most 36 characters), columns and size."""
        import mlflow.data
        from mlflow.entities import DatasetInput, InputTag

        with reported(self.store), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about integer columns and two equal readings of a path
            data = mlflow.data.from_pandas(frame, source=str(source), name=name, digest=data_digest[:36])
            item = DatasetInput(data._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])
            self.store.client().log_inputs(self.id, datasets=[item])

    def logger(self) -> MetricsLogger:
        """A callable(step, metrics) for a training loop in any process."""
        return MetricsLogger(self.store, self.id)

    def close(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with reported(self.store):
            self.store.client().set_terminated(self.id, status)


def _forgiving(write: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(write)
    def forgiving(run: StageRun, *arguments: Any, **options: Any) -> None:
        if run.outage:  # each further try at a dead server would take seconds
            return
        try:
            write(run, *arguments, **options)
        except TrackingError as error:
            run.outage.append(error.problem)
            _warn(error, "The work goes on; its record stays incomplete.")

    return forgiving


@dataclass(frozen=True)
class StageRun(Run):
    """The run of work dearer than its record: if the store dies meanwhile, that is told once, and the work goes on."""

    outage: list[str] = field(default_factory=list)
    """What could not be written."""

    metrics = _forgiving(Run.metrics)
    series = _forgiving(Run.series)
    parameters = _forgiving(Run.parameters)
    tags = _forgiving(Run.tags)
    attach = _forgiving(Run.attach)
    table = _forgiving(Run.table)
    dataset = _forgiving(Run.dataset)

    @_forgiving
    def replay(self, history: pd.DataFrame) -> None:
        """Write the points of a training history (column step, and one per metric) that are not there yet."""
        logger = self.logger()
        for row in history.to_dict("records"):
            step = int(row.pop("step"))
            logger.waiting.append((step, {str(name): None if pd.isna(value) else value for name, value in row.items()}))
        logger.flush()

    def close(self, status: str = "FINISHED") -> None:
        """End the run; after an outage with what was lost, if the store has come back."""
        plain = Run(self.store, self.id)
        try:
            if self.outage:
                plain.tags({"incomplete": self.outage[0]})
            plain.close(status)
        except TrackingError as error:
            if not self.outage:
                _warn(error, "The record of this run stays open.")


def _warn(error: TrackingError, meaning: str) -> None:
    print(f"warning: {error.problem}. {meaning} {error.remedy}", file=sys.stderr)


@dataclass
class MetricsLogger:
    """Callable(step, metrics) for a training loop in any process; picklable.

    A point that is there already is not written twice, so a loop that goes on from a checkpoint, or a history that is
    replayed, draws one line. While the store cannot be reached the points wait in memory, and it is asked ever more
    seldom: training is neither ended nor slowed down by its bookkeeping. `flush` writes the rest, or raises
    TrackingError.
    """

    store: Store
    run_id: str
    waiting: list[tuple[int, dict[str, float | None]]] = field(default_factory=list)
    known_steps: dict[str, set[int]] = field(default_factory=dict)
    failures: int = 0
    """In a row."""
    skip: int = 0
    """Calls until the store is asked again."""

    def __call__(self, step: int, metrics: Mapping[str, float | None]) -> None:
        self.waiting.append((step, dict(metrics)))
        if self.skip:
            self.skip -= 1
            return
        try:
            self.flush()
        except TrackingError as error:
            self.skip = min(2**self.failures - 1, LONGEST_SKIP)
            self.failures += 1
            print(f"{error} Metrics wait in memory.", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Write what waits; raises TrackingError and keeps it if that fails."""
        fresh = [
            (step, {name: value for name, value in metrics.items() if step not in self._known(name)})
            for step, metrics in self.waiting
        ]
        Run(self.store, self.run_id).series(fresh)
        for step, metrics in fresh:
            for name in metrics:
                self.known_steps[name].add(step)
        self.waiting.clear()
        self.failures = 0

    def _known(self, name: str) -> set[int]:
        if name not in self.known_steps:
            with reported(self.store):
                history = self.store.client().get_metric_history(self.run_id, name)
            self.known_steps[name] = {point.step for point in history}
        return self.known_steps[name]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _parameter(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST_PARAMETER else text[: LONGEST_PARAMETER - 1] + "…"
