"""README and docs say what is there: every folder, file, command, study and scale that they name exists."""

import re
from pathlib import Path

import pytest

from echolung.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README = PAGES["README.md"]


def test_the_readme_is_short_and_names_every_folder() -> None:
    assert README.count("\n") <= 200
    for path in (ROOT / "echolung").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in README, path.name


@pytest.mark.parametrize("page", PAGES)
def test_commands_pictures_and_links_exist(page: str) -> None:
    for command in set(re.findall(r"^ {4}echolung ([a-z]+)|`echolung ([a-z]+)", PAGES[page], re.MULTILINE)):
        assert "".join(command) in main.commands
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page]):
        assert (folder / target).exists(), target


def test_the_code_that_the_walk_names_is_there() -> None:
    walk = PAGES["architecture.md"].split("## One recording")[1]
    named = re.findall(r"`([\w/]+\.py): ([\w.]+)`", walk)
    assert len(named) >= 12
    for file, name in named:
        assert f"def {name.split('.')[-1]}(" in (ROOT / "echolung" / file).read_text(), f"{file} has no {name}"


def test_every_study_and_scale_is_described() -> None:
    for folder in ("study", "scale"):
        for path in (ROOT / "conf" / folder).glob("*.yaml"):
            assert f"| `{path.stem}` |" in PAGES["studies.md"]
