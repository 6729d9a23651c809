"""The runs of a study, in three experiments:

    echolung-<study>               one run per task and arm; outer folds are metric steps: tick two, press Compare
    echolung-<study>-pretraining   one run per encoder and seed
    echolung-<study>-stages        one run per execution of a stage

Everything goes through a client bound to an explicit address, so that any process on any machine can write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from echolung.core.errors import Stopped
from echolung.core.runtime import digest
from echolung.tracking.provenance import gone, process, provenance
from echolung.tracking.run import Run
from echolung.tracking.store import Store

if TYPE_CHECKING:
    import pandas as pd

NOTES = {
    "": "One run per task and arm. Tick a pretrained and a random one and press **Compare**, or open the chart view. "
    "`fold/...` has one step per outer fold; `..._low` and `..._high` are the ends of the 95% interval. "
    "Filter by `tags.current = 'true'` for the latest of each.",
    "pretraining": "One run per encoder and seed.",
    "stages": "One run per execution of a stage.",
}


def _name(study: str, kind: str) -> str:
    return f"echolung-{study}-{kind}" if kind else f"echolung-{study}"


def _experiment(store: Store, study: str, kind: str = "") -> str:
    """The experiment's id; created if missing, restored if someone deleted it in the browser."""
    from mlflow.exceptions import MlflowException

    name = _name(study, kind)
    with store.connected() as client:
        if client.get_experiment_by_name(name) is None:
            location = f"{store.artifacts}/{name}" if store.artifacts else None
            try:
                client.create_experiment(name, artifact_location=location, tags={"mlflow.note.content": NOTES[kind]})
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
        found = client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def _find(store: Store, experiment: str, **tags: str) -> list[Any]:
    condition = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    with store.connected() as client:
        return list(client.search_runs([experiment], condition, max_results=1000))


def close_abandoned(store: Store, study: str) -> None:
    """End as KILLED every run of the study whose process has ended without closing it."""
    with store.connected() as client:
        found = [client.get_experiment_by_name(_name(study, kind)) for kind in NOTES]
        ids = [experiment.experiment_id for experiment in found if experiment]
        running = client.search_runs(ids, "attributes.status = 'RUNNING'") if ids else []
    for run in running:
        if gone(run.data.tags.get("process", "")):
            Run(store, run.info.run_id).close("KILLED")


def _create(store: Store, experiment: str, name: str, tags: Mapping[str, Any]) -> Run:
    from mlflow.tracking.context.registry import resolve_tags

    everything = {**resolve_tags(), **provenance(store.root), "process": process(), **tags}
    texts = {key: str(value) for key, value in everything.items()}
    with store.connected() as client:
        return Run(store, client.create_run(experiment, run_name=name, tags=texts).info.run_id)


@contextlib.contextmanager
def _closing(run: Run) -> Iterator[Run]:
    """End the run with its block: FINISHED, FAILED (the tag `error` says why), or KILLED if it was stopped."""
    try:
        yield run
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped):
        run.close("KILLED")
        raise
    except BaseException as error:
        run.tag("error", f"{type(error).__name__}: {error}"[:5000])
        run.close("FAILED")
        raise
    run.close()


@contextlib.contextmanager
def stage_run(store: Store, study: str, stage: str, key: str, parameters: Mapping[str, Any]) -> Iterator[Run]:
    """The run of one execution of `stage` on `key` ("" if the stage has one item).
    Raises TrackingError if the run cannot be created; afterwards the store may fail."""
    experiment = _experiment(store, study, "stages")
    close_abandoned(store, study)
    tags = {"study": study, "stage": stage, "key": key}
    with _closing(_create(store, experiment, f"{stage}@{key}" if key else stage, tags)) as run:
        run.parameters(parameters)
        yield run


@contextlib.contextmanager
def trial_run(
    store: Store, study: str, encoder: str, seed: int, parameters: Mapping[str, Any], resume_key: str
) -> Iterator[Run]:
    """The run of one pretraining; with the same `resume_key` the same run again."""
    experiment = _experiment(store, study, "pretraining")
    fingerprint = digest([study, encoder, seed, resume_key])
    found = _find(store, experiment, fingerprint=fingerprint)
    if found:
        run = Run(store, found[0].info.run_id)
        with store.connected() as client:
            client.set_tag(run.id, "process", process())  # first, or `close_abandoned` would close it
            client.update_run(run.id, status="RUNNING")
    else:
        tags = {"study": study, "stage": "pretrain", "encoder": encoder, "seed": seed, "fingerprint": fingerprint}
        run = _create(store, experiment, f"{encoder} seed {seed}", tags)
    with _closing(run):
        if not found:
            run.parameters({"encoder": encoder, "seed": seed, **parameters})
        yield run


def search_trials(store: Store, study: str, parent: Run, trials: pd.DataFrame, curves: pd.DataFrame) -> None:
    """One closed run per trial of a search (`trial`, changes, step, score), below the run of its stage."""
    experiment = _experiment(store, study, "stages")
    for row in trials.to_dict("records"):
        tags = {"study": study, "stage": "search", "mlflow.parentRunId": parent.id}
        with _closing(_create(store, experiment, f"trial {row['trial']}", tags)) as run:
            run.parameters(
                {str(name): value for name, value in row.items() if name not in ("score", "steps", "clips", "mean")}
            )
            mine = curves[curves["trial"] == row["trial"]]
            run.series([(int(step), {"score": score}) for step, score in zip(mine["step"], mine["score"], strict=True)])


def arm_run(
    store: Store, study: str, task: str, arm: str, *, init: str, data_digest: str, parameters: Mapping[str, Any],
    metrics: Mapping[str, float | None], folds: Sequence[Mapping[str, float | None]], tags: Mapping[str, str],
) -> Run:  # fmt: skip
    """The closed run of one task and arm; the same result again is the same run. The latest has `current` = true.

    `init` is one of `echolung.tracking.arms.INITS` or `imported`, `data_digest` is of the task's split, `folds` are the
    metrics of each outer fold in the order repeat x fold: logged as `fold/<metric>`, a step each.
    """
    experiment = _experiment(store, study)
    own = {"study": study, "task": task, "arm": arm}
    content = [own, init, data_digest, parameters, metrics, folds]
    runs, fingerprint = _find(store, experiment, **own), digest(content)
    same = [run for run in runs if run.data.tags.get("fingerprint") == fingerprint and run.info.status == "FINISHED"]
    same = [run for run in same if "incomplete" not in run.data.tags]
    if same:
        current = Run(store, same[0].info.run_id)
    else:
        label = init if init == arm else f"{init} ({arm})"
        known = {**tags, **own, "init": init, "data_digest": data_digest, "fingerprint": fingerprint}
        made = _create(store, experiment, f"{label} - {task}", known)
        with _closing(made) as current:
            current.parameters({"task": task, "arm": arm, "init": init, **parameters})
            current.metrics(metrics)
            named = [{f"fold/{name}": value for name, value in fold.items()} for fold in folds]
            current.series(list(enumerate(named)))
    for old in runs:
        if old.info.run_id != current.id and old.data.tags.get("current") == "true":
            Run(store, old.info.run_id).tag("current", "false")
    current.tag("current", "true")
    return current
