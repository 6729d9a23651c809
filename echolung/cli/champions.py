"""The commands about champions: promote, rollback, predict and serve; and what every command has in common."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from echolung.stage import exit_cleanly, project_root

if TYPE_CHECKING:
    from echolung.registry.candidate import Candidate
    from echolung.settings import Settings


def clean(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the command become one line with the remedy, and exit code 1."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        with exit_cleanly():
            command(*arguments, **options)

    return wrapped


def become_mlflow(arguments: list[str]) -> None:
    """Go on as `mlflow ARGUMENTS`, in this very process: Ctrl-C reaches it."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


def require_free(port: int) -> None:
    """Raise BusyError if something else listens on the port."""
    from echolung.core.errors import BusyError

    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError as error:
            raise BusyError(
                f"port {port} cannot be used ({error.strerror})", f"Choose another: --port {port % 65535 + 1}."
            ) from None


@click.command()
@click.argument("task")
@click.option("--arm", help="The arm that stands for election; promote.arm of params.yaml if left out.")
@click.option("--reset", is_flag=True, help="Begin a new line: measured against the majority class, not the champion.")
@clean
def promote(task: str, arm: str | None, reset: bool) -> None:
    """Make an arm's probe the registry's champion for TASK, if it earned it.

    The probe is refitted on all patients by the procedure whose out-of-fold scores it carries. A first champion must
    beat the majority class; a later one needs a lower log-loss than the champion on the same data and folds.

    \b
    Examples:
      echolung promote pocus-pathology
      echolung promote blues-covid --arm random
    """
    from echolung.registry.promote import promote as elect
    from echolung.settings import load
    from echolung.tracking.experiments import stage_run
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    task = settings.known_task(task)
    candidate = _candidate(root, settings, task, settings.known_arm(task, arm or settings.promote.arm))
    tracking = store(root, settings.tracking)
    bootstrap, usual = settings.compare.bootstrap, settings.promote
    with (
        _champions_lock(root, settings, task),
        stage_run(tracking, settings.study, "promote", task, {"task": task, "arm": candidate.arm}) as run,
    ):
        found = elect(tracking, run, candidate, settings.probe, usual, bootstrap=bootstrap, reset=reset)
    verb = "is the champion" if found.outcome == "promoted" else "unchanged"
    click.echo(f"{found.name} version {found.version}: {verb}.")
    for reason in found.reasons:
        click.echo(f"  because {reason}")
    click.echo(f"  {found.outside}")
    for warning in found.warnings:
        click.echo(f"  warning: {warning}")


def _champions_lock(root: Path, settings: Settings, task: str) -> contextlib.AbstractContextManager[None]:
    """One process at a time decides who is champion of a task."""
    from echolung.core.runtime import exclusive

    lock = root / "data" / "locks" / f"{settings.study}-champion@{task}.lock"
    return exclusive(lock, f"choosing the champion of {task}")


@click.command()
@click.argument("task")
@click.option("--to", type=click.IntRange(min=1), help="Version; the one that the champion followed if left out.")
@clean
def rollback(task: str, to: int | None) -> None:
    """Make an earlier champion of TASK the champion again.

    Only the alias moves: every version stays in the registry. The version must be whole, which is shown by loading it.
    Afterwards `promote` measures candidates against it, and turns away the very model that was rolled back.

    \b
    Examples:
      echolung rollback pocus-pathology
      echolung rollback pocus-pathology --to 3
    """
    from echolung.registry.rollback import roll_back
    from echolung.settings import load
    from echolung.tracking.experiments import stage_run
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    name = settings.known_task(task)
    tracking = store(root, settings.tracking)
    asked = {"task": name, "to": to or "the one before"}
    with (
        _champions_lock(root, settings, name),
        stage_run(tracking, settings.study, "rollback", name, asked),
    ):
        done = roll_back(tracking, settings.study, name, to)
    since = f", promoted {done.since}" if done.since else ""
    click.echo(f"{done.name} version {done.after}{since}: is the champion again.")
    click.echo(f"  version {done.before} stays in the registry: `echolung rollback {name} --to {done.before}`")


def _candidate(root: Path, settings: Settings, task: str, arm: str) -> Candidate:
    """Who stands for election for a task, from what `dvc repro` left on disk."""
    import pandas as pd

    from echolung.core.errors import DataError
    from echolung.data.splits import read_folds
    from echolung.evaluation.comparison import read_comparison
    from echolung.registry.candidate import Candidate

    data, spec = root / "data" / settings.study, settings.tasks[task]
    seed = settings.seeds(arm)[0]
    predictions = data / "probe" / task / "predictions.parquet"
    if not predictions.is_file():
        raise DataError(f"{predictions} does not exist", "Run `dvc repro` first.")
    return Candidate(
        study=settings.study,
        name=task,
        task=spec,
        arm=arm,
        seed=seed,
        probe=settings.compare.primary_probe,
        frame_size=settings.ingest.size,
        encoder=data / "pretrain" / arm / f"seed{seed}",
        features=data / "embed" / spec.source / arm / f"seed{seed}",
        clips=data / "ingest" / spec.source / "clips",
        folds=read_folds(data / "split" / f"{task}.csv"),
        predictions=pd.read_parquet(predictions),
        verdicts=read_comparison(data / "compare").verdicts,
    )


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--task", help="Whose champion to ask; the study's first task if left out.")
@click.option("--json", "for_programs", is_flag=True, help="For programs: one JSON object on standard output.")
@click.option(
    "--explain",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw what the answer rests on into this folder: a gif and a png of each video.",
)
@clean
def predict(videos: tuple[Path, ...], task: str | None, for_programs: bool, explain: Path | None) -> None:
    """Ask a task's champion about VIDEOS.

    A video that lies outside what the model has seen is not answered: the table says so, and in the JSON `predicted` is
    null. How often that is said by mistake was measured at promotion, and is printed.

    \b
    Examples:
      echolung predict clip.mp4
      echolung predict ward/*.mp4 --task blues-covid --json
      echolung predict clip.mp4 --explain pictures
    """
    from echolung.data.containers import opened
    from echolung.registry.models import champion
    from echolung.serving.answers import as_json, print_table
    from echolung.serving.explain import explain_videos
    from echolung.serving.model import Classifier
    from echolung.settings import load
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    name = settings.known_task(task)
    for video in videos:  # a mistaken path is said before anything is asked of it
        with opened(video):
            pass
    version = champion(store(root, settings.tracking), settings.study, name)
    classifier = Classifier.open(version.classifier)
    if explain:
        answers = explain_videos(classifier, videos, explain, f"{version.name} version {version.number}")
    else:
        answers = classifier.predict(videos)
    model = {"model": version.name, "version": version.number}
    if for_programs:
        click.echo(json.dumps(as_json(model, classifier.record, answers), indent=2))
        return
    print_table(model, classifier.record, answers)
    if explain:
        click.echo(f"{len(answers)} gif and png pictures: {explain}")
    for warning in version.tags.get("warnings", "").splitlines():
        click.echo(f"warning: {warning}", err=True)


@click.command()
@click.argument("task")
@click.option("--port", default=5001, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder below which videos are read; the present one if left out.",
)
@clean
def serve(task: str, port: int, root: Path | None) -> None:
    """Serve TASK's champion by HTTP, on this machine only (127.0.0.1).

    Rows have a `video`, a path below --root, or a `content`, the bytes of a video file as base64. Whoever may use this
    machine may ask: it has no password. The same without this command, from a folder of videos:

    \b
      export MLFLOW_TRACKING_URI=sqlite:////PROJECT/mlruns/mlflow.db
      mlflow models serve -m "models:/echolung-STUDY-TASK@champion" --env-manager local

    \b
    Examples:
      echolung serve pocus-pathology --port 5002 --root ward
      curl -s http://127.0.0.1:5002/invocations -H 'Content-Type: application/json' \\
        -d '{"dataframe_records": [{"video": "a1.mp4"}]}'
    """
    from echolung.data.ffmpeg import require_ffmpeg
    from echolung.registry.models import champion
    from echolung.serving.request import ROOT_VARIABLE, Limits
    from echolung.settings import load
    from echolung.tracking.store import store

    project = project_root()
    settings = load(project)
    place = store(project, settings.tracking)
    version = champion(place, settings.study, settings.known_task(task))
    require_ffmpeg()
    require_free(port)
    os.environ[ROOT_VARIABLE] = str((root or Path(os.environ.get(ROOT_VARIABLE) or ".")).resolve())
    Limits.of_environment(serving=True)
    os.environ |= {"MLFLOW_TRACKING_URI": place.uri, "MLFLOW_REGISTRY_URI": place.uri}
    # MLflow starts its server by name: the environment need not be activated for that.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    click.echo(f"{version.name} version {version.number}: http://127.0.0.1:{port}/invocations   Ctrl-C ends it.")
    click.echo(f"Videos are read below {os.environ[ROOT_VARIABLE]}. Research use only; not a medical device.")
    model = ["models", "serve", "-m", f"models:/{version.name}/{version.number}", "--env-manager", "local"]
    become_mlflow([*model, "--host", "127.0.0.1", "--port", str(port)])
