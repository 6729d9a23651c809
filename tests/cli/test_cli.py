"""The command line: help with examples, errors as one line with the remedy, no traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from echolung.cli.main import main
from echolung.data.video import decode

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that does something, by the words that call it."""
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("words", commands(main), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0 and f"echolung {' '.join(words)}" in done.output.split("Example", 1)[1]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from echolung.cli.main import main;"
        "CliRunner().invoke(main, ['--help']);"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'great_expectations', 'torchcodec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_mistake_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command, *said in [
        ("show", "is not inside an EchoLung project", "dvc.yaml"),
        ("promote pocus-pathology --arm jepaa", "arm 'jepaa' takes no part in pocus-pathology"),
        ("phantom lung x.txt", "Use one of the suffixes"),
    ]:
        done = CliRunner().invoke(main, command.split())
        assert done.exit_code == 1 and all(part in done.output for part in said), done.output
        assert done.output.startswith("echolung: ") and "Traceback" not in done.output
        for name in ("dvc.yaml", "params.yaml"):  # a project from here on
            shutil.copy(ROOT / name, tmp_path)


def test_a_drawn_video_can_be_asked_for(tmp_path: Path) -> None:
    video = tmp_path / "lung.avi"
    options = "--pattern covid --seed 3 --frames 8 --size 64"
    done = CliRunner().invoke(main, ["phantom", "lung", str(video), *options.split()])
    assert done.exit_code == 0 and "covid" in done.output, done.output
    assert decode(video).frames.shape == (8, 64, 64)
