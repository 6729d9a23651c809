"""The README says what is there: every file of the code stands in its tree, and every command it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from echolung.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FILES = [
    path
    for folder in ("pipelines", "echolung", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
]


def test_the_tree_has_one_line_for_every_file_and_no_other() -> None:
    tree = README.split("## The tree")[1].split("## ")[0]
    listed = re.findall(r"^\s+([\w.]+\.py)\s+\S", tree, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in FILES)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"echolung ([a-z]+)(?= |`|\))", README))))
def test_every_command_it_names_exists(command: str) -> None:
    assert command in main.commands


def test_every_picture_and_link_inside_the_repository_exists() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_it_names_every_study_and_scale() -> None:
    for folder in ("study", "scale"):
        for path in (ROOT / "conf" / folder).glob("*.yaml"):
            assert f"| `{path.stem}` |" in README
