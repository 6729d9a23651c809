"""Every video is decoded once, ever; what cannot be decoded stays in the manifest; a killed run goes on."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from scipy.ndimage import gaussian_filter

from echolung.core.errors import DataError, DependencyError, DiskError, GateError, SettingsError
from echolung.data import video
from echolung.data.clips import ClipStore, letterbox
from echolung.data.ingest import IngestSettings, ingest
from echolung.gates.gate import check

torch.set_num_threads(1)
SIZE = 32


def speckle(frames: int, seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(frames, 48, 40)), (2, 1, 1))
    return (128 + 50 * field / field.std()).clip(0, 255).astype(np.uint8)


class Study:
    """A folder of videos with its csv, its store, and a count of what was decoded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.videos = root / "videos"
        self.store = root / "clips"
        self.videos.mkdir()
        self.decodes = 0

    def add(self, *names: str, frames: int = 12) -> None:
        for name in names:
            video.encode(self.videos / name, speckle(frames, seed=hash_of(name)), 25, "mjpeg")

    def list(self, *names: str) -> None:
        lines = [f"{name},p{number},{'ab'[number % 2]}" for number, name in enumerate(names)]
        (self.videos / "videos.csv").write_text("\n".join(["path,patient,label", *lines]) + "\n")

    def settings(self, size: int = SIZE) -> IngestSettings:
        return IngestSettings.model_validate(
            {"size": size, "sources": {"mine": {"layout": "folder", "root": self.videos.name}}}
        )

    def ingest(self, size: int = SIZE, workers: int = 1) -> pd.DataFrame:
        self.decodes = 0

        def count(done: int, total: int) -> None:
            self.decodes += 1
            assert (done, total >= done) == (self.decodes, True)

        return ingest("mine", self.settings(size), self.root, self.store, workers, count)

    def stored(self) -> dict[str, int]:
        """Files of the store and when each was written."""
        return {path.name: path.stat().st_mtime_ns for path in sorted(self.store.glob("*"))}


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_the_store_holds_every_frame_letterboxed(study: Study) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    manifest = study.ingest()
    store = ClipStore.open(study.store)
    assert store.sample_ids == ["mine/a", "mine/b"]
    for row in manifest.itertuples():
        whole = video.decode(study.root / row.path)
        assert np.array_equal(store.frames(row.sample_id), letterbox(whole.frames, SIZE))
        assert (row.frames, row.frames_declared, row.height, row.width, row.codec) == (12, 12, 48, 40, "mjpeg")
        assert row.fps == store.fps(row.sample_id) == pytest.approx(25)
        assert row.sha256 == store.sha256(row.sample_id)
    assert manifest["decode_error"].isna().all()
    assert manifest["path"].tolist() == ["videos/a.avi", "videos/b.avi"]  # the project can move
    assert manifest["label"].tolist() == ["a", "b"]
    assert sorted(study.stored()) == sorted([f"{content}.npy" for content in manifest["sha256"]] + ["index.json"])


def test_a_new_video_costs_one_decode(study: Study) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    study.ingest()
    assert study.decodes == 2
    before = study.stored()
    again = study.ingest()
    assert study.decodes == 0
    study.add("c.avi")
    study.list("a.avi", "b.avi", "c.avi")
    manifest = study.ingest()
    assert study.decodes == 1
    after = study.stored()
    assert all(after[name] == written for name, written in before.items() if name.endswith(".npy"))
    pd.testing.assert_frame_equal(manifest.iloc[:2], again)
    (study.videos / "a.avi").rename(study.videos / "z.avi")
    study.list("z.avi", "b.avi", "c.avi")
    study.ingest()
    assert study.decodes == 0
    assert ClipStore.open(study.store).sample_ids == ["mine/z", "mine/b", "mine/c"]


def test_another_size_or_content_is_decoded_again(study: Study) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    study.ingest()
    study.ingest(size=48)
    assert study.decodes == 2
    assert ClipStore.open(study.store).frames("mine/a").shape == (12, 48, 48)
    study.add("b.avi", frames=7)
    study.ingest(size=48)
    assert study.decodes == 1
    assert ClipStore.open(study.store).frames("mine/b").shape == (7, 48, 48)


def test_frames_of_removed_videos_leave_the_store(study: Study) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    study.ingest()
    (study.store / ".half-written.npy").write_bytes(b"x")
    study.list("a.avi")
    manifest = study.ingest()
    assert sorted(study.stored()) == sorted([f"{manifest['sha256'][0]}.npy", "index.json"])


def test_damaged_frames_in_the_store_are_decoded_again(study: Study) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    manifest = study.ingest()
    damaged = study.store / f"{manifest['sha256'][0]}.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:500])
    study.ingest()
    assert study.decodes == 1
    assert damaged.read_bytes() == whole


def test_frames_and_index_that_somebody_edited_are_noticed_and_decoded_again(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.add("a.avi", "b.avi")
    study.list("a.avi", "b.avi")
    manifest = study.ingest()
    whole = {path: path.read_bytes() for path in study.store.iterdir()}
    edited = study.store / f"{manifest['sha256'][0]}.npy"
    frames = np.load(edited)
    frames[3, 5, 7] ^= 1  # of the right shape and type, and another picture
    np.save(edited, frames)
    study.ingest()
    assert study.decodes == 1
    assert "The frames of 1 videos" in capsys.readouterr().out
    index = study.store / "index.json"
    index.write_text(index.read_text().replace('"fps": 25.0', '"fps": 50.0', 1))
    with pytest.raises(DataError, match=r"index\.json was changed since it was written"):
        ClipStore.open(study.store)
    again = study.ingest()
    assert study.decodes == 2
    assert "index.json was changed or damaged" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again, manifest)
    assert {path: path.read_bytes() for path in study.store.iterdir()} == whole


def test_a_full_disk_is_one_line_and_what_is_decoded_is_kept(study: Study) -> None:
    study.add("a.avi", "b.avi", frames=4)
    study.add("long.avi", frames=40)
    study.list("a.avi", "b.avi", "long.avi")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * SIZE * SIZE, hard))
    try:
        with pytest.raises(DiskError, match=r"a file could not be written to its end: .*\.npy") as error:
            study.ingest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "call again" in error.value.remedy
    assert sorted(path.suffix for path in study.store.iterdir()) == [".jsonl", ".npy", ".npy"]
    study.ingest()
    assert study.decodes == 1


def test_a_video_that_cannot_be_decoded_is_a_row_and_is_never_replaced(study: Study) -> None:
    study.add("good.avi", "cut.avi", "one.avi", frames=20)
    video.encode(study.videos / "one.avi", speckle(1, seed=1), 25, "mjpeg")
    cut = study.videos / "cut.avi"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (study.videos / "empty.mp4").write_bytes(b"")
    (study.videos / "text.mp4").write_text("no video")
    study.list("good.avi", "empty.mp4", "cut.avi", "text.mp4", "absent.mp4", "one.avi")
    manifest = study.ingest().set_index("sample_id")
    assert manifest.index.tolist() == [f"mine/{name}" for name in ("good", "empty", "cut", "text", "absent", "one")]
    assert manifest["frames"].tolist()[:2] == [20, 0]
    assert "is empty (0 bytes)" in manifest.loc["mine/empty", "decode_error"]
    assert "is not a video" in manifest.loc["mine/text", "decode_error"]
    assert "is not there" in manifest.loc["mine/absent", "decode_error"]
    assert "cut short" in manifest.loc["mine/cut", "decode_error"]
    assert 0 < manifest.loc["mine/cut", "frames"] < manifest.loc["mine/cut", "frames_declared"] == 20
    assert (manifest.loc["mine/one", "frames"], manifest["decode_error"].isna().sum()) == (1, 2)
    store = ClipStore.open(study.store)
    assert store.sample_ids == ["mine/good", "mine/cut", "mine/one"]
    frames = {name: store.frames(name) for name in store.sample_ids}
    for name, stored in frames.items():
        own = letterbox(video.decode(study.root / manifest.loc[name, "path"]).frames, SIZE)
        assert np.array_equal(stored, own)
    shutil.copy(study.videos / "good.avi", study.videos / "empty.mp4")  # repaired
    repaired = study.ingest().set_index("sample_id")
    assert repaired.loc["mine/empty", "frames"] == 20
    assert pd.isna(repaired.loc["mine/empty", "decode_error"])


def test_a_folder_of_good_and_bad_files_names_each_bad_one_and_loses_none(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gate stops the run and names them all; once they are mended, only they are decoded."""
    bad = {
        "empty.mp4": lambda path: path.write_bytes(b""),
        "page.mp4": lambda path: path.write_text("<html>Log in</html>"),
        "pipe.mp4": lambda path: os.mkfifo(path),
        "folder.mp4": lambda path: path.mkdir(),
        "link.mp4": lambda path: path.symlink_to("gone.mp4"),
        "loop.mp4": lambda path: path.symlink_to(path.name),
        "n" * 300 + ".mp4": lambda path: None,  # longer than names of files may be
    }
    good = ["a.avi", "blank and 'quote'.avi", "Ülger 肺.avi", "-c.avi"]
    study.add(*good)
    for name, make in bad.items():
        make(study.videos / name)
    names = [name for pair in itertools.zip_longest(good, bad) for name in pair if name]
    study.list(*names)
    manifest = study.ingest().set_index("path")
    assert manifest.index.tolist() == [f"videos/{name}" for name in names]
    assert study.decodes == len(good) + 2  # the others cannot be read at all
    for name in names:
        row = manifest.loc[f"videos/{name}"]
        assert (row["frames"], pd.isna(row["decode_error"])) == ((0, False) if name in bad else (12, True))
    with pytest.raises(GateError, match=r"the video decodes without an error: mine/empty .*is empty"):
        check("ingest", "mine", {"manifest": manifest.reset_index()}, study.root / "validation")
    printed = capsys.readouterr().err
    assert all(f"mine/{Path(name).stem}" in printed for name in bad)
    for name in bad:
        path = study.videos / name
        if len(name) > 255:
            continue
        path.rmdir() if path.is_dir() else path.unlink()
        study.add(name.replace(".mp4", ".avi"))
    mended = [name.replace(".mp4", ".avi") for name in names if len(name) <= 255]
    study.list(*mended)
    manifest = study.ingest()
    assert study.decodes == len(bad) - 1
    check("ingest", "mine", {"manifest": manifest}, study.root / "validation")
    assert ClipStore.open(study.store).sample_ids == [f"mine/{Path(name).stem}" for name in mended]
    study.list("a.avi")
    study.ingest()
    assert study.decodes == 0


def test_names_that_stand_twice_are_named_before_anything_is_decoded(study: Study) -> None:
    study.add("a.avi")
    study.list("a.avi", "a.mp4")
    with pytest.raises(DataError, match=r"sample ids stand more than once: mine/a .*a.avi.*mine/a .*a.mp4"):
        study.ingest()
    assert not study.store.exists()


def test_what_is_missing_is_said_first(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.list("a.avi")
    with pytest.raises(SettingsError, match="no source 'other'") as caught:
        ingest("other", study.settings(), study.root, study.store)
    assert "mine" in caught.value.remedy
    import torchcodec

    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    with pytest.raises(DependencyError, match="apt-get install ffmpeg"):
        study.ingest()


INTERRUPTED = """
import json, os, signal, sys, multiprocessing
from pathlib import Path
from echolung.data.ingest import IngestSettings, ingest
if __name__ == "__main__":
    root, how = Path(sys.argv[1]), getattr(signal, sys.argv[2])
    settings = IngestSettings.model_validate(
        {"size": 32, "sources": {"mine": {"layout": "folder", "root": "videos"}}}
    )
    def on_progress(done, total):
        if done == 3:
            pids = [child.pid for child in multiprocessing.active_children()]
            (root / "pids.json").write_text(json.dumps(pids))
            os.killpg(0, how) if how == signal.SIGINT else os.kill(os.getpid(), how)
    ingest("mine", settings, root, root / "clips", 2, on_progress)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_an_interrupted_run_leaves_no_process_and_goes_on(study: Study, how: str) -> None:
    names = [f"v{number}.avi" for number in range(8)]
    study.add(*names)
    study.list(*names)
    (study.root / "interrupted.py").write_text(INTERRUPTED)
    killed = subprocess.run(
        [sys.executable, str(study.root / "interrupted.py"), str(study.root), how],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode in (-getattr(signal, how), 1), killed.stderr.decode()
    pids = json.loads((study.root / "pids.json").read_text())
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a decoding process outlived its parent"
        time.sleep(0.05)
    assert not (study.store / "index.json").exists()
    with open(study.store / "journal.jsonl", "a") as journal:
        journal.write('{"fingerprint": "half a li')
    resumed = study.ingest()
    assert 0 < study.decodes <= 5
    untouched = ingest("mine", study.settings(), study.root, study.root / "other", 1)
    pd.testing.assert_frame_equal(resumed, untouched)
    assert {path.name: path.read_bytes() for path in study.store.iterdir()} == {
        path.name: path.read_bytes() for path in (study.root / "other").iterdir()
    }


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
