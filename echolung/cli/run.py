"""The commands around DVC: `echolung run` types `dvc exp run` for you, `echolung clean` forgets what it made."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from echolung.stage import project_root


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--study", help="A file of conf/study; without it, the study of params.yaml.")
@click.option("--scale", help="A file of conf/scale; without it, the scale of params.yaml.")
@click.option("-S", "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter; may be repeated.")
@click.option("--print", "only_print", is_flag=True, help="Print the command with everything quoted, and stop.")
@click.argument("dvc_options", nargs=-1, type=click.UNPROCESSED)
def run(
    study: str | None,
    scale: str | None,
    changes: tuple[str, ...],
    only_print: bool,
    dvc_options: tuple[str, ...],
) -> None:
    """Run a study: checks the parameters, then calls `dvc exp run` (`dvc repro` if nothing is named).

    VALUE needs no quotes for Hydra: paths with spaces, umlauts, `=`, `(` or `#` are taken as they are, and `~` is the
    home folder. Further options go to DVC: --queue for later (`dvc queue start`), --temp for a copy of the project.

    \b
    Examples:
      echolung run --study lung --scale laptop --set public_sets=/data/Jürgen
      echolung run --set split.seed=1 --print
    """
    from echolung.composition import compose, edited
    from echolung.settings import Settings

    root = project_root()
    words = ["dvc", "repro"]
    if study or scale or changes or {"--queue", "--temp"} & {*dvc_options}:
        composed = compose(root, study, scale, changes)
        Settings.parse(composed.parameters, "what was set")
        words = [*composed.command]
        named = {change.partition("=")[0].lstrip("+") for change in changes}
        lost = [] if study else [one for one in edited(root) if one.partition("=")[0] not in named]
        if lost:
            click.echo(f"Edits of params.yaml that go back to conf/: {', '.join(lost)}. To keep one: --set", err=True)
    words += dvc_options
    if only_print:
        click.echo(shlex.join(words))
        return
    click.echo(f"> {shlex.join(words)}", err=True)
    here = Path(sys.executable).parent
    os.environ["PATH"] = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execv(sys.executable, [sys.executable, "-m", *words])


@click.command()
def clean() -> None:
    """Delete everything that was made from the videos, for every study: data, reports, runs and models.

    Your videos and DVC's cache stay.

    \b
    Example:
      echolung clean
    """
    for path in derived(project_root()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def derived(root: Path) -> list[Path]:
    """What the stages and commands make: outputs, work in progress, runs and models."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from echolung.composition import names
    from echolung.core.parameters import Key

    # Of data/<study> the stages' own folders, of data/raw/<study> the drawn sets: yours may be beside them.
    below = ("ingest", "split", "encoders", "search", "embed", "fit", "compare")
    made = [root / place for place in ("data/cache", "data/demo", "data/locks", "mlruns/artifacts", "dvc.lock")]
    made += (root / "mlruns").glob("mlflow.db*")
    for file in [root / "params.yaml", *(root / "conf" / "study" / f"{name}.yaml" for name in names(root, "study"))]:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        try:  # a name with dots or slashes would lead elsewhere, and no stage accepts it
            study, *drawn = TypeAdapter(list[Key]).validate_python([values["study"], *(values.get("phantom") or {})])
        except (KeyError, TypeError, ValidationError):
            continue
        made += [root / "data" / study / stage for stage in below]
        made += [root / "data" / "raw" / study / key for key in drawn]
        made += [root / "data" / f"{study}-runs", root / "reports" / study]
    return made
