"""The public lung sets as DVC imports: what is committed is pinned, and `dvc pull` fetches it.

GitHub is not asked: a git repository on this disk, with drawn videos laid out as upstream's, stands in for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from echolung.data.sources.layouts import scan
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write

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


def committed(source: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / looked_for(source)).with_suffix(".dvc").read_text()))


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=cwd, env=variables, text=True, capture_output=True, timeout=300, check=False)


def git(*arguments: str, cwd: Path) -> str:
    done = run("git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def published(layout: str, folder: Path) -> str:
    """A repository in `folder` that stands in for a public one, and holds more than is pinned: the commit to pin."""
    drawn = PhantomSettings.parse({"layout": layout, "patients": 3, "frames": 8, "size": 48}, "the test")
    write(drawn, folder / "data", 1, lambda done, total: None)
    if layout == "pocus":
        (folder / "data" / "pocus_videos").mkdir()
        shutil.move(folder / "data" / "convex", folder / "data" / "pocus_videos" / "convex")
    else:
        for entry in list((folder / "data").iterdir()):
            shutil.move(entry, folder / entry.name)
    git("init", "-q", cwd=folder)
    git("add", "-A", cwd=folder)
    git("commit", "-qm", "first", cwd=folder)
    pinned = git("rev-parse", "HEAD", cwd=folder)
    git("rm", "-qr", ".", cwd=folder)
    git("commit", "-qm", "second", cwd=folder)
    return pinned


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with nothing but the committed imports."""
    root = tmp_path / "project"
    (root / "data" / "raw").mkdir(parents=True)
    (root / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git("init", "-q", cwd=root)
    assert run("dvc", "init", "-q", cwd=root).returncode == 0
    for source in IMPORTS:
        place = looked_for(source).with_suffix(".dvc")
        shutil.copy(ROOT / place, root / place)
    git("add", "-A", cwd=root)
    git("commit", "-qm", "imports", cwd=root)
    return root


@pytest.mark.parametrize("source", IMPORTS)
def test_an_import_is_pinned_and_lands_where_the_study_looks(source: str) -> None:
    _, url, path = IMPORTS[source]
    known = committed(source)
    (dependency,), (out,) = known["deps"], known["outs"]
    assert (dependency["repo"]["url"], dependency["path"]) == (url, path)
    assert re.fullmatch("[0-9a-f]{40}", dependency["repo"]["rev_lock"])
    assert dependency["repo"]["rev"] == dependency["repo"]["rev_lock"]  # so that `dvc update` stays there, too
    assert out["path"] == looked_for(source).name
    assert known["frozen"]


def test_git_keeps_the_imports_and_not_what_they_fetch(project: Path) -> None:
    assert git("ls-files", "data", cwd=project).split() == ["data/raw/covid_blues.dvc", "data/raw/pocus.dvc"]
    for place in ("data/raw/pocus/dataset_metadata.csv", "data/raw/mine/videos.csv", "data/phantom/split/x.csv"):
        assert run("git", "check-ignore", place, cwd=project).returncode == 0


def test_one_pull_fetches_the_pinned_commits(project: Path, tmp_path: Path) -> None:
    for source, (layout, *_) in IMPORTS.items():
        known, pinned = committed(source), published(layout, tmp_path / layout)
        known.pop("md5")  # of the text that changes here
        known["deps"][0]["repo"] = {"url": str(tmp_path / layout), "rev": pinned, "rev_lock": pinned}
        (project / looked_for(source)).with_suffix(".dvc").write_text(yaml.safe_dump(known, sort_keys=False))
    pulled = run("dvc", "pull", "data/raw/pocus.dvc", "data/raw/covid_blues.dvc", cwd=project)
    assert pulled.returncode == 0, pulled.stderr
    for source, (layout, *_) in IMPORTS.items():
        table = scan(layout, project / looked_for(source), source).manifest
        assert sum(map(os.path.isfile, table["path"])) == 3
    untracked = git("status", "--short", "--untracked-files=all", cwd=project).splitlines()
    assert not [line for line in untracked if line.startswith("??") and "data/" in line]
