"""One pretraining run killed a hundred times: python benchmarks/kill.py --kills 100

A small run is killed by SIGKILL at random moments, and called again each time: in turns from outside, anywhere, and in
the middle of writing a checkpoint, which is then cut at a random byte. After every kill a copy is continued to the end
and compared with the run that was never killed: weights bit by bit, and the history but for its times.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from echolung.models.vit import VideoViT
from echolung.pretraining import checkpoint
from echolung.pretraining.loop import Trained, train
from echolung.pretraining.run import SeedRun
from echolung.pretraining.settings import PretrainSettings

ENCODER = VideoViT.Settings(width=48, depth=2, heads=2, image_size=32, frames=4, clip_fps=10.0, patch=8)
TIMES = ["seconds", "clips_per_second", "eta_seconds"]


def settings(steps: int) -> PretrainSettings:
    training = {"steps": steps, "batch": 8, "learning_rate": 2e-3, "warmup_steps": 5, "cooldown_steps": 20}
    training |= {"rank_clips": 5, "log_every": 5, "rank_every": 20, "checkpoint_every": 1}
    jepa = {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.9}
    encoders = {"hearts": {"objective": "jepa", "pool": "hearts"}}
    return PretrainSettings.parse({"encoders": encoders, "training": training, "objectives": {"jepa": jepa}}, "kill")


def make_store(directory: Path) -> None:
    directory.mkdir()
    rng, clips = np.random.default_rng(0), {}
    for number in range(12):
        np.save(directory / f"{number}.npy", rng.integers(0, 256, (10 + number, 32, 32), dtype=np.uint8))
        clips[f"hearts/{number}"] = {"sha256": str(number), "fps": 20.0, "frames": 10 + number}
    (directory / "index.json").write_text(json.dumps({"size": 32, "clips": clips, "fingerprint": ""}))


def whole(run: SeedRun) -> Trained:
    return train(run, lambda step, values: None)


def deadly(run: SeedRun, writes: int, share: float) -> None:
    """Train, and die in the checkpoint number `writes` from now, of which `share` is on disk; never if 0."""
    torch.set_num_threads(1)
    written = 0

    def save(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        nonlocal written
        save_file(tensors, path, metadata)
        written += 1
        if written == writes:
            os.truncate(path, int(share * path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save
    whole(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chance, fork = random.Random(chosen.seed), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_store(place / "clips")
        steps = max(40, 2 * chosen.kills)

        def run(name: str) -> SeedRun:
            return SeedRun("hearts", settings(steps), ENCODER, (place / "clips",), 0, place / name)

        begun = time.perf_counter()
        expected = whole(run("whole"))
        step = (time.perf_counter() - begun) / steps
        same = resumed = 0
        for number in range(chosen.kills):
            inside = number % 2 == 1
            child = fork.Process(target=deadly, args=(run("killed"), 2 if inside else 0, chance.random()))
            child.start()
            if not inside:
                time.sleep(chance.uniform(0.05, 0.05 + 3 * step))
                child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL, "the run ended by itself"
            shutil.rmtree(place / "copy", ignore_errors=True)
            shutil.copytree(place / "killed", place / "copy") if (place / "killed").exists() else None
            progress = checkpoint.read_progress(place / "copy")
            resumed += bool(progress and 0 < progress.step < steps)
            found = whole(run("copy"))
            ours, theirs = expected.encoder.state_dict(), found.encoder.state_dict()
            history = [one.history.drop(columns=TIMES) for one in (expected, found)]
            same += all(torch.equal(ours[name], theirs[name]) for name in ours) and history[0].equals(history[1])
    print(
        f"{same}/{chosen.kills} bit-identical after SIGKILL, {chosen.kills // 2} of them in a checkpoint;"
        f" {resumed} went on from a checkpoint"
        f" ({platform.machine()}, torch {torch.__version__}, {datetime.date.today()})"
    )


if __name__ == "__main__":
    main()
