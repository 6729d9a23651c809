"""The command line: `echolung --help`. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from echolung.cli import champions, fetch, run, suggest, weights
from echolung.stage import exit_cleanly, project, project_root

if TYPE_CHECKING:
    from echolung.phantom.findings import Pattern


class Group(click.Group):
    """Errors of a command become one line with the remedy, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        with exit_cleanly():
            return super().invoke(ctx)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="echolung")
def main() -> None:
    """What has a model learned from unlabelled ultrasound, and does it help where labels are few?

    \b
    Run a study:
      echolung doctor                   check what the study needs
      dvc repro                         run what is out of date
      echolung run --study lung         another study; --set KEY=VALUE changes a parameter

    \b
    Use its results:
      echolung show                     the comparison
      echolung promote pocus-pathology  make the candidate the champion, if it is good enough
      echolung predict clip.mp4         ask the champion about a video
      echolung suggest camus-masks      which recordings to annotate next
    """


@main.group()
def phantom() -> None:
    """Draw ultrasound phantoms."""


@phantom.command("lung")
@click.argument("video", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pattern", type=click.Choice(["regular", "pneumonia", "covid"]), default="regular", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Another seed, another patient.")
@click.option("--frames", default=64, show_default=True, type=click.IntRange(2), help="Frames.")
@click.option("--size", default=160, show_default=True, type=click.IntRange(48, 1024), help="Height and width, pixels.")
@click.option("--noise", default=0.0, type=click.FloatRange(0, 60), help="dB by which the receiver is noisier.")
def phantom_lung(video: Path, pattern: Pattern, seed: int, frames: int, size: int, noise: float) -> None:
    """Draw a lung: A-lines (regular), consolidation (pneumonia), B-lines and a broken pleura (covid).

    \b
    Example:
      echolung phantom lung clip.mp4 --pattern covid --seed 7
    """
    from echolung.phantom.write import write_lung

    click.echo(write_lung(video, pattern=pattern, seed=seed, frames=frames, size=size, noise=noise))


@main.command()
@click.option("--study", help="A study of conf/, instead of params.yaml.")
@click.option("--scale", help="A scale of conf/, instead of that of params.yaml.")
@click.option("-S", "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter; may be repeated.")
@click.option("--fix", is_flag=True, help="After moving or copying the project: point its MLflow store to this folder.")
def doctor(study: str | None, scale: str | None, changes: tuple[str, ...], fix: bool) -> None:
    """Check everything that a study needs, and say what to type where something is missing.

    Exit code 0 if the study can run, 1 otherwise.

    \b
    Examples:
      echolung doctor
      echolung doctor --study lung --scale laptop -S public_sets=/data
    """
    from echolung.doctor.examine import examine
    from echolung.doctor.findings import verdict
    from echolung.tracking.moved import repair

    root = project_root()
    if fix:
        click.echo(repair(root / "mlruns"))
    name, findings = examine(root, study, scale, changes)
    for one in findings:
        level = click.style(f"{one.level:<9}", fg={"ok": "green", "warning": "yellow", "error": "red"}[one.level])
        click.echo(f"{level}{one.subject:<14} {one.said}")
        if one.remedy:
            click.secho(f"{'':24}{one.remedy}", bold=one.level != "ok")
    can_run, last = verdict(name, findings)
    click.secho(f"\n{last}", bold=True)
    sys.exit(0 if can_run else 1)


@main.command()
def show() -> None:
    """Print the answer of each task, the comparison, and where the report is.

    \b
    Example:
      echolung show
    """
    from echolung.core.errors import DataError
    from echolung.evaluation.comparison import read_comparison
    from echolung.reports.tables import table_text

    root, settings = project()
    folder = root / "data" / settings.study / "compare"
    if not folder.is_dir():
        problem = f"study {settings.study}, which params.yaml names, has no results yet"
        raise DataError(problem, "Run it: dvc repro   Another one: echolung run --study NAME")
    comparison = read_comparison(folder)
    click.echo(table_text(comparison, settings.tasks))
    click.echo(f"\nReport: {root / 'reports' / settings.study / 'index.html'}\nRuns:   echolung ui")


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Open the MLflow UI of this project, for this machine only (127.0.0.1).

    \b
    Example:
      echolung ui --port 5010
    """
    from echolung.tracking.experiments import close_abandoned
    from echolung.tracking.store import store

    root, settings = project()
    place = store(root, settings.tracking)
    close_abandoned(place, settings.study)
    print(f"http://127.0.0.1:{port}   Ctrl-C ends it.", flush=True)
    options = ["--backend-store-uri", place.uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *options])  # so that Ctrl-C reaches it


for command in (champions.promote, champions.rollback, champions.predict, run.run, suggest.suggest):
    main.add_command(command)
for group in (fetch.fetch, weights.weights):
    main.add_command(group)
