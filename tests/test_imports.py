"""The public lung sets as DVC imports: what is committed is pinned, and `dvc pull` puts it where the study looks."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
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
