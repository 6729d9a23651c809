"""Every video is decoded once, for all studies; failures stay in the manifest; a killed run continues."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import psutil
import pytest

from echolung.core.errors import DependencyError, GateError
from echolung.data import video
from echolung.data.clips import ClipStore
from echolung.data.geometry import letterbox
from echolung.data.ingest import IngestSettings, ingest
from echolung.data.masks import read_masks
from echolung.gates.gate import check

SIZE = 32


class Study:
    """A project with one folder of videos, its stored clips, and a count of what was decoded."""

    def __init__(self, root: Path) -> None:
        self.root, self.videos, self.out = root, root / "videos", root / "out"
        self.videos.mkdir(parents=True)
        self.decodes, self.said = 0, ""

    def add(self, *names: str, frames: int = 12) -> None:
        for name in names:
            noise = np.random.default_rng(list(name.encode())).integers(0, 255, (frames, 48, 40), dtype=np.uint8)
            video.encode(self.videos / name, noise, 25, "mjpeg")

    def list(self, *names: str) -> None:
        lines = [f"{name},p{number},{'ab'[number % 2]}" for number, name in enumerate(names)]
        (self.videos / "videos.csv").write_text("\n".join(["path,patient,label", *lines]) + "\n")

    def ingest(self, size: int = SIZE) -> pd.DataFrame:
        """As the stage does it: DVC removes the output first."""
        self.decodes, messages = 0, []

        def count(done: int, total: int) -> None:
            self.decodes += 1
            assert (done, total >= done) == (self.decodes, True)

        values = {"size": size, "sources": {"mine": {"layout": "folder", "root": "videos"}}}
        found = ingest("mine", IngestSettings.parse(values, ""), self.root, 1, count, messages.append)
        self.said = "\n".join(messages)
        shutil.rmtree(self.out, ignore_errors=True)
        found.write(self.out)
        return found.manifest

    @property
    def store(self) -> ClipStore:
        return ClipStore.open(self.out / "clips")

    def cached(self, content: str) -> Path:
        (path,) = (self.root / "data" / "cache" / "clips").glob(f"*/{content}.npy")
        return path


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two videos, decoded."""
    made = Study(tmp_path)
    made.add("a.avi", "b.avi")
    made.list("a.avi", "b.avi")
    made.ingest()
    assert made.decodes == 2
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_store_holds_every_frame_letterboxed(study: Study) -> None:
    manifest = study.ingest()
    assert study.store.sample_ids == ["mine/a", "mine/b"]
    for row in manifest.itertuples():
        whole = video.decode(study.root / row.path)
        assert np.array_equal(study.store.frames(row.sample_id), letterbox(whole.frames, SIZE))
        assert (row.frames, row.frames_declared, row.height, row.width, row.codec) == (12, 12, 48, 40, "mjpeg")
        assert row.fps == study.store.fps(row.sample_id) == pytest.approx(25)
        assert (row.sha256, row.pixel_aspect) == (study.store.sha256(row.sample_id), 1)
    assert manifest["decode_error"].isna().all()
    assert manifest["path"].tolist() == ["videos/a.avi", "videos/b.avi"]  # the project can move
    names = {f"clips/{content}.npy" for content in manifest["sha256"]}
    names |= {"clips/index.json", "manifest.parquet", "masks/index.json", "masks/masks.npy"}
    assert set(files(study.out)) == names and read_masks(study.out / "masks") == {}, "nothing is traced"


def test_an_output_that_dvc_removed_costs_no_decoding_and_no_space(study, monkeypatch) -> None:
    before, manifest = files(study.out), study.ingest()
    assert study.decodes == 0 and files(study.out) == before
    for content in manifest["sha256"]:
        assert (study.out / "clips" / f"{content}.npy").samefile(study.cached(content))
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(18, "Invalid cross-device link")))
    study.ingest()
    assert files(study.out) == before, "where links are not possible, frames are copied"


def test_only_new_contents_are_decoded(study: Study) -> None:
    study.add("c.avi")
    (study.videos / "a.avi").rename(study.videos / "z.avi")
    study.list("z.avi", "b.avi", "c.avi")
    study.ingest()
    assert study.decodes == 1, "neither the renamed nor the old one"
    assert study.store.sample_ids == ["mine/z", "mine/b", "mine/c"]
    study.ingest(size=48)
    assert (study.decodes, study.store.frames("mine/b").shape) == (3, (12, 48, 48))
    study.add("b.avi", frames=7)
    study.ingest()
    assert (study.decodes, study.store.frames("mine/b").shape) == (1, (7, SIZE, SIZE))
    study.list("z.avi")
    study.ingest()
    assert (study.decodes, study.store.sample_ids) == (0, ["mine/z"])
    assert len(list((study.out / "clips").iterdir())) == 2


def test_a_temporary_experiment_uses_the_cache_of_its_workspace(study: Study) -> None:
    experiment = Study(study.root / ".dvc" / "tmp" / "exps" / "tmpabc")
    shutil.copytree(study.videos, experiment.videos, dirs_exist_ok=True)
    experiment.add("c.avi")
    experiment.list("a.avi", "b.avi", "c.avi")
    experiment.ingest()
    assert experiment.decodes == 1 and len(files(study.root / "data")) == 6 and not (experiment.root / "data").exists()


@pytest.mark.parametrize("damage", ["edited", "cut", "removed", "facts"])
def test_cached_frames_that_changed_are_decoded_again_and_it_says_so(damage: str, study: Study) -> None:
    before, path = files(study.out), study.cached(study.store.sha256("mine/a"))
    if damage == "edited":
        frames = np.load(path)
        frames[3, 5, 7] ^= 1  # of the right shape and type, and another picture
        np.save(path, frames)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "removed":
        path.unlink()
    else:
        path.with_suffix(".json").write_text('{"sha256"')
    study.ingest()
    assert study.decodes == 1 and "1 videos in" in study.said and "are decoded again" in study.said
    assert files(study.out) == before


def test_bad_files_are_rows_that_the_gate_names_and_are_tried_again(study, capsys) -> None:
    good = ["a.avi", "blank and 'quote'.avi", "Ülger 肺.avi", "-c.avi"]
    bad = ["empty.mp4", "page.mp4", "folder.mp4", "absent.mp4", "n" * 300 + ".mp4", "cut.avi"]
    study.add(*good[1:], "cut.avi")
    cut = study.videos / "cut.avi"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (study.videos / "empty.mp4").write_bytes(b"")
    (study.videos / "page.mp4").write_text("<html>Log in</html>")
    (study.videos / "folder.mp4").mkdir()
    names = [name for pair in itertools.zip_longest(good, bad) for name in pair if name]
    study.list(*names)
    manifest = study.ingest().set_index("path")
    assert manifest.index.tolist() == [f"videos/{name}" for name in names]  # none dropped, none replaced
    for name in names:
        row = manifest.loc[f"videos/{name}"]
        assert pd.isna(row["decode_error"]) == (name in good)
        assert row["frames"] == (12 if name in good else 0) or name == "cut.avi"
    assert 0 < manifest.loc["videos/cut.avi", "frames"] < manifest.loc["videos/cut.avi", "frames_declared"]
    assert study.store.sample_ids == [f"mine/{name[:-4]}" for name in names if name in (*good, "cut.avi")]
    with pytest.raises(GateError, match=r"empty.*is empty"):
        check("ingest", "mine", {"manifest": manifest.reset_index()}, study.root / "validation", labels=[])
    printed = capsys.readouterr().err
    assert all(f"mine/{name[:-4]}" in printed for name in bad)
    study.ingest()
    assert study.decodes == 2, "failures are not cached: FFmpeg may have been the reason"
    for name in ("empty.mp4", "page.mp4"):
        shutil.copy(study.videos / "a.avi", study.videos / name)
    study.list("a.avi", "empty.mp4", "page.mp4")
    repaired = study.ingest()
    assert (study.decodes, repaired["frames"].tolist()) == (0, [12, 12, 12])
    check("ingest", "mine", {"manifest": repaired}, study.root / "validation", labels=[])


def test_missing_libraries_are_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchcodec.ffmpeg_major_version", None)
    with pytest.raises(DependencyError, match="apt-get install ffmpeg"):
        study.ingest()


PROGRAM = """
import json, os, signal, sys, multiprocessing
from pathlib import Path
from echolung.data.ingest import IngestSettings, ingest
if __name__ == "__main__":
    root = Path(sys.argv[1])
    settings = IngestSettings.parse({"size": 32, "sources": {"mine": {"layout": "folder", "root": "videos"}}}, "")
    def on_progress(done, total):
        if done == 3:
            pids = [child.pid for child in multiprocessing.active_children()]
            (root / "pids.json").write_text(json.dumps(pids))
            os.kill(os.getpid(), signal.SIGKILL)
    ingest("mine", settings, root, 2, on_progress)
"""


def test_a_killed_run_leaves_no_process_and_continues(tmp_path: Path) -> None:
    study, undisturbed = Study(tmp_path / "one"), Study(tmp_path / "two")
    names = [f"v{number}.avi" for number in range(8)]
    study.add(*names)
    study.list(*names)
    (study.root / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(study.root / "program.py"), str(study.root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, env=environment, stderr=subprocess.PIPE, timeout=600, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    pids = json.loads((study.root / "pids.json").read_text())
    workers = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(workers, timeout=120)[1] == [], "a decoding process outlived its parent"
    for half in (study.root / "data" / "cache" / "clips").glob("*/.*"):
        half.unlink()  # half written: of another name, and never read
    study.ingest()
    assert study.decodes <= 5  # three were done
    shutil.copytree(study.videos, undisturbed.videos, dirs_exist_ok=True)
    undisturbed.ingest()
    for folder in ("out", "data"):
        assert files(study.root / folder) == files(undisturbed.root / folder)
