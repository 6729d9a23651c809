"""Several experiments, several clones, several users: with real DVC, on the shortest stage of the real pipeline."""

import os
import stat
from pathlib import Path

import pytest
import yaml
from conftest import Project, clone, made_project

from echolung import stage
from echolung.core.runtime import workspace
from echolung.tracking.store import store

SHARED_FOLDERS = ("data", "reports", "mlruns", ".dvc/tmp", ".dvc/cache")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone whose study draws four small videos of lungs."""
    project = clone(tmp_path_factory.mktemp("experiments") / "project")
    path = project.root / "conf" / "study" / "phantom.yaml"
    study = yaml.safe_load(path.read_text())
    study["phantom"]["pocus"] = {"layout": "pocus", "patients": 4, "frames": 8, "size": 48, "seed": 2}
    path.write_text("# @package _global_\n" + yaml.safe_dump(study, sort_keys=False))
    project.change(phantom=study["phantom"])
    assert project.run("git", "commit", "-qam", "small").returncode == 0
    return project


def test_two_users_of_one_group_can_write_what_the_other_made(project: Project) -> None:
    def present() -> set[Path]:
        return {path for folder in SHARED_FOLDERS for path in (project.root / folder).rglob("*")}

    before, umask = present(), os.umask(0o002)
    try:
        done = project.run("dvc", "repro", "phantom@pocus")
    finally:
        os.umask(umask)
    assert done.returncode == 0, done.stderr
    made = present() - before
    assert {"pocus", "mlflow.db", "phantom-phantom@pocus.lock"} <= {path.name for path in made}
    kept = {path for path in made if path.is_file() and {"files", "site-cache"} & set(path.parts)}  # DVC's, by content
    assert [path for path in made - kept if not path.stat().st_mode & stat.S_IWGRP] == []


def test_experiments_run_in_copies_at_once_and_leave_the_workspace_alone(project: Project) -> None:
    def tree() -> dict[str, object]:
        folders = (project.root / "data", project.root / "reports")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        made: dict[str, object] = {str(path): path.stat().st_mtime_ns for path in files}
        return made | {"params.yaml": (project.root / "params.yaml").read_text()}

    before = tree()
    command = ("dvc", "--wait-for-lock", "exp", "run", "--temp", "phantom@pocus", "-S")
    running = [project.start(*command, f"phantom.pocus.seed={seed}", "-n", f"seed{seed}") for seed in (5, 6)]
    said = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert tree() == before
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    made = [ref for ref in refs if ref.endswith(("seed5", "seed6"))]
    locks = [yaml.safe_load(project.run("git", "show", f"{ref}:dvc.lock").stdout) for ref in made]
    drawn = {lock["stages"]["phantom@pocus"]["outs"][0]["md5"] for lock in locks}
    assert len(drawn) == 2, "both drew the same videos: with the workspace's parameters"
    client = store(project.root).client()
    runs = [run.data for one in client.search_experiments() for run in client.search_runs([one.experiment_id])]
    tags = {run.tags.get("dvc_experiment") for run in runs}
    assert {"seed5", "seed6"} <= tags, "their runs are in the workspace's store"


def test_a_stage_works_in_the_folder_it_is_started_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy, DVC_ROOT names the workspace that it was made from."""
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpx"
    for folder in (tmp_path, copy):
        folder.mkdir(parents=True, exist_ok=True)
        made_project(folder)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(copy)
    assert stage.project_root() == copy and workspace(copy) == workspace(tmp_path) == tmp_path
