"""The doctor finds what would stop a study before the study does, names it, and says what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from echolung.cli.main import main
from echolung.core.errors import SettingsError
from echolung.core.runtime import exclusive
from echolung.data import video
from echolung.doctor import duration, machine, project, sources, workload
from echolung.doctor.examine import examine
from echolung.doctor.findings import Examination, Finding, show
from echolung.models.weights import initial_encoder, initialise
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write
from echolung.settings import Settings

ROOT = Path(__file__).parents[2]
torch.set_num_threads(1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project fresh from git, without data: the phantom study, as committed."""
    for name in ("params.yaml", "dvc.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    for path in (ROOT / "data" / "raw").glob("*.dvc"):
        shutil.copy(path, tmp_path / "data" / "raw")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "t"]):
        subprocess.run([*git, *command], check=True)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine.psutil, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(root: Path, **changes: Any) -> None:
    """Edit params.yaml; `a__b=1` sets a.b."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def only(findings: list[Finding], subject: str, group: str = "") -> Finding:
    (found,) = [one for one in findings if one.subject == subject and one.group.startswith(group)]
    return found


def stops(found: Finding, *said: str) -> None:
    """It stops the study, in one line that says what, with a remedy."""
    assert found.stops
    assert found.remedy
    assert "\n" not in found.said
    for part in said:
        assert part in f"{found.said}. {found.remedy}"


def test_a_fresh_project_can_run_and_its_other_studies_say_what_they_lack(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    found = examine(root, quick=True)
    assert found.can_run, found.verdict()
    assert found.study == "phantom"
    assert "study=phantom scale=demo" in only(found.findings, "parameters").said
    assert "will be drawn" in only(found.findings, "pocus", "study phantom").said
    lacking = only(found.findings, "pocus", "study lung")
    assert (lacking.level, lacking.stops) == ("missing", False)
    assert "github.com/jannisborn" in lacking.remedy
    assert "videos.csv" in only(found.findings, "mine", "study folder").remedy
    assert json.loads(json.dumps(found.plain()))["can_run"] is True
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    assert after == before, "looking changed something"


def test_the_command_says_it_to_people_and_to_programs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = CliRunner().invoke(main, ["doctor", "--quick", "--json"])
    assert fine.exit_code == 0, fine.output
    assert {one["subject"] for one in json.loads(fine.output)["findings"]} > {"FFmpeg", "Ray", "disk", "tracking"}
    change(root, probe__epoch=3)
    broken = CliRunner().invoke(main, ["doctor", "--quick"])
    assert broken.exit_code == 1
    assert "did you mean 'epochs'?" in " ".join(broken.output.split())
    assert "cannot run yet: one thing is missing, the first of them parameters." in broken.output


def test_a_table_for_people_shows_every_finding_and_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding("machine", "FFmpeg", "missing", "is [not] here", "apt-get install ffmpeg", True),
        Finding("machine", "GPU", "warning", "is busy", "wait"),
    ]
    show(Examination("phantom", findings))
    said = capsys.readouterr().out
    for part in ("missing", "is [not] here", "apt-get install ffmpeg", "warning", "wait", "cannot run yet"):
        assert part in said
    assert Examination("x", findings[1:]).verdict() == "The study x can run. Warnings: 1."


def test_a_study_that_is_named_is_not_judged_amid_the_others(root: Path) -> None:
    assert {one.group for one in examine(root, "folder", quick=True).findings} == {"machine", "project", "study folder"}
    assert {one.group for one in examine(root, quick=True).findings} > {"study folder", "study lung"}


def test_a_study_that_is_running_is_said_to_be(root: Path) -> None:
    with exclusive(root / "data" / "locks" / "phantom-probe@blues-covid.lock", "stage probe@blues-covid"):
        found = examine(root, "phantom", quick=True)
        other = examine(root, "lung", quick=True)
    holder = f"probe@blues-covid, process {os.getpid()}"
    assert found.verdict() == f"The study phantom is running ({holder}): nothing is missing."
    assert found.plain()["running"] == holder
    assert "cannot run yet" in other.verdict(), "the other study is not running"
    broken = Examination("x", [Finding("machine", "FFmpeg", "missing", "", "", True)], running="report, process 1")
    assert "is running (report, process 1): one thing is missing, the first of them FFmpeg." in broken.verdict()


def test_between_two_stages_the_dvc_that_runs_them_is_at_work(root: Path) -> None:
    settings = settings_of(root)
    out = str(root / "reports" / "phantom" / "validation" / "compare-all.json")
    note, program = root / ".dvc" / "tmp" / "rwlock", root / "bin" / "dvc"
    for path in (note, program):
        path.parent.mkdir(parents=True)
    program.write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        note.write_text(json.dumps({"write": {out: {"pid": other.pid, "cmd": "dvc repro"}}, "read": {}}))
        assert project.at_work(root, settings) == f"dvc, process {other.pid}"
        assert project.at_work(root, settings_of(root, "lung")) == ""
        other.kill()
    assert project.at_work(root, settings) == "", "it was killed, and left its note"
    note.write_text(json.dumps({"write": {out: {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    assert project.at_work(root, settings) == "", "another program has its number"
    for damaged in ("", "{", "[]", '{"write": {"a": 1}}'):
        note.write_text(damaged)
        assert project.at_work(root, settings) == ""


# --- the machine ---


def test_without_ffmpeg_it_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchcodec

    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    found = examine(root)  # and it does not try to measure what could not run
    assert not found.can_run
    assert "apt-get install ffmpeg" in only(found.findings, "FFmpeg").remedy
    assert "not measured" in only(found.findings, "time").said


@pytest.mark.parametrize(
    ("line", "level", "said"),
    [
        ("torch==1.0.0", "warning", "(locked: 1.0.0)"),
        ("no-such-package==1.0", "warning", "not installed: no-such-package"),
        ("no-such-package==1.0 ; sys_platform == 'win32'", "ok", "as locked"),
    ],
)
def test_packages_are_held_against_the_lock(line: str, level: str, said: str, root: Path) -> None:
    (root / "requirements.lock").write_text(f"# pinned\n{line}\n")
    found = machine.packages(root)
    assert (found.level, said in found.said) == (level, True)
    assert bool(found.remedy) == (level != "ok")


def test_a_package_that_nothing_runs_without_stops_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED", ("no-such-package",))
    (root / "requirements.lock").write_text("no-such-package==1.0\n")
    stops(machine.packages(root), "no-such-package", "./bootstrap.sh")


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (3, 9, 1))
    stops(machine.python(), "3.9.1", "3.11 to 3.13")


def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stops(only(machine.processors(True), "GPU"), "pretrain.compute.gpu")
    assert only(machine.processors(False), "GPU").level == "ok"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 << 30, 140 << 30))
    used = only(machine.processors(True), "GPU")
    assert (used.level, used.said) == ("warning", "H200: 140 GB, 10 GB free")


def test_a_busy_machine_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil, "getloadavg", lambda: (999.0, 0.0, 0.0))
    found = only(machine.processors(False), "cores")
    assert (found.level, "busy (load 999)" in found.said) == ("warning", True)


def test_a_cluster_that_does_not_answer_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{server.getsockname()[1]}")
        assert machine.ray(False, 1).level == "ok"
    stops(machine.ray(False, 1), "does not answer", "unset RAY_ADDRESS")


def test_a_ray_that_does_not_start_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/" + "long" * 20)
    stops(machine.ray(True, 1), "does not start")


def test_programs_that_a_study_calls_are_looked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.subject: one.level for one in machine.programs(root)} == {"DVC": "ok", "Git": "ok"}
    shutil.rmtree(root / ".git")
    stops(only(machine.programs(root), "Git"), "no repository", "git init")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    stops(only(machine.programs(root), "DVC"), "not on the path")
    stops(only(machine.programs(root), "Git"), "not on the path")


# --- the project ---


def test_an_edited_parameter_is_named_with_what_conf_says(root: Path) -> None:
    change(root, probe__epochs=7)
    settings, (found,) = project.parameters(root, None, None)
    assert settings is not None
    assert settings.probe.epochs == 7
    assert found.level == "ok"
    assert "scale=demo, but for probe.epochs = 7 (conf/: 30)" in found.said
    assert "conf/" in found.remedy


@pytest.mark.parametrize(
    ("study", "scale", "said"), [("lnug", None, "Did you mean 'lung'?"), ("lung", "laptob", "Did you mean 'laptop'?")]
)
def test_a_study_or_scale_that_is_not_there_names_the_nearest(root: Path, study: str, scale: str, said: str) -> None:
    settings, (found,) = project.parameters(root, study, scale)
    assert settings is None
    stops(found, said)
    assert not examine(root, study, scale, quick=True).can_run


def test_another_study_is_composed_as_dvc_does(root: Path) -> None:
    settings, _ = project.parameters(root, "lung", "laptop")
    assert settings is not None
    assert (settings.study, settings.ingest.size) == ("lung", 112)
    with pytest.raises(SettingsError, match="cannot be composed"):
        (root / "conf" / "study" / "lung.yaml").write_text("a: ${nowhere}\n")
        project.compose(root, study="lung")


def test_parameters_after_s_are_those_of_the_study_that_is_examined(root: Path) -> None:
    settings, (found,) = project.parameters(root, "lung", None, ["public_sets=/my data", "probe.epochs=4"])
    assert settings is not None
    assert str(settings.ingest.sources["pocus"].root) == "/my data/pocus"
    assert settings.probe.epochs == 4
    assert found.remedy == "To run it: dvc exp run -S study=lung -S 'public_sets=/my data' -S probe.epochs=4"
    _, (found,) = project.parameters(root, None, None, ["probe.epoch=4"])
    stops(found, "epoch", "-S")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ingest.sources.mine.rot=/a", "ingest.sources.mine has no 'rot'. Did you mean 'root'? It has: layout, root."),
        ("ingest.sources.mein.root=/a", "ingest.sources has no 'mein'. Did you mean 'mine'? It has: hearts, mine."),
        ("workrs=3", "conf/ has no 'workrs'. Did you mean 'workers'?"),
        ("split.outer.more=3", "split.outer has no 'more'. It has: nothing below it."),
        ("pretrain.compute.gpu=true", "to set it: -S +pretrain.compute.gpu=true"),
        ("tracking.uri=x", "to set it: -S +tracking.uri=x"),
    ],
)
def test_a_misspelt_parameter_names_the_nearest_and_not_how_to_add_it(root: Path, change: str, said: str) -> None:
    settings, (found,) = project.parameters(root, "folder", None, [change])
    assert settings is None
    stops(found, f"-S {change}: ", said)
    if "to set it" in said:
        assert project.parameters(root, "folder", None, [f"+{change}"])[0] is not None


def test_the_demonstration_is_told_from_other_scales_and_edits(root: Path) -> None:
    project.require_demonstration(root)
    change(root, probe__epochs=31)
    with pytest.raises(SettingsError, match="study phantom, but not scale demo as in conf/") as error:
        project.require_demonstration(root)
    assert "dvc exp run -S study=phantom -S scale=demo" in error.value.remedy
    (root / "params.yaml").write_text(yaml.safe_dump(project.compose(root, "phantom", "laptop")))
    with pytest.raises(SettingsError, match="not scale demo"):
        project.require_demonstration(root)


def test_a_study_that_is_copied_and_renamed_finds_the_hearts_that_it_draws(root: Path) -> None:
    text = (root / "conf" / "study" / "folder.yaml").read_text()
    (root / "conf" / "study" / "ward.yaml").write_text(text.replace("study: folder ", "study: ward "))
    folder(root, SICK_AND_WELL)
    settings = settings_of(root, "ward")
    outs = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["phantom"]["do"]["outs"]
    assert outs[0].replace("${study}", "ward").replace("${key}", "hearts") == str(
        settings.ingest.sources["hearts"].root
    )
    assert only(examine(root, "ward", quick=True).findings, "hearts").said == "will be drawn by the first run"
    own = "{layout: folder, root: data/raw/mine}"  # as the comment beside it shows; labels are not read
    shutil.copytree(root / "data" / "raw" / "mine", root / "data" / "raw" / "own")
    (root / "data" / "raw" / "own" / "videos.csv").write_text("path,patient,label\nsick0.avi,a,\nsick1.avi,b,\n")
    changes = [f"ingest.sources.hearts={own.replace('mine', 'own')}", "~phantom.hearts"]
    found = examine(root, "ward", changes=changes, quick=True)
    assert found.can_run, found.verdict()
    assert only(found.findings, "hearts").said.startswith("2 videos of 2 patients in ")


@pytest.mark.parametrize("content", [b"study: [", b"\xff\xfe", b"", b"study: phantom\n"])
def test_parameters_that_cannot_be_read_stop_it(root: Path, content: bytes) -> None:
    (root / "params.yaml").write_bytes(content)
    found = examine(root, quick=True)
    assert not found.can_run
    stops(only(found.findings, "parameters"), "params.yaml")


@pytest.fixture
def database(root: Path) -> Path:
    """A tracking database that is none of MLflow's yet, but a sound one."""
    (root / "mlruns").mkdir()
    path = root / "mlruns" / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR)")
        connection.execute("INSERT INTO alembic_version VALUES ('older')")
    return path


def settings_of(root: Path, study: str | None = None) -> Settings:
    settings, _ = project.parameters(root, study, None)
    assert settings is not None
    return settings


def test_a_store_that_is_not_there_is_not_made(root: Path) -> None:
    found = project.tracking(root, settings_of(root))
    assert (found.level, "the first run makes it" in found.said) == ("ok", True)
    assert not (root / "mlruns").exists()


def test_a_store_of_another_schema_stops_it(root: Path, database: Path) -> None:
    stops(project.tracking(root, settings_of(root)), "schema of another MLflow", "mlflow db upgrade")


def test_a_store_that_another_program_writes_to_is_said_to_be(root: Path, database: Path) -> None:
    with sqlite3.connect(database) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = project.tracking(root, settings_of(root))
        other.rollback()
    assert (found.level, "is locked" in found.said) == ("warning", True)


def test_a_store_that_is_no_database_or_does_not_answer_stops_it(
    root: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.write_text("no database at all" * 200)
    stops(project.tracking(root, settings_of(root)), "move it away")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    stops(project.tracking(root, settings_of(root)), address, "Is the server running")


def test_a_stage_at_work_is_named_and_a_free_lock_left_alone(root: Path) -> None:
    lock = root / "data" / "locks" / "phantom-pretrain@jepa.lock"
    with exclusive(lock, "stage pretrain@jepa"):
        (found,) = project.running(root)
        assert found.level == "warning"
        assert f"stage phantom-pretrain@jepa is at work (process {os.getpid()})" in found.said
    (free,) = project.running(root)
    assert free.level == "ok"
    lock.write_text("process 1")  # its holder was killed
    (left,) = project.running(root)
    assert left.level == "ok"


# --- the videos ---


def folder(root: Path, rows: list[str], header: str = "path,patient,label") -> Path:
    """One's own videos, with a table; files that rows name are videos unless they are there already."""
    videos = root / "data" / "raw" / "mine"
    videos.mkdir(parents=True, exist_ok=True)
    (videos / "videos.csv").write_text("\n".join([header, *rows]) + "\n")
    speckle = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    for row in rows:
        path = videos / row.split(",")[0]
        if path.suffix == ".avi" and not path.exists():
            video.encode(path, speckle, 25, "mjpeg")
    return videos


SICK_AND_WELL = [f"{label}{number}.avi,{label}-{number},{label}" for label in ("sick", "well") for number in range(6)]


def examined(root: Path) -> list[Finding]:
    settings = settings_of(root, "folder")
    manifests, found = sources.sources(root, settings, blocks=True)
    return [*found, *sources.tasks(settings, manifests, blocks=True)]


def test_a_sound_folder_says_what_is_in_it(root: Path) -> None:
    folder(root, SICK_AND_WELL)
    found = examined(root)
    assert only(found, "mine").said.startswith("12 videos of 12 patients in ")
    assert only(found, "mine-sick").said == "12 videos of 12 patients (well 6, sick 6)"
    assert {one.level for one in found} == {"ok"}


def test_a_folder_is_named_without_steps_back(root: Path) -> None:
    folder(root, SICK_AND_WELL)
    settings, _ = project.parameters(root, "folder", None, ["ingest.sources.mine.root=data/../data/raw/mine"])
    assert settings is not None
    _, found = sources.sources(root, settings, blocks=True)
    assert only(found, "mine").said.endswith(f" in {(root / 'data' / 'raw' / 'mine').resolve()}")


@pytest.mark.parametrize("layout", ["echonet", "echonet_pediatric", "pocus", "covid_blues"])
def test_videos_drawn_under_other_parameters_are_said_to_be(root: Path, layout: str) -> None:
    asked = {"layout": layout, "patients": 3, "frames": 8, "size": 48}
    write(PhantomSettings.model_validate(asked), root / "data" / "raw" / "phantom" / "hearts", 1, lambda *_: None)

    def of(patients: int) -> tuple[dict[str, Any], Finding]:
        change(root, phantom={"hearts": asked | {"patients": patients}}, ingest__sources__hearts__layout=layout)
        settings, _ = project.parameters(root)
        assert settings is not None
        manifests, found = sources.sources(root, settings, blocks=True)
        return manifests, only(found, "hearts")

    manifests, same = of(3)
    assert "hearts" in manifests and " of 3 patients in " in same.said
    manifests, other = of(4)
    assert "hearts" not in manifests, "its tasks and folds would be those of videos that go"
    assert (other.level, other.stops) == ("ok", False)
    assert other.said == "will be drawn anew by the next run: 3 patients are there, of other parameters (4 patients)"


def test_a_missing_folder_stops_its_study_alone(root: Path) -> None:
    stops(only(examined(root), "mine"), "no folder", "videos.csv")


@pytest.mark.parametrize(
    ("header", "rows", "subject", "said"),
    [
        ("path,patient,labels", SICK_AND_WELL, "mine", "nearest: 'labels'"),
        ("path,patient,label", [*SICK_AND_WELL, "x.avi,x,dead"], "mine-sick", "x (dead)"),
        ("path,patient,label", [*SICK_AND_WELL, "x.avi,x,"], "mine-sick", "have no 'label': mine/x"),
        ("path,patient,label", [*SICK_AND_WELL, "sick0.mp4,x,sick"], "mine", "stand more than once: mine/sick0"),
        ("path,patient,label", SICK_AND_WELL[2:8], "mine-sick", "fewer patients than folds"),
        ("path,patient,label", SICK_AND_WELL[:6], "mine-sick", "no video of source 'mine' has label = well"),
        ("path,patient,label", [*SICK_AND_WELL, "../x.avi,x,sick"], "mine", "must stay inside"),
        ("path,patient,label", [*SICK_AND_WELL, "gone.mp4,x,sick"], "mine", "gone.mp4 is not there"),
    ],
)
def test_a_wrong_table_is_named(root: Path, header: str, rows: list[str], subject: str, said: str) -> None:
    folder(root, [row for row in rows if not row.startswith("..")], header)
    (root / "data" / "raw" / "mine" / "videos.csv").write_text("\n".join([header, *rows]) + "\n")
    stops(only(examined(root), subject), said)


def test_files_that_are_no_videos_are_named_without_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = folder(root, SICK_AND_WELL)
    (videos / "sick0.avi").write_bytes(b"")
    (videos / "sick1.avi").write_text("renamed")
    (videos / "well0.avi").unlink()
    os.mkfifo(videos / "well0.avi")
    monkeypatch.setattr(video, "decode", lambda *_: pytest.fail("the doctor decodes nothing"))
    stops(only(examined(root), "mine"), "sick0.avi is empty", "sick1.avi is not a video but a text", "well0.avi is not")


def test_a_set_that_dvc_can_fetch_says_so(root: Path) -> None:
    settings = settings_of(root, "lung")
    _, found = sources.sources(root, settings, blocks=True)
    stops(only(found, "pocus"), "dvc pull data/raw/pocus.dvc", "github.com/jannisborn")


def test_a_public_set_in_another_layout_is_named(root: Path) -> None:
    (root / "data" / "raw" / "pocus").mkdir(parents=True)
    settings = settings_of(root, "lung")
    _, found = sources.sources(root, settings, blocks=True)
    stops(only(found, "pocus"), "no file", "dataset_metadata.csv", "github.com/jannisborn")


def test_weights_of_another_program_are_named(root: Path) -> None:
    settings = settings_of(root)
    assert sources.weights(root, settings) == []
    small = settings.encoder.model_copy(update={"width": 12, "heads": 1, "depth": 1, "image_size": 16, "frames": 2})
    initialise(small, [0, 1], root / "data" / "phantom" / "pretrain" / "random")
    (found,) = sources.weights(root, settings)
    assert (found.level, "2 encoders" in found.said) == ("ok", True)
    foreign = root / "data" / "phantom-runs" / "pretrain" / "jepa" / "seed0" / "checkpoint.safetensors"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"\x80\x04not ours")
    (root / "data" / "phantom" / "pretrain" / "random" / "seed1" / "encoder.json").write_text("{}")
    (found,) = sources.weights(root, settings)
    stops(found, "encoder.json", "not a checkpoint of ours")


# --- room and time ---


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("share", "level"), [(0.9, "missing"), (1.5, "warning"), (3.0, "ok")])
def test_a_full_disk_is_noticed_before_it_is_full(
    root: Path, share: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(root)
    work = workload.count(root, settings, {})
    free = int(share * sum(work.bytes.values()))
    monkeypatch.setattr(workload.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    (found,) = workload.disk(root, settings, work)  # one file system, and links into the cache cost nothing
    assert found.level == level
    assert found.stops == (level == "missing")
    assert ".dvc/cache" in found.said


def test_what_is_already_written_need_not_be_written_again(root: Path) -> None:
    settings = settings_of(root)
    work = workload.count(root, settings, {})
    done = root / "data" / "phantom" / "embed.npy"
    done.parent.mkdir(parents=True)
    with open(done, "wb") as stream:
        stream.truncate(work.bytes["data"])
    (found,) = workload.disk(root, settings, work)
    rest = (work.bytes["reports"] + work.bytes["mlruns"]) / 2**30
    assert f"about {rest:.1f} GB" in found.said


def test_counts_are_those_of_the_study(root: Path) -> None:
    settings = settings_of(root)
    work = workload.count(root, settings, {})
    assert work.videos == work.drawn == {"hearts": 64, "pocus": 120, "blues": 120}
    assert work.clips == (120 + 120) * 2 * (3 + 1)  # videos x views x (random draws + pretrained)
    assert work.trials == {"pocus-pathology": (5 * 4, 120), "blues-covid": (5 * 4, 120)}
    assert work.runs == 1
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    of_each = {"phantom": 3, "ingest": 3, "split": 2, "pretrain": 1, "embed": 4, "probe": 2}
    assert work.stages == sum(of_each.get(name, 1) for name in stages)
    twice = settings.model_copy(update={"embed": settings.embed.model_copy(update={"views": 4})})
    tokens = 2 * work.clips * 8 * 6 * 6 * 192  # float16, of the grid of 16 frames of 96 pixels
    assert workload.count(root, twice, {}).bytes["data"] - work.bytes["data"] == tokens
    encoder = initial_encoder(settings.encoder, 0)
    assert workload.encoder_bytes(settings) == 4 * sum(one.numel() for one in encoder.state_dict().values())


def test_time_is_the_counts_times_what_was_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(root).model_copy(update={"workers": 1})
    work = workload.count(root, settings, {})
    rates = duration.Rates(drawing=1.0, decoding=0.1, step=2.0, clip=0.01, trial_video=0.05)
    monkeypatch.setattr(duration, "measure", lambda settings: rates)
    parts = duration.estimate(settings, work)["parts"]
    measured = {"drawing": 304.0, "decoding": 30.4, "pretraining": 160 * 2.0, "embedding": 19.2, "probes": 240.0}
    assert {name: parts[name] for name in measured} == pytest.approx(measured)
    assert duration.estimate(settings, work)["seconds"] == pytest.approx(sum(parts.values()))
    monkeypatch.setattr(duration.os, "cpu_count", lambda: 4)
    assert duration.estimate(settings, work)["parts"]["probes"] == pytest.approx(240.0)  # one worker stays one
    seeds = settings.pretrain.model_copy(update={"seeds": (0, 1, 2)})
    three = settings.model_copy(update={"pretrain": seeds})
    rounds = duration.estimate(three, workload.count(root, three, {}))["parts"]["pretraining"]
    assert rounds == pytest.approx(2 * 160 * 2.0)  # two cores each, two at a time


def test_every_kind_of_work_is_really_done_when_it_is_timed(root: Path) -> None:
    """At the study's own settings, in a folder of its own; nothing of it is left behind."""
    change(
        root,
        encoder__width=48,
        encoder__depth=1,
        encoder__heads=2,
        encoder__image_size=32,
        probe__attention_head_width=24,
        phantom={"hearts": {"layout": "echonet", "patients": 9, "frames": 12, "size": 48}},
        ingest__sources={"hearts": {"layout": "echonet", "root": "data/raw/phantom/hearts"}},
        ingest__size=32,
        tasks={
            "ef": {
                "source": "hearts",
                "label": "split_official",
                "kind": "binary",
                "classes": ["TRAIN", "TEST"],
                "unit": "video",
            }
        },
        embed__pairs={"random-hearts": {"arm": "random", "source": "hearts"}},
        pretrain__jepa={"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 1},
        pretrain__training={"steps": 4, "batch": 2, "learning_rate": 1e-3},
    )
    settings, (said,) = project.parameters(root, None, None)
    assert settings is not None, said
    threads, before = torch.get_num_threads(), sorted(root.rglob("data/*"))
    rates = duration.measure(settings)
    assert all(0 < rate < float("inf") for rate in vars(rates).values()), rates
    assert torch.get_num_threads() == threads
    assert sorted(root.rglob("data/*")) == before


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "10 seconds"), (61, "60 seconds"), (125, "2 minutes"), (9000, "2.5 hours")]
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert duration.in_words(seconds) == words
