"""What is read out of an encoder against the clips it has seen: python benchmarks/curves.py

Run it in a project where `echolung run --study recipe ingest split` has drawn its recordings. Trains every objective on
the pool `unlabelled` with the recipe of the scale at hand (rate down over the last 30%), two seeds, side by side, and
reads each encoder out on the drawn `pocus-pathology` (linear probe, out of fold) twelve times on the way. Writes
reports/curves.csv and docs/curves.png. A run that was interrupted resumes.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from echolung.compute.search import Readout
from echolung.core.drawing import COLOURS
from echolung.models.encoders import initial_encoder
from echolung.pretraining.loop import train
from echolung.pretraining.run import SeedRun
from echolung.pretraining.settings import PretrainSettings
from echolung.settings import load
from echolung.stage import project_root

CLIPS = {"mae": 60_000, "jepa": 15_000, "salt": 15_000}
SEEDS, POINTS = (0, 1), 12
TASK, POOL = "pocus-pathology", "unlabelled"
METRICS = ("readout/auroc", "readout/brier", "effective_rank", "loss_held_out")


def curve(root: Path, device: str, job: tuple[str, int]) -> pd.DataFrame:
    """One run: a row per read-out, the first of the untrained encoder."""
    torch.set_num_threads(1)
    (objective, seed), settings, data = job, load(root), root / "data" / load(root).study
    every = CLIPS[objective] // POINTS // settings.pretrain.training.batch
    steps = every * POINTS
    values = settings.pretrain.model_dump(mode="json")
    values["training"] |= {"steps": steps, "warmup_steps": round(0.08 * steps), "cooldown_steps": round(0.3 * steps)}
    values["training"] |= {"rank_every": every, "log_every": every, "loaders": 1}
    of = values["objectives"]  # salt: the student as in jepa, the teacher as in mae
    of.setdefault("salt", {**{name: one for name, one in of["jepa"].items() if name != "ema"}, "teacher": of["mae"]})
    values["encoders"] = {objective: {"objective": objective, "pool": POOL}}
    pretrain = PretrainSettings.parse(values, "the curve")
    folder = root / "data" / f"{settings.study}-runs" / "curves" / f"{objective}-{seed}"
    pool = (data / "ingest" / POOL / "clips",)
    run = SeedRun(objective, pretrain, settings.shape_in(pretrain), pool, seed, folder)
    readout = Readout(data, TASK, settings.tasks[TASK], settings.embed.views)
    history = train(run, lambda step, values: None, device, readout).history
    first = {"clips": 0, **readout(initial_encoder(run.encoder, seed).eval())}
    table = pd.concat([pd.DataFrame([first]), history], ignore_index=True)
    return table.reindex(columns=["clips", *METRICS]).assign(objective=objective, seed=seed)


def drawn(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, metric, name in zip(
        panels, METRICS, ("AUROC of the read-out", "Brier score of the read-out", "effective rank"), strict=False
    ):
        for colour, (objective, runs) in zip(COLOURS, table.groupby("objective", sort=False), strict=False):
            for seed, run in runs.groupby("seed"):
                seen = run.dropna(subset=[metric])
                label = str(objective) if seed == SEEDS[0] else None
                panel.plot(seen["clips"] / 1000, seen[metric], color=colour, label=label, alpha=0.9, linewidth=1.4)
        panel.set_xlabel("thousand clips seen")
        panel.set_title(name, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device, root = parser.parse_args().device, project_root()
    jobs = [(objective, seed) for objective in CLIPS for seed in SEEDS]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = pd.concat(pool.map(functools.partial(curve, root, device), jobs), ignore_index=True)
    columns = ["objective", "seed", "clips", *METRICS]
    (root / "reports").mkdir(exist_ok=True)
    found[columns].round(4).to_csv(root / "reports" / "curves.csv", index=False, lineterminator="\n")
    drawn(found).savefig(root / "docs" / "curves.png", dpi=150)
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, {datetime.date.today()}, study {load(root).study}")
    print(found[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
