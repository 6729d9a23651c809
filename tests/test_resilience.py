"""What users, machines and accidents do to a study: killed, called twice, without a disk or a store, edited by hand.

One tiny study stands for all: every test takes away what one stage made, disturbs the stage while it makes it again,
and finds the very bytes of the undisturbed one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext as nothing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml
from click.testing import CliRunner
from conftest import Project, clone

from echolung.cli.main import main as cli
from echolung.data.clips import ClipStore
from echolung.data.splits import read_folds
from echolung.embedding.features import Features
from echolung.gates import gate
from echolung.kinds.task import Task
from echolung.methods.novelty import NoveltySettings, described_videos, fit_novelty
from echolung.methods.probes.probe import refit
from echolung.methods.probes.selection import ProbeSettings
from echolung.models.weights import read_record
from echolung.pretraining import checkpoint
from echolung.registry import models as registry
from echolung.serving.model import Classifier, write_classifier
from echolung.tracking import experiments
from echolung.tracking.store import Store, store

PATIENCE = 600
"""Seconds after which something that should end is taken to hang."""
PAUSES = Path(__file__).parent / "pauses"
TINY: dict[str, Any] = {
    "workers": 1,
    "phantom": {"pocus": {"layout": "pocus", "patients": 12, "frames": 12, "size": 64, "seed": 2}},
    "ingest": {"size": 32, "sources": {"pocus": {"layout": "pocus", "root": "data/raw/phantom/pocus"}}},
    "split": {"outer": 2, "inner": 2},
    "encoder": {
        "width": 32, "depth": 1, "heads": 2, "image_size": 32, "patch": 16, "frames": 4, "clip_fps": 12.0,
    },
    "initialise": {"seeds": [0]},
    "pretrain": {
        "arms": {"jepa": {"objective": "jepa", "pool": "pocus"}},
        "training": {
            "steps": 8, "batch": 4, "learning_rate": 1e-3, "log_every": 1, "rank_every": 4, "checkpoint_every": 1,
        },
        "jepa": {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.99},
    },
    "embed": {
        "arms": ["random", "jepa"],
        "pairs": {
            "random-pocus": {"arm": "random", "source": "pocus"}, "jepa-pocus": {"arm": "jepa", "source": "pocus"},
        },
        "views": 1, "batch": 16,
    },
    "probe": {
        "kinds": ["attentive"], "learning_rates": [1e-3], "weight_decays": [10.0], "epochs": 3, "batch": 16,
        "attention_head_width": 16, "mlp_ratio": 0.0, "seed": 0,
    },
    "compare": {"bootstrap": 100, "permutations": 100},
}  # fmt: skip
STAGES = (
    "phantom pocus",
    "ingest pocus",
    "split pocus-pathology",
    "initialise",
    "pretrain jepa",
    "embed random pocus",
    "embed jepa pocus",
    "probe pocus-pathology",
    "compare",
    "report",
)


@dataclass(frozen=True)
class Study(Project):
    """The tiny study, its undisturbed outputs, and ways to disturb it."""

    @property
    def undisturbed(self) -> Path:
        """A copy of data/phantom as it was when nothing had happened."""
        return self.root.parent / "undisturbed"

    @property
    def data(self) -> Path:
        return self.root / "data" / "phantom"

    @property
    def runs(self) -> Path:
        return self.root / "data" / "phantom-runs"

    def here(self, stage: str, **variables: str) -> tuple[int, str]:
        """Call a stage in this very process: its exit code, and what it printed."""
        name, *arguments = stage.split()
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            patch.chdir(self.root)
            for name_of_variable, value in variables.items():
                patch.setenv(name_of_variable, value)
            try:
                importlib.import_module(f"pipelines.{name}").main(arguments, standalone_mode=False)
            except SystemExit as end:
                return int(end.code or 0), said.getvalue()
        return 0, said.getvalue()

    def forget(self, *outputs: str) -> None:
        """Take away outputs (below data/phantom), and what was kept for making them again."""
        for output in outputs:
            shutil.rmtree(self.data / output, ignore_errors=True)
            shutil.rmtree(self.runs / output, ignore_errors=True)

    def assert_undisturbed(self, output: str) -> None:
        """An output (below data/phantom) is, file by file, what it was; of tables, their contents count."""
        before, now = self.undisturbed / output, self.data / output
        names = sorted(path.relative_to(before) for path in before.rglob("*") if path.is_file())
        assert names == sorted(path.relative_to(now) for path in now.rglob("*") if path.is_file())
        assert names
        for name in names:
            if name.suffix == ".parquet":
                pd.testing.assert_frame_equal(pd.read_parquet(now / name), pd.read_parquet(before / name))
            elif name.name != "history.csv":  # it tells times
                assert (now / name).read_bytes() == (before / name).read_bytes(), name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE"):
            patch.delenv(variable, raising=False)
        study = Study(clone(tmp_path_factory.mktemp("resilience") / "study").root)
        path = study.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        params |= TINY | {"tasks": {"pocus-pathology": params["tasks"]["pocus-pathology"]}}
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        for stage in STAGES:
            code, output = study.here(stage)
            assert code == 0, f"{stage}: {output}"
        committed = study.run("dvc", "commit", "-f", "-q")
        assert committed.returncode == 0, committed.stderr
        shutil.copytree(study.data, study.undisturbed)
        yield study


# --- killed ---


@dataclass
class Call:
    """A call of the pipeline that has come to its pause."""

    process: subprocess.Popen[str]
    folder: Path
    mark: str
    paused: int
    """The process that has paused."""

    def all(self) -> list[psutil.Process]:
        """Every process that the call started, and that still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("CALL") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stage(self) -> int:
        """The process of the stage: the first that runs a script of pipelines/."""
        pids = [one.pid for one in self.all() if "pipelines." in " ".join(one.cmdline()) and is_python(one)]
        return min(pids, key=lambda pid: psutil.Process(pid).create_time())

    def named(self, name: str) -> psutil.Process:
        """The one process of this name."""
        (found,) = [one for one in self.all() if one.name() == name]
        return found

    def release(self) -> None:
        (self.folder / "go").touch()

    def end(self) -> tuple[int, str]:
        """Wait for the end of the call and of everything it started; its exit code, and what it printed."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while left := self.all():
            assert time.monotonic() < deadline, f"still running: {[one.cmdline() for one in left]}"
            time.sleep(0.05)
        return self.process.returncode, output


def is_python(process: psutil.Process) -> bool:
    return "python" in process.name()


@pytest.fixture
def paused(study: Study, tmp_path: Path) -> Iterator[Callable[..., Call]]:
    """Start a command that pauses at the count-th file of a pattern; ended with all it started, whatever happens."""
    calls: list[Call] = []

    def start(count: int, pattern: str, *command: str, **variables: str) -> Call:
        number = len(calls)
        folder = tmp_path / f"call{number}"
        folder.mkdir()
        variables |= {"PAUSE_AT": f"{count} {pattern}", "PAUSE_IN": str(folder), "CALL": f"{folder}"}
        process = study.start(*command, PYTHONPATH=f"{PAUSES}:{study.root}", **variables)
        call = Call(process, folder, str(folder), 0)
        calls.append(call)
        deadline = time.monotonic() + PATIENCE
        while not (folder / "paused").exists():
            assert time.monotonic() < deadline, "it came to no pause"
            if process.poll() is not None:
                pytest.fail(f"it ended before its pause: {process.communicate()[0]}")
            time.sleep(0.02)
        call.paused = int((folder / "paused").read_text())
        return call

    yield start
    for call in calls:
        for left in call.all():
            left.kill()


def statuses(study: Study, kind: str) -> list[str]:
    client = store(study.root).client()
    found = client.get_experiment_by_name(f"echolung-phantom-{kind}")
    return [run.info.status for run in client.search_runs([found.experiment_id])]


def test_a_killed_ingest_decodes_no_video_twice(study: Study, paused: Callable[..., Call]) -> None:
    study.forget("ingest/pocus")
    clips = study.data / "ingest/pocus/clips"
    repro = ("dvc", "repro", "-fs", "ingest@pocus")
    call = paused(5, "*/clips/*.npy", *repro)
    os.kill(call.stage(), signal.SIGKILL)
    code, _ = call.end()
    assert code != 0
    first = {path.name: path.stat().st_mtime_ns for path in clips.glob("[!.]*.npy")}
    assert len(first) == 4
    assert "RUNNING" in statuses(study, "stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study.root)
        patch.setattr(os, "execv", lambda *command: None)  # the server itself is MLflow's
        assert CliRunner().invoke(cli, ["ui"]).exit_code == 0
    assert "RUNNING" not in statuses(study, "stages")
    call = paused(4, "*/clips/*.npy", *repro)
    call.process.terminate()  # DVC alone
    call.end()
    second = {path.name: path.stat().st_mtime_ns for path in clips.glob("[!.]*.npy")}
    assert len(second) == 7
    assert study.run(*repro).returncode == 0
    third = {path.name: path.stat().st_mtime_ns for path in clips.glob("[!.]*.npy")}
    assert first.items() <= second.items() <= third.items()
    study.assert_undisturbed("ingest/pocus")


def test_a_killed_pretraining_goes_on_from_its_checkpoint(study: Study, paused: Callable[..., Call]) -> None:
    """DVC, the stage, Ray and one of its workers are killed one after the other, while a second user meddles."""
    study.forget("pretrain/jepa")
    repro = ("dvc", "repro", "-fs", "pretrain@jepa")
    steps = []

    def interrupted(count: int, kill: Callable[[Call], None], *command: str) -> tuple[int, str]:
        call = paused(count, "*/checkpoint.safetensors", *command)
        kill(call)
        ended = call.end()
        progress = checkpoint.read_progress(study.runs / "pretrain/jepa/seed0")
        assert progress is not None
        steps.append(progress.step)
        return ended

    def kill_dvc(call: Call) -> None:
        second = study.run(*repro)
        assert second.returncode != 0
        assert "is busy, it is being blocked by" in second.stdout + second.stderr
        by_hand = study.run(sys.executable, "-m", "pipelines.pretrain", "jepa")
        assert by_hand.returncode == 1
        holder = f"process {call.stage()}"
        assert by_hand.stderr.startswith(f"echolung: stage pretrain@jepa is already running ({holder}).\n")
        assert "Traceback" not in by_hand.stderr
        call.process.kill()

    code, _ = interrupted(2, kill_dvc, *repro)
    assert (code, steps) == (-signal.SIGKILL, [1])
    code, output = interrupted(3, lambda call: os.kill(call.stage(), signal.SIGKILL), *repro)
    assert code != 0
    assert "jepa seed 0: going on from step 1 of 8" in output
    assert "RUNNING" in statuses(study, "stages")
    code, output = interrupted(2, lambda call: os.kill(call.stage(), signal.SIGTERM), *repro)
    assert code != 0
    assert "going on from step 3 of 8" in output
    assert "echolung: stopped; call again to go on." in output
    assert "Traceback" not in output
    assert "RUNNING" not in statuses(study, "stages") + statuses(study, "pretraining")
    code, output = interrupted(2, lambda call: call.named("raylet").kill(), *repro)
    assert code != 0
    assert "going on from step 4 of 8" in output
    assert "echolung: pretraining jepa with seed 0 failed: " in output
    assert "Call again: it goes on from its last checkpoint." in output
    assert "Traceback" not in output
    code, output = interrupted(2, lambda call: os.kill(call.paused, signal.SIGKILL), *repro)
    assert code == 0, output  # the worker was replaced
    assert "going on from step 5 of 8" in output
    assert steps == [1, 3, 4, 5, 8]
    study.assert_undisturbed("pretrain/jepa")
    client = store(study.root).client()
    found = client.get_experiment_by_name("echolung-phantom-pretraining")
    (trial,) = client.search_runs([found.experiment_id])
    points = client.get_metric_history(trial.info.run_id, "loss")
    assert sorted(point.step for point in points) == list(range(1, 9))
    assert trial.info.status == "FINISHED"


def test_killed_probing_keeps_its_finished_trials(study: Study, paused: Callable[..., Call]) -> None:
    study.forget("probe/pocus-pathology")
    repro = ("dvc", "repro", "-fs", "probe@pocus-pathology")
    kept = []

    def interrupted(count: int, kill: Callable[[Call], None]) -> tuple[int, str]:
        call = paused(count, f"{study.runs}/probe/pocus-pathology/????????????????", *repro)
        kill(call)
        ended = call.end()
        folder = study.runs / "probe/pocus-pathology"
        kept.append({str(path): path.stat().st_mtime_ns for path in folder.glob("[!.]*/result.json")})
        return ended

    code, output = interrupted(2, lambda call: call.process.terminate())
    assert code != 0
    code, output = interrupted(2, lambda call: os.kill(call.stage(), signal.SIGKILL))
    assert code != 0
    assert "RUNNING" in statuses(study, "stages")
    assert study.echolung("show").returncode == 0
    assert "RUNNING" not in statuses(study, "stages")
    code, output = interrupted(2, lambda call: os.kill(call.paused, signal.SIGTERM))
    assert code == 0, output  # the worker was replaced
    assert [len(results) for results in kept] == [1, 2, 4]
    assert kept[0].items() <= kept[1].items() <= kept[2].items()
    study.assert_undisturbed("probe/pocus-pathology")


# --- edited by hand ---


def test_an_output_edited_in_place_is_noticed_and_restored(study: Study) -> None:
    """Each output of each stage; DVC's own copies are no part of them, though root may write to anything."""
    locked = yaml.safe_load((study.root / "dvc.lock").read_text())["stages"]
    outputs = [study.root / out["path"] for stage in locked.values() for out in stage["outs"]]
    edited = {}
    for output in outputs:
        path = output if output.is_file() else min(path for path in output.rglob("*") if path.is_file())
        edited[path] = path.read_bytes()
        with open(path, "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([edited[path][-1] ^ 1]))
    status = json.loads(study.run("dvc", "status", "--json").stdout)
    noticed = {name for found in status.values() for change in found for name in change.get("changed outs", {})}
    assert {study.root / name for name in noticed} == set(outputs)
    restored = study.run("dvc", "repro")
    assert restored.returncode == 0, restored.stderr
    assert "The frames of 1 videos in" in restored.stdout  # DVC leaves the clip store to its stage
    assert "they are decoded again" in restored.stdout
    for path, content in edited.items():
        assert path.read_bytes() == content, path
    assert "up to date" in study.run("dvc", "status").stdout


# --- a disk that is full ---


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("stage", "output", "room"),
    [
        ("ingest pocus", "ingest/pocus/clips", 8_000),
        ("embed random pocus", "embed/pocus/random", 4_000),
        ("probe pocus-pathology", "probe/pocus-pathology", 2_000),
        ("report", "../../reports/phantom/figures", 10_000),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    study: Study, monkeypatch: pytest.MonkeyPatch, stage: str, output: str, room: int
) -> None:
    """Once the stage has begun, or (of `probe`) has passed its gate, no file may exceed `room` bytes."""
    folder = (study.data / output).resolve()
    if stage.startswith("ingest"):
        next(folder.glob("*.npy")).unlink()  # otherwise nothing is left to write
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    opened, check = experiments.stage_run, gate.check

    @contextlib.contextmanager
    def opened_then_full(*arguments: Any) -> Iterator[Any]:
        with opened(*arguments) as run, files_of_at_most(room) if stage != "probe pocus-pathology" else nothing():
            yield run

    def passed_then_full(*arguments: Any, **facts: Any) -> None:
        check(*arguments, **facts)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with monkeypatch.context() as full, files_of_at_most(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        if stage.startswith("probe"):
            full.setattr(gate, "check", passed_then_full)
        else:
            full.setattr(experiments, "stage_run", opened_then_full)
        code, said = study.here(stage)
    assert code == 1
    assert re.search(r"^echolung: a file (would be larger than is allowed here|could not be written to its end): /.+\.$"
                     r"\n.* and call again", said, re.MULTILINE), said  # fmt: skip
    assert "Traceback" not in said
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"}
    assert left == before
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    code, said = study.here(stage)
    assert code == 0, said
    if not stage.startswith("report"):
        study.assert_undisturbed(output)


# --- a tracking server that dies ---


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A real MLflow server on this machine: its address, and what kills it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"),
        ],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert server.poll() is None, "the server did not start"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            time.sleep(0.1)
        yield address, kill
    finally:
        kill()


def register_champion(study: Study, place: Store) -> None:
    """A champion of the tiny study, whether it earned it or not."""
    task = Task.model_validate(yaml.safe_load((study.root / "params.yaml").read_text())["tasks"]["pocus-pathology"])
    features = Features.open(study.data / "embed/pocus/random/seed0")
    folds = read_folds(study.data / "split/pocus-pathology.csv")
    settings = ProbeSettings.model_validate(TINY["probe"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / registry.FOLDER
        probe, fitted = refit(features, folds, "pocus-pathology", task, settings, "attentive")
        encoder = study.data / "pretrain/random/seed0"
        names, grid = features.videos["sample_id"], read_record(encoder).settings.grid
        known = described_videos(features, ClipStore.open(study.data / "ingest/pocus/clips"), grid, names)
        usual = fit_novelty(known, names.to_numpy(str), NoveltySettings())
        write_classifier(folder, encoder, probe, fitted, usual, "phantom", 32)
        columns = Classifier.open(folder).record.columns
        with experiments.stage_run(place, "phantom", "promote", "pocus-pathology", {}) as run:
            version = registry.register(place, run, "phantom", "pocus-pathology", folder, columns, {}, "")
    registry.make_champion(place, version)


def test_a_server_holds_runs_and_champions_and_its_death_costs_no_work(
    study: Study, paused: Callable[..., Call], tmp_path: Path
) -> None:
    with tracking_server(tmp_path) as (address, kill):
        remote = {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        code, said = study.here("initialise", **remote)
        assert code == 0, said
        with pytest.MonkeyPatch.context() as patch:
            for name, value in remote.items():
                patch.setenv(name, value)
            register_champion(study, store(study.root))
        video = next((study.root / "data/raw/phantom/pocus/convex").iterdir())
        asked = study.run(sys.executable, "-m", "echolung.cli.main", "predict", str(video), "--json", **remote)
        assert asked.returncode == 0, asked.stderr
        (answer,) = json.loads(asked.stdout)["predictions"]
        assert sum(answer[f"p_{name}"] for name in ("covid", "pneumonia", "regular")) == pytest.approx(1)

        study.forget("pretrain/jepa")
        call = paused(3, "*/checkpoint.safetensors", sys.executable, "-m", "pipelines.pretrain", "jepa", **remote)
        kill()
        call.release()
        code, said = call.end()
        assert code == 0, said
        assert said.count("warning: the tracking store") == 2, "once for the stage's run, once for the trial's"
        assert "The work goes on" in said
        study.assert_undisturbed("pretrain/jepa")

        before = {path: path.stat().st_mtime_ns for path in (study.data / "pretrain/random").rglob("*")}
        code, said = study.here("initialise", **remote)
        assert code == 1
        assert said.startswith(f"echolung: the tracking store {address} cannot be used: ")
        assert "Is the server running and reachable?" in said
        assert "Traceback" not in said
        assert before == {path: path.stat().st_mtime_ns for path in (study.data / "pretrain/random").rglob("*")}
