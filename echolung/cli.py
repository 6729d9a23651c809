"""The command line: `echolung --help`. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from echolung.stage import exit_cleanly, project_root

if TYPE_CHECKING:
    from echolung.data.phantom.heart import View
    from echolung.promotion.candidate import Candidate
    from echolung.settings import Settings

RESEARCH_ONLY = "For research use only; not a medical device."


def clean(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the command become one line with the remedy, and exit code 1."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        with exit_cleanly():
            command(*arguments, **options)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="echolung")
def main() -> None:
    """Does pretraining on cardiac ultrasound help where lung-ultrasound labels are few?

    \b
    The study itself is run by DVC:
      dvc repro                         run what is out of date
      dvc exp run -S study=lung         another study; -S scale=laptop, -S probe.epochs=40 likewise

    \b
    This command does what comes before and after:
      echolung doctor                   what is missing before a study can run, and how long it takes
      echolung show                     the comparison, where the report is, how to open the MLflow UI
      echolung promote pocus-pathology  make the pretrained model the champion, if it earned it
      echolung predict clip.mp4         ask the champion
    """


@main.group()
def phantom() -> None:
    """Draw ultrasound phantoms: one heart, one lung, or a sheet of examples."""


@phantom.command("heart")
@click.argument("video", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--view", type=click.Choice(["a4c", "psax"]), default="a4c", show_default=True, help="Which section.")
@click.option("--ef", default=60.0, show_default=True, help="Ejection fraction, per cent (5-85).")
@click.option("--seed", default=0, show_default=True, help="Another seed, another patient.")
@click.option("--frames", default=64, show_default=True, help="Frames.")
@click.option("--size", default=160, show_default=True, help="Height and width, pixels.")
@clean
def phantom_heart(video: Path, view: View, ef: float, seed: int, frames: int, size: int) -> None:
    """Draw a heart with a chosen ejection fraction: apical four-chamber view (a4c) or parasternal short axis (psax).

    \b
    Examples:
      echolung phantom heart weak-heart.mp4 --ef 30 --seed 7
      echolung phantom heart same-heart.mp4 --ef 30 --seed 7 --view psax
    """
    from echolung.data.phantom.write import write_heart

    click.echo(write_heart(video, ejection_fraction=ef, seed=seed, frames=frames, size=size, view=view))


@phantom.command("lung")
@click.argument("video", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pattern", type=click.Choice(["regular", "pneumonia", "covid"]), default="regular", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Another seed, another patient.")
@click.option("--frames", default=64, show_default=True, help="Frames.")
@click.option("--size", default=160, show_default=True, help="Height and width, pixels.")
@clean
def phantom_lung(video: Path, pattern: str, seed: int, frames: int, size: int) -> None:
    """Draw a lung: A-lines (regular), consolidation (pneumonia), B-lines and a broken pleura (covid).

    \b
    Example:
      echolung phantom lung clip.mp4 --pattern covid --seed 7
    """
    from echolung.data.phantom.write import write_lung

    click.echo(write_lung(video, pattern=pattern, seed=seed, frames=frames, size=size))


@phantom.command("sheet")
@click.argument("picture", type=click.Path(path_type=Path, dir_okay=False))
@clean
def phantom_sheet(picture: Path) -> None:
    """Draw a contact sheet of hearts and lungs (png).

    \b
    Example:
      echolung phantom sheet phantoms.png
    """
    from echolung.data.phantom.contact_sheet import contact_sheet

    contact_sheet(picture)
    click.echo(f"{picture} written.")


@main.command()
@click.option("--study", help="Another study than that of params.yaml, as `dvc exp run -S study=...` composes it.")
@click.option("--scale", help="Another scale, likewise.")
@click.option("-S", "--set", "changes", multiple=True, help="A parameter of it: -S public_sets=/data.")
@click.option("--deep", is_flag=True, help="Start Ray, too.")
@click.option("--quick", is_flag=True, help="Leave out the expected time, which takes up to 20 seconds to measure.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object on standard output.")
@clean
def doctor(
    study: str | None, scale: str | None, changes: tuple[str, ...], deep: bool, quick: bool, as_json: bool
) -> None:
    """Say what is missing before a study can run, what to do about it, and how long it will take.

    Exit code 0 if the study can run, 1 otherwise.

    \b
    Examples:
      echolung doctor
      echolung doctor --study lung --scale laptop -S public_sets=/data
    """
    from echolung.doctor.examine import examine
    from echolung.doctor.findings import show

    found = examine(project_root(), study, scale, changes, deep=deep, quick=quick)
    if as_json:
        click.echo(json.dumps(found.plain(), indent=2))
    else:
        show(found)
    sys.exit(0 if found.can_run else 1)


@main.command()
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
    from echolung.promotion.promote import promote as elect
    from echolung.settings import load
    from echolung.tracking.experiments import stage_run
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    task = settings.known_task(task)
    candidate = _candidate(root, settings, task, settings.known_arm(task, arm or settings.promote.arm))
    tracking = store(root, settings.tracking)
    with stage_run(tracking, settings.study, "promote", task, {"task": task, "arm": candidate.arm}) as run:
        found = elect(tracking, run, candidate, settings.probe, bootstrap=settings.compare.bootstrap, reset=reset)
    verb = "is the champion" if found.outcome == "promoted" else "unchanged"
    click.echo(f"{found.name} version {found.version}: {verb}.")
    for reason in found.reasons:
        click.echo(f"  because {reason}")
    for warning in found.warnings:
        click.echo(f"  warning: {warning}")


def _candidate(root: Path, settings: Settings, task: str, arm: str) -> Candidate:
    """Who stands for election for a task, from what `dvc repro` left on disk."""
    import pandas as pd

    from echolung.data.splits import read_folds
    from echolung.errors import DataError
    from echolung.evaluation.comparison import read_comparison
    from echolung.promotion.candidate import Candidate

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
        folds=read_folds(data / "split" / f"{task}.csv"),
        predictions=pd.read_parquet(predictions),
        verdicts=read_comparison(data / "compare").verdicts,
    )


@main.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--task", help="Whose champion to ask; the study's first task if left out.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object on standard output.")
@clean
def predict(videos: tuple[Path, ...], task: str | None, as_json: bool) -> None:
    """Ask a task's champion about VIDEOS.

    \b
    Examples:
      echolung predict clip.mp4
      echolung predict ward/*.mp4 --task blues-covid --json
    """
    from echolung.registry import champion
    from echolung.serving.classifier import predict_videos
    from echolung.settings import load
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    name = settings.known_task(task)
    version = champion(store(root, settings.tracking), settings.study, name)
    record, answers = predict_videos(version.classifier, videos)
    heading = {"model": version.name, "version": version.number, "task": name, "unit": record.unit}
    if as_json:
        click.echo(json.dumps(heading | {"use": RESEARCH_ONLY, "predictions": answers.to_dict("records")}, indent=2))
        return
    _print_answers(heading, record.classes, answers)
    for warning in version.tags.get("warnings", "").splitlines():
        click.echo(f"warning: {warning}", err=True)


def _print_answers(heading: dict[str, Any], classes: list[str], answers: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{heading['model']} version {heading['version']}", title_justify="left")
    table.add_column("video")
    table.add_column("predicted", style="bold")
    for name in classes:
        table.add_column(name, justify="right")
    damaged = answers["damage"].astype(bool).any()
    if damaged:
        table.add_column("damage")
    for row in answers.to_dict("records"):
        cells = [row["video"], row["predicted"], *(f"{row[f'p_{name}']:.1%}" for name in classes)]
        table.add_row(*cells, *([row["damage"]] if damaged else []))
    Console().print(table)
    if heading["unit"] == "patient" and len(answers) > 1:
        click.echo("A decision is about a patient: average the probabilities of a patient's videos.")
    click.echo(RESEARCH_ONLY)


@main.command()
@clean
def show() -> None:
    """Print the comparison, where the report is, and how to open the MLflow UI.

    \b
    Example:
      echolung show
    """
    from echolung.evaluation.comparison import read_comparison
    from echolung.reports.tables import table_text
    from echolung.settings import load
    from echolung.tracking.experiments import close_abandoned, folds_url
    from echolung.tracking.store import store, ui_command

    root = project_root()
    settings = load(root)
    comparison = read_comparison(root / "data" / settings.study / "compare")
    click.echo(table_text(comparison))
    click.echo()
    click.echo(f"Report:     {root / 'reports' / settings.study / 'index.html'}")
    place = store(root, settings.tracking)
    close_abandoned(place, settings.study)
    click.echo(f"MLflow UI:  echolung ui   (that is: {ui_command(place)})")
    for task in settings.tasks:
        click.echo(f"  {task}, fold by fold: {folds_url('http://127.0.0.1:5000', place, settings.study, task)}")


@main.command()
@click.argument("name")
@click.option(
    "--command", default="dvc repro", show_default=True, help="What made the study, as others should type it."
)
@click.option("--readme", is_flag=True, help="Also put the summary between the marks of README.md.")
@clean
def publish(name: str, command: str, readme: bool) -> None:
    """Write the study's small results to reports/NAME, to be committed: no video, and no frame of one.

    \b
    Example:
      echolung publish lung-laptop --command "dvc exp run -S study=lung -S scale=laptop" --readme
    """
    import pandas as pd

    from echolung.evaluation.comparison import read_comparison
    from echolung.reports import study
    from echolung.reports.publish import Published
    from echolung.reports.publish import publish as write
    from echolung.settings import load
    from echolung.tracking.experiments import stage_times
    from echolung.tracking.provenance import provenance
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    data, report = root / "data" / settings.study, root / "reports" / settings.study
    comparison = read_comparison(data / "compare")
    encoders = [data / "pretrain" / arm / f"seed{seed}" for arm in settings.embed.arms for seed in settings.seeds(arm)]
    stages = stage_times(store(root, settings.tracking), settings.study)
    published = Published(
        study=settings.study,
        name=name,
        command=command,
        facts=study.facts(settings.model_dump(mode="json"), provenance(root)),
        sources=study.sources(data / "ingest", settings.ingest.sources),
        arms=study.arms(encoders),
        stages=stages[~stages["stage"].str.startswith("promote")],
    )
    predictions = {task: pd.read_parquet(data / "probe" / task / "predictions.parquet") for task in settings.tasks}
    target = root / "reports" / name
    place = root / "README.md" if readme else None
    for path in write(published, comparison, predictions, report, target, place):
        click.echo(f"{path.relative_to(root)}  {path.stat().st_size / 1024:.0f} kB")


@main.command()
@click.option("--port", default=5000, show_default=True)
@clean
def ui(port: int) -> None:
    """Open the MLflow UI of this project on this machine only (127.0.0.1).

    \b
    Example:
      echolung ui --port 5001
    """
    from echolung.settings import load
    from echolung.tracking.experiments import close_abandoned
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    place = store(root, settings.tracking)
    close_abandoned(place, settings.study)
    click.echo(f"http://127.0.0.1:{port}   Ctrl-C ends it.")
    arguments = ["ui", "--backend-store-uri", place.uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


if __name__ == "__main__":
    main()
