"""The three kinds of run of a study, in three experiments, so that the one a reader wants holds nothing else:

    echolung-<study>               one run per task x arm; per-fold values are metric steps: tick two, press Compare
    echolung-<study>-pretraining   one run per pretraining trial
    echolung-<study>-stages        one run per execution of a stage

Everything goes through a client bound to an explicit address. There is no global state, so a run can be written from
any process on any machine that reaches the store.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pandas as pd

from echolung.core.errors import TrackingError
from echolung.core.runtime import digest
from echolung.tracking.provenance import gone, process, provenance
from echolung.tracking.run import Run, StageRun
from echolung.tracking.store import Store, reported

AnyRun = TypeVar("AnyRun", bound=Run)

NOTES = {
    "": "One run per task and arm: tick a pretrained and a random one and press **Compare**, or open the chart view. "
    "`fold/...` is one outer fold per step; `..._low` and `..._high` bound the 95% interval. "
    "Filter by `tags.current = 'true'` for the newest of each.",
    "pretraining": "One run per pretraining trial (arm and seed).",
    "stages": "One run per execution of a stage.",
}


def _name(study: str, kind: str) -> str:
    return f"echolung-{study}-{kind}" if kind else f"echolung-{study}"


def _experiment(store: Store, study: str, kind: str = "") -> str:
    """The experiment's id; made once, brought back if someone deleted it in the browser."""
    from mlflow.exceptions import MlflowException

    name = _name(study, kind)
    note = {"mlflow.note.content": NOTES[kind]}
    with reported(store):
        client = store.client()
        found = client.get_experiment_by_name(name)
        if found is None:
            location = f"{store.artifacts}/{name}" if store.artifacts else None
            try:
                return str(client.create_experiment(name, artifact_location=location, tags=note))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def _find(store: Store, experiment: str, tags: Mapping[str, str], status: str = "") -> list[Any]:
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    if status:
        conditions.append(f"attributes.status = '{status}'")
    with reported(store):
        return list(store.client().search_runs([experiment], " and ".join(conditions), max_results=1000))


def close_abandoned(store: Store, study: str) -> None:
    """End as KILLED every run of the study whose process was killed and left it open."""
    for kind in NOTES:
        with reported(store):
            found = store.client().get_experiment_by_name(_name(study, kind))
        for run in _find(store, found.experiment_id, {}, "RUNNING") if found else []:
            if gone(run.data.tags.get("process", "")):
                Run(store, run.info.run_id).close("KILLED")


def _create(store: Store, experiment: str, name: str, tags: Mapping[str, Any]) -> Run:
    everything = {**provenance(store.root), "process": process(), **tags}
    with reported(store):
        run = store.client().create_run(
            experiment, run_name=name, tags={key: str(value) for key, value in everything.items()}
        )
    return Run(store, run.info.run_id)


@contextlib.contextmanager
def _closing(run: AnyRun) -> Iterator[AnyRun]:
    """End the run as what its block came to: FINISHED, FAILED (with the reason), or KILLED by Ctrl-C or a signal."""
    with _interruptible():
        try:
            yield run
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            run.close("KILLED")
            raise
        except BaseException as error:
            with contextlib.suppress(TrackingError):  # the first error is the one to be told
                run.tags({"error": f"{type(error).__name__}: {error}"[:5000]})
                run.close("FAILED")
            raise
        run.close("FINISHED")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, unwind the stack as Ctrl-C does, unless someone handles it already."""
    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        if not stopping:  # often the same end is told twice: a second word must not interrupt the tidying up
            stopping.append(number)
            raise KeyboardInterrupt  # which Ray hands on as what it is, unlike SystemExit

    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def stage_run(
    store: Store, study: str, stage: str, key: str, parameters: Mapping[str, Any], tags: Mapping[str, Any] | None = None
) -> Iterator[StageRun]:
    """The run of one execution of `stage` on `key` ("" where a stage has one item).

    Raises TrackingError if the run cannot be opened; see StageRun for a store that dies later.
    """
    experiment = _experiment(store, study, "stages")
    close_abandoned(store, study)
    own = {"study": study, "stage": stage, "key": key}
    opened = _create(store, experiment, f"{stage}@{key}" if key else stage, {**(tags or {}), **own})
    with _closing(StageRun(store, opened.id)) as run:
        opened.parameters(parameters)
        yield run


@contextlib.contextmanager
def trial_run(
    store: Store,
    study: str,
    arm: str,
    seed: int,
    parameters: Mapping[str, Any],
    resume_key: str,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[StageRun]:
    """The run of one pretraining trial; called again with the same `resume_key` it goes on in the same run."""
    experiment = _experiment(store, study, "pretraining")
    own = {"study": study, "stage": "pretrain", "arm": arm, "seed": str(seed)}
    fingerprint = digest([study, arm, seed, resume_key])
    found = _find(store, experiment, {"fingerprint": fingerprint})
    if found:
        opened = Run(store, found[0].info.run_id)
        opened.tags({"process": process()})  # before it counts as running: nobody shall take it for abandoned
        with reported(store):
            store.client().update_run(opened.id, status="RUNNING")
    else:
        opened = _create(store, experiment, f"{arm} seed {seed}", {**(tags or {}), **own, "fingerprint": fingerprint})
    with _closing(StageRun(store, opened.id)) as run:
        if not found:
            opened.parameters({"arm": arm, "seed": seed, **parameters})
        yield run


@dataclass(frozen=True)
class Dataset:
    """A table an arm's run read."""

    frame: pd.DataFrame
    source: Path
    name: str
    digest: str
    context: str
    """What it was for: `training`, `evaluation`."""


@dataclass(frozen=True)
class ArmResult:
    """What the comparison knows of one arm on one task."""

    task: str
    arm: str
    init: str
    """`pretrained`, `random`, or `control` for an arm that is no encoder."""
    data_digest: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    """`balanced_accuracy`, `balanced_accuracy_low`, `balanced_accuracy_high`, ... on the task's unit of decision."""
    folds: Sequence[Mapping[str, float | None]] = ()
    """One mapping per outer fold, in the order repeat x fold; shown as `fold/<metric>` with that place as step."""
    datasets: Sequence[Dataset] = ()
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`pretrained (jepa) - pocus-pathology`."""
        label = self.init if self.init == self.arm else f"{self.init} ({self.arm})"
        return f"{label} - {self.task}"


def arm_run(store: Store, study: str, result: ArmResult) -> Run:
    """The run of one task x arm, made whole and closed; the same result again is the same run.

    The newest run of a task and arm carries the tag `current` = true, older ones false.
    """
    experiment = _experiment(store, study)
    own = {"study": study, "task": result.task, "arm": result.arm}
    content = [result.init, result.data_digest, result.parameters, result.metrics, list(result.folds)]
    fingerprint = digest([study, result.task, result.arm, *content])
    current = None
    for old in _find(store, experiment, own):
        run = Run(store, old.info.run_id)
        if old.data.tags.get("fingerprint") != fingerprint:
            if old.data.tags.get("current") == "true":
                run.tags({"current": "false"})
        elif old.info.status == "FINISHED":
            current = run
        else:  # cut off while it was written; what MLflow was told cannot be told again
            with reported(store):
                store.client().delete_run(run.id)
    if current is None:
        labels = {**result.tags, **own, "init": result.init, "data_digest": result.data_digest}
        current = _create(store, experiment, result.name, {**labels, "fingerprint": fingerprint})
        with _closing(current):
            current.parameters({"task": result.task, "arm": result.arm, "init": result.init, **result.parameters})
            current.metrics(result.metrics)
            current.series(
                [(i, {f"fold/{name}": v for name, v in fold.items()}) for i, fold in enumerate(result.folds)]
            )
            for data in result.datasets:
                current.dataset(data.frame, data.source, data.name, data.digest, data.context)
    current.tags({"current": "true"})
    return current


def compare_url(server: str, store: Store, study: str, task: str, arms: Sequence[str]) -> str:
    """The address of MLflow's page that shows the current runs of `arms` on `task` side by side.

    Raises TrackingError if an arm has no run.
    """
    experiment = _experiment(store, study)
    runs = []
    for arm in arms:
        found = _find(store, experiment, {"task": task, "arm": arm, "current": "true"})
        if not found:
            raise TrackingError(f"no run of arm {arm} on task {task} in study {study}", "Run `dvc repro` to make it.")
        runs.append(found[0].info.run_id)
    listed = json.dumps(runs, separators=(",", ":"))
    return f"{server}/#/compare-runs?runs={quote(listed)}&experiments={quote(json.dumps([experiment]))}"


def folds_url(server: str, store: Store, study: str, task: str) -> str:
    """The address of MLflow's page that draws all current arms of `task` fold by fold, with the totals below."""
    experiment = _experiment(store, study)
    condition = quote(f"tags.task = '{task}' and tags.current = 'true'")
    return f"{server}/#/experiments/{experiment}/runs?compareRunsMode=CHART&searchFilter={condition}"


def stage_times(store: Store, study: str, stages: Iterable[str]) -> pd.DataFrame:
    """What it took until each of `stages` (`Settings.stages`) last finished, in the order they began.

    A stopped stage goes on from what it kept, so that its last finished run counts together with the unfinished ones
    since the finished one before. One that was killed outright counts until that was noticed: at the latest, when the
    stage was started again. A stage that never finished has no row.

    Columns: stage, started (UTC, to the minute), minutes, runs, revision (of the code, ten digits; of every run).
    """
    unfinished: dict[str, list[Any]] = {name: [] for name in stages}
    last: dict[str, list[Any]] = {}
    runs = _find(store, _experiment(store, study, "stages"), {"study": study})
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if (name := run.info.run_name) in unfinished:
            unfinished[name].append(run)
            if run.info.status == "FINISHED":
                last[name], unfinished[name] = unfinished[name], []
    rows = [
        {
            "stage": name,
            "started": pd.Timestamp(legs[0].info.start_time, unit="ms").strftime("%Y-%m-%d %H:%M"),
            "minutes": _milliseconds(legs) / 60_000,
            "runs": len(legs),
            "revision": ", ".join(dict.fromkeys(_short(leg.data.tags.get("git_revision", "unknown")) for leg in legs)),
        }
        for name, legs in sorted(last.items(), key=lambda item: item[1][0].info.start_time)
    ]
    return pd.DataFrame(rows, columns=["stage", "started", "minutes", "runs", "revision"])


def _milliseconds(legs: Sequence[Any]) -> int:
    """How long these runs of one stage took together: none goes on when the next has begun."""
    begun = [leg.info.start_time for leg in legs[1:]]
    ends = [min(leg.info.end_time or after, after) for leg, after in zip(legs, begun, strict=False)]
    return sum(end - leg.info.start_time for leg, end in zip(legs, [*ends, legs[-1].info.end_time], strict=True))


def _short(revision: str) -> str:
    digits, changed, _ = revision.partition("+")
    return digits[:10] + ("+changed" if changed else "")
