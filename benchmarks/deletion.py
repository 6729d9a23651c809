"""Does Grad-CAM of a U-Net mean anything? python benchmarks/deletion.py data/STUDY [--task hearts-masks]

A U-Net is fitted on the training patients of a study; the defaults are those of heart-drawn, whose own is then taken.
On test patients' ED and ES, blocks of the sector are blurred and the left ventricle's Dice is measured again: where
the map is highest or lowest, where another patient's is highest, and random patches as smooth as a map. Intervals:
patients resampled.
"""

import argparse
import datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from echolung.data.splits import read_folds
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask, measures
from echolung.methods.fitting import outer_fold
from echolung.methods.gradcam import grad_cam
from echolung.methods.segmentation import LAYER, Segmentation, UNetSettings

DRAWS, BLOCK, SHARES = 5, 8, (0.1, 0.2, 0.4)  # side of a block in pixels: divides that of the frames


def deleted(frames: np.ndarray, score: np.ndarray, share: float) -> np.ndarray:
    """Frames uint8 (T, S, S) without the `share` of their sector's blocks that has the highest score (T, h, w)."""
    found, side = frames.copy(), frames.shape[-1] // BLOCK
    for frame, mine, old in zip(found, score, frames, strict=True):
        shown = np.flatnonzero(old.reshape(side, BLOCK, side, BLOCK).any(axis=(1, 3)))
        order = np.argsort(-cv2.resize(mine, (side, side)).ravel()[shown], kind="stable")
        chosen = shown[order[: round(share * len(shown))]]
        gone = np.kron(np.isin(np.arange(side**2), chosen).reshape(side, side), np.ones((BLOCK, BLOCK), bool))
        frame[gone] = cv2.GaussianBlur(old, (0, 0), BLOCK)[gone]
    return found


@torch.no_grad()
def dice(one: Segmentation, frames: np.ndarray, truth: np.ndarray) -> float:
    drawn = one.net(torch.from_numpy(frames)).argmax(dim=1).numpy()
    return float(np.mean([measures(a == 1, b == 1, 1.0)[0] for a, b in zip(drawn, truth, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    for name, default in (("task", "hearts-masks"), ("encoder", "mit_b0"), ("weights", ""), ("steps", 300)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    chosen, rows = parser.parse_args(), []
    folds = read_folds(chosen.data / "split" / f"{chosen.task}.csv")
    (training, test), source = outer_fold(folds, 0, 0), str(folds["source"].iloc[0])
    task = SegmentationTask(kind="segmentation", source=source)
    recordings = Recordings.of_sources(chosen.data / "ingest", [source])
    settings = UNetSettings(encoder=chosen.encoder, weights=chosen.weights, steps=chosen.steps)
    work = chosen.data.with_name(f"{chosen.data.name}-runs") / "fit" / ".work" / "deletion"
    one = Segmentation.fit(settings, task, recordings, training, 0, work)
    names, seen, cells = list(test.drop_duplicates("patient_id")["sample_id"]), {}, {}
    for name in names:
        traced = recordings.masks(name)
        ends = [traced.phases.index(phase) for phase in ("ED", "ES")]
        seen[name] = one.inputs(recordings, name, traced.frames[ends]), traced.maps[ends]
    for layer in ("net.decoder.center", LAYER):
        maps = {name: grad_cam(one.net, one.net.get_submodule(layer), seen[name][0], 1) for name in names}
        for at, name in enumerate(names):
            orders = {"highest": [maps[name]], "another's highest": [maps[names[at - 1]]], "lowest": [-maps[name]]}
            orders["random"] = np.random.default_rng(at).random((DRAWS, *maps[name].shape))
            for what, share in ((what, share) for what in orders for share in SHARES):
                left = [dice(one, deleted(seen[name][0], score, share), seen[name][1]) for score in orders[what]]
                rows.append((layer, what, f"{share:.0%}", dice(one, *seen[name]) - np.mean(left)))
    whole = np.mean([dice(one, *seen[name]) for name in names])
    print(datetime.date.today(), chosen, f"{len(names)} test patients, Dice {whole:.2f}; lost by share deleted:")
    for key, mine in pd.DataFrame(rows).groupby([0, 1, 2], sort=False)[3]:
        low, high = np.quantile(np.random.default_rng(0).choice(mine, (1000, len(mine))).mean(axis=1), [0.025, 0.975])
        cells[key] = f"{mine.mean():.2f} [{low:.2f}, {high:.2f}]"
    print(pd.Series(cells).unstack(sort=False).to_string())


if __name__ == "__main__":
    main()
