"""The command line: help with examples, errors as one line with the remedy, no traceback."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import called, made_project, refused

from echolung.cli.main import main
from echolung.data.video import decode


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that does something, by the words that call it."""
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("words", commands(main), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    assert f"echolung {' '.join(words)}" in called(*words, "--help").split("Example", 1)[1]


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
        output = refused(*command.split())
        assert all(part in output for part in said), output
        made_project(tmp_path)  # from here on


def test_a_drawn_video_can_be_asked_for(tmp_path: Path) -> None:
    video = tmp_path / "lung.avi"
    options = "--pattern covid --seed 3 --frames 8 --size 64"
    assert "covid" in called("phantom", "lung", str(video), *options.split())
    assert decode(video).frames.shape == (8, 64, 64)
