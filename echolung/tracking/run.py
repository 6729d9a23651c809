"""A run of the tracking store. Logging failures warn once and never stop the work."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import TrackingError
from echolung.tracking.store import Store


@dataclass(frozen=True)
class Run:
    """One run; picklable, so that a worker on any machine can write to it."""

    store: Store
    id: str
    lost: list[str] = field(default_factory=list, compare=False)  # why no more is tried: each try may take seconds
    last: list[int] = field(default_factory=list, compare=False)  # the store's last step when `live` was first called

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log numbers at one step; None is left out."""
        self.series([(step, values)])

    def series(self, points: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        """Log many (step, {name: value})."""
        self._write(lambda client: client.log_batch(self.id, metrics=_metrics(points)))

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested sections become dotted names."""
        from mlflow.entities import Param

        flat = pd.json_normalize(dict(values), sep=".")
        params = [Param(str(name), str(value)) for row in flat.to_dict("records") for name, value in row.items()]
        self._write(lambda client: client.log_batch(self.id, params=params))

    def tag(self, name: str, value: str) -> None:
        self._write(lambda client: client.set_tag(self.id, name, value))

    def attach(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with everything in it, as artifacts; the same name again replaces it."""
        call = "log_artifacts" if path.is_dir() else "log_artifact"
        self._write(lambda client: getattr(client, call)(self.id, str(path), folder or None))

    def replay(self, history: pd.DataFrame) -> None:
        """Log the points of a training history (`step`, and a column per metric) that the store does not have."""

        def write(client: Any) -> None:
            for name in history.columns.drop("step"):
                there = [point.step for point in client.get_metric_history(self.id, name)]
                rows = history.loc[history[name].notna() & ~history["step"].isin(there), ["step", name]]
                points = [(int(step), {name: value}) for step, value in rows.itertuples(index=False, name=None)]
                client.log_batch(self.id, metrics=_metrics(points))

        self._write(write)

    def live(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log numbers from a training loop in any process, without waiting; `replay` adds what gets lost.
        Steps that the store has are skipped: a loop that resumes from a checkpoint repeats some."""

        def write(client: Any) -> None:
            if not self.last:
                history = client.get_metric_history(self.id, next(iter(values)))
                self.last.append(max((point.step for point in history), default=-1))
            if step > self.last[0]:
                client.log_batch(self.id, metrics=_metrics([(step, values)]), synchronous=False)

        self._write(write)

    def close(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; tag it `incomplete` if something was lost."""
        try:
            with self.store.connected() as client:
                if self.lost:
                    client.set_tag(self.id, "incomplete", self.lost[0])
                client.set_terminated(self.id, status)
        except TrackingError as error:
            if not self.lost:
                _warn(error, "This run stays open in the tracking store.")

    def _write(self, write: Callable[[Any], object]) -> None:
        if self.lost:
            return
        try:
            with self.store.connected() as client:
                write(client)
        except TrackingError as error:
            self.lost.append(error.problem)
            _warn(error, "The work continues; its record in MLflow stays incomplete.")


def _warn(error: TrackingError, meaning: str) -> None:
    print(f"warning: {error.problem}. {meaning} {error.remedy}", file=sys.stderr, flush=True)


def _metrics(points: Sequence[tuple[int, Mapping[str, float | None]]]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    pairs = [(step, name, value) for step, values in points for name, value in values.items()]
    return [Metric(name, float(value), now, step) for step, name, value in pairs if value is not None]
