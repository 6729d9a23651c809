"""The command line: help with examples, errors as one line with the remedy, no traceback."""

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
    shown = CliRunner().invoke(main, [*words, "--help"])
    assert shown.exit_code == 0
    assert f"echolung {' '.join(words)}" in shown.output.split("Example", 1)[1]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from echolung.cli.main import main;"
        "CliRunner().invoke(main, ['--help']);"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'great_expectations', 'torchcodec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promote", "pocus-pathology", "--arm", "jepaa"], "arm 'jepaa' takes no part in pocus-pathology"),
        (["phantom", "lung", "x.txt"], "Use one of the suffixes"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert said in done.output
    assert done.output.startswith("echolung: ")
    assert "Traceback" not in done.output


def test_outside_a_project_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["show"])
    assert done.exit_code == 1
    assert "is not inside an EchoLung project" in done.output
    assert "dvc.yaml" in done.output


def test_a_drawn_video_can_be_asked_for(tmp_path: Path) -> None:
    video = tmp_path / "lung.avi"
    done = CliRunner().invoke(
        main, ["phantom", "lung", str(video), "--pattern", "covid", "--seed", "3", "--frames", "8", "--size", "64"]
    )
    assert done.exit_code == 0, done.output
    assert "covid" in done.output
    assert decode(video).frames.shape == (8, 64, 64)
