"""The command `echolung run`, which types `dvc exp run` for you."""

import os
import shlex
import sys
from pathlib import Path

import click

from echolung.stage import project_root

# DVC, but silent about every output that does not exist yet
DVC = """import logging, sys; from dvc.cli import main
logging.getLogger("dvc_data.index.checkout").setLevel("ERROR")
sys.exit(main(sys.argv[1:]))"""


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--study", help="A file of conf/study; without it, the study of params.yaml.")
@click.option("--scale", help="A file of conf/scale; without it, the scale of params.yaml.")
@click.option("-S", "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A parameter; may be repeated.")
@click.option("--print", "only_print", is_flag=True, help="Print the command with everything quoted, and stop.")
@click.argument("dvc_options", nargs=-1, type=click.UNPROCESSED)
def run(
    study: str | None, scale: str | None, changes: tuple[str, ...], only_print: bool, dvc_options: tuple[str, ...]
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
        parameters, words = compose(root, study, scale, changes)
        Settings.parse(parameters, "what was set")
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
    os.execv(sys.executable, [sys.executable, "-c", DVC, *words[1:]])
