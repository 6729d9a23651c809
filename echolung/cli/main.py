"""The command line: `echolung --help`. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from echolung.cli import champions as commands
from echolung.cli.champions import become_mlflow, clean, require_free
from echolung.stage import project_root

if TYPE_CHECKING:
    from echolung.phantom.heart import View


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
      echolung rollback pocus-pathology the champion before it again
      echolung predict clip.mp4         ask the champion
      echolung serve pocus-pathology    let other programs on this machine ask it, by HTTP
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
    from echolung.phantom.write import write_heart

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
    from echolung.phantom.write import write_lung

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
    from echolung.phantom.contact_sheet import contact_sheet

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
@clean
def show() -> None:
    """Print the comparison, where the report is, and how to open the MLflow UI.

    \b
    Example:
      echolung show
    """
    from echolung.core.errors import BusyError, DataError
    from echolung.doctor.project import at_work
    from echolung.evaluation.comparison import read_comparison
    from echolung.reports.tables import table_text
    from echolung.settings import load
    from echolung.tracking.experiments import close_abandoned, folds_url
    from echolung.tracking.store import store, ui_command

    root = project_root()
    settings = load(root)
    try:
        comparison = read_comparison(root / "data" / settings.study / "compare")
    except DataError as error:
        if busy := at_work(root, settings):
            raise BusyError(
                f"the study {settings.study} is running ({busy}), and has no comparison yet",
                "Wait for it to end; `echolung doctor --quick` says which stage is at work.",
            ) from error
        raise
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
    stages = stage_times(store(root, settings.tracking), settings.study, settings.stages())
    facts = study.facts(settings.model_dump(mode="json"), provenance(root))
    published = Published(
        study=settings.study,
        name=name,
        command=command,
        facts={"Published with": facts.pop("Code"), **facts},
        sources=study.sources(data / "ingest", settings.ingest.sources),
        arms=study.arms(encoders),
        ranks=study.effective_ranks(settings.feature_stores(data / "embed")),
        stages=stages,
        untimed=[name for name in settings.stages() if name not in set(stages["stage"])],
    )
    predictions = {task: pd.read_parquet(data / "probe" / task / "predictions.parquet") for task in settings.tasks}
    target = root / "reports" / name
    place = root / "README.md" if readme else None
    for path in write(published, comparison, predictions, report, target, place):
        click.echo(f"{path.relative_to(root)}  {path.stat().st_size / 1024:.0f} kB")


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@clean
def ui(port: int) -> None:
    """Open the MLflow UI of this project on this machine only (127.0.0.1).

    \b
    Example:
      echolung ui --port 5010
    """
    from echolung.settings import load
    from echolung.tracking.experiments import close_abandoned
    from echolung.tracking.store import store

    root = project_root()
    settings = load(root)
    place = store(root, settings.tracking)
    close_abandoned(place, settings.study)
    require_free(port)
    click.echo(f"http://127.0.0.1:{port}   Ctrl-C ends it.")
    become_mlflow(["ui", "--backend-store-uri", place.uri, "--host", "127.0.0.1", "--port", str(port)])


for command in (commands.promote, commands.rollback, commands.predict, commands.serve):
    main.add_command(command)

if __name__ == "__main__":
    main()
