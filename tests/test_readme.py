"""README, docs and DVC imports say what is there: folders, files, commands, studies, scales, revisions."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

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


# --- the public lung sets as DVC imports: pinned, and `dvc pull` puts them where the study looks ---

IMPORTS = {
    "pocus": ("pocus", "https://github.com/jannisborn/covid19_ultrasound", "data"),
    "blues": ("covid_blues", "https://github.com/NinaWie/COVID-BLUES", "."),
}
"""Source of the study `lung` -> layout, upstream, and which path of upstream's repository is imported."""


def looked_for(source: str) -> Path:
    """Where the study looks for a source, below the project's root."""
    study = yaml.safe_load((ROOT / "conf" / "study" / "lung.yaml").read_text())
    settings = study["ingest"]["sources"][source]
    assert settings["layout"] == IMPORTS[source][0]
    return Path(settings["root"].replace("${public_sets}", study["public_sets"]))


@pytest.mark.parametrize("source", IMPORTS)
def test_an_import_is_pinned_and_lands_where_the_study_looks(source: str) -> None:
    known = yaml.safe_load((ROOT / looked_for(source)).with_suffix(".dvc").read_text())
    (dependency,), (out,) = known["deps"], known["outs"]
    assert (dependency["repo"]["url"], dependency["path"]) == IMPORTS[source][1:]
    assert re.fullmatch("[0-9a-f]{40}", dependency["repo"]["rev_lock"])
    assert dependency["repo"]["rev"] == dependency["repo"]["rev_lock"]  # so that `dvc update` stays there, too
    assert out["path"] == looked_for(source).name and known["frozen"]


def test_git_keeps_the_imports_and_not_what_they_fetch() -> None:
    ignored = ["data/raw/pocus/dataset_metadata.csv", "data/raw/mine/videos.csv", "data/phantom/split/x.csv"]
    asked = ["git", "-C", str(ROOT), "check-ignore", *ignored, *(f"{looked_for(source)}.dvc" for source in IMPORTS)]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() == ignored
