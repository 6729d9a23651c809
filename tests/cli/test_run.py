"""`echolung run`, and what Hydra does inside `dvc exp run`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT, Project, committed

from echolung import composition
from echolung.cli.main import main
from echolung.cli.run import DVC
from echolung.core.errors import SettingsError

WARD = (ROOT / "conf" / "study" / "folder.yaml").read_text().replace("study: folder", "study: ward")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed parameters in a repository, with a study `ward` whose videos only this folder has."""
    root = tmp_path / "a project"
    (root / "conf" / "study").mkdir(parents=True)
    (root / "conf" / "study" / "ward.yaml").write_text(WARD)
    committed(root)
    (root / "data" / "raw" / "mine").mkdir(parents=True)
    (root / "data" / "raw" / "mine" / "videos.csv").write_text("path,patient,label\n")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(root)
    return root


def at(project: Path, study: str, scale: str) -> None:
    """Let params.yaml be this study and scale."""
    composed, _ = composition.compose(project, study, scale)
    (project / "params.yaml").write_text(yaml.safe_dump(composed, sort_keys=False))


def said(*words: str) -> str:
    done = CliRunner().invoke(main, ["run", "--print", *words])
    return done.output.strip().splitlines()[-1] if done.exit_code == 0 else done.output


HARD = ["/data/Jürgen", "/a b/c", "a=b", "it's", 'say "x"', "(x)", "#1", "a,b", "[x]/y", "{a", "a;b|c&d!", "ends in \\",
        "$HOME", "x y ", "c:\\d", "choice(1,2)", "*?@%"]  # fmt: skip


@pytest.mark.parametrize("value", HARD)
def test_hydra_reads_a_value_as_it_was_typed(value: str, project: Path) -> None:
    parameters, command = composition.compose(project, "ward", changes=[f"public_sets={value}"])
    assert parameters["public_sets"] == value
    shell = subprocess.run(["sh", "-c", f"printf '%s\n' {shlex.join(command)}"], capture_output=True, text=True)
    assert shell.stdout.splitlines() == command, "the printed line is safe in a shell"


def test_numbers_lists_and_home_folders_are_what_they_are_meant_to_be(project: Path) -> None:
    changes = ["split.seed=7", "tasks.mine-sick.classes=[a, b]", "public_sets=~/sets", "pretrain.compute.gpu=true"]
    found, _ = composition.compose(project, "ward", changes=changes)
    assert (found["split"]["seed"], found["public_sets"]) == (7, str(Path.home() / "sets"))
    assert found["tasks"]["mine-sick"]["classes"] == ["a", "b"]
    assert found["pretrain"]["compute"]["gpu"] is True, "conf/ leaves it to its default"


def test_a_mistake_is_named_before_dvc_is_called(project: Path) -> None:
    for option, value, problem in [
        ("--study", "lnug", "Did you mean 'lung'?"),
        ("--scale", "laptob", "Did you mean 'laptop'?"),
        ("--set", "split.sed=1", "unknown parameter 'split.sed': did you mean 'seed'?"),
        ("--set", "split.seed", "'split.seed' does not set a parameter"),
        ("--set", "split.outer=0", "split.outer"),
    ]:
        done = CliRunner().invoke(main, ["run", option, value])
        assert done.exit_code == 1 and problem in done.output and "Traceback" not in done.output


def test_what_is_not_named_stays_at_hand_and_edits_are_not_lost_silently(project: Path) -> None:
    at(project, "ward", "laptop")
    found, _ = composition.compose(project, changes=["split.seed=1"])
    assert (found["study"], found["scale"]) == ("ward", "laptop")
    assert said() == "dvc repro" and said("--", "-f") == "dvc repro -f"
    Project(project).change(split__outer=3)
    for change, warning in (("split.seed=1", "split.outer=3"), ("split.outer=3", "")):
        done = CliRunner().invoke(main, ["run", "--set", change, "--print"])
        assert warning in done.stderr if warning else done.stderr == ""
    (project / "params.yaml").write_text("[")  # is written again
    assert said("--set", "split.seed=1") == "dvc exp run -S ++split.seed=1"


def exp_run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dvc exp run` with a dvc.yaml whose one stage says what it was given."""
    stage = "stages: {say: {cmd: 'echo at ${study} ${scale} ${split.seed} | tee said', outs: [said]}}"
    (project / "dvc.yaml").write_text(stage)
    command = [sys.executable, "-c", DVC, "exp", "run", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_dvc_keeps_the_study_at_hand(project: Path) -> None:
    """Hydra alone would go back to the default study; DVC lets conf/hydra_plugins choose first."""
    at(project, "ward", "laptop")
    for arguments, expected in [
        (["-S", "++split.seed=5"], "at ward laptop 5"),  # as `echolung run` writes it
        (["-S", "study=lung"], "at lung laptop 0"),
    ]:
        done = exp_run(project, *arguments)
        assert done.returncode == 0 and expected in done.stdout.splitlines(), done.stderr
        assert "WARNING" not in done.stderr, "no warning that outputs of a first run are missing"


def test_dvc_says_what_a_copy_would_lack_and_which_study_file_is_another_s(project: Path) -> None:
    at(project, "ward", "demo")
    absolute, refused = f'ingest.sources.mine.root="{project}/data/raw/mine"', exp_run(project, "--temp")
    lacking = f"data/raw/mine is in neither Git nor DVC, so the copy would lack it. Add: -S '{absolute}'"
    assert refused.returncode != 0 and lacking in refused.stderr
    assert said("--temp") == "dvc exp run --temp" and exp_run(project, "--temp", "-S", absolute).returncode == 0
    (project / "conf" / "study" / "copy.yaml").write_text(WARD)
    refused, wrong = exp_run(project, "-S", "study=copy"), "conf/study/copy.yaml says `study: ward`."
    assert refused.returncode != 0 and f"{wrong} Change that line to `study: copy`." in refused.stderr
    with pytest.raises(SettingsError, match=r"copy.yaml says `study: ward`"):
        composition.compose(project, "copy")
