"""Does Grad-CAM of the U-Net mean anything? python benchmarks/deletion.py STUDY_DATA... [--task hearts-masks]

A U-Net is fitted on the training patients of a segmentation task (data/<study>, after its split). On test patients' ED
and ES, blocks of pixels are deleted (replaced by a wide blur), and the left ventricle's Dice and its summed probability
are measured again. Which blocks: those where the map is highest or lowest, random ones, and those where the map of
another recording is highest. A map that says what the network uses makes its own blocks cost most. Blocks outside the
sector are never chosen. Intervals: patients resampled.
"""

import argparse
import datetime
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from echolung.data.splits import read_folds
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask, measures
from echolung.methods.fitting import outer_fold
from echolung.methods.gradcam import grad_cam
from echolung.methods.segmentation import Segmentation, UNetSettings

DRAWS = 5


def deleted(frames: np.ndarray, score: np.ndarray, share: float, block: int) -> np.ndarray:
    """Frames uint8 (T, S, S) without the `share` of their sector's blocks that has the highest score (T, h, w)."""
    found, side = frames.copy(), frames.shape[-1] // block
    score = F.interpolate(torch.from_numpy(score)[:, None], (side, side), mode="bilinear")[:, 0].numpy()
    for frame, mine, old in zip(found, score, frames, strict=True):
        shown = np.flatnonzero(old[: side * block, : side * block].reshape(side, block, side, block).any(axis=(1, 3)))
        chosen = shown[np.argsort(-mine.ravel()[shown], kind="stable")[: round(share * len(shown))]]
        gone = np.kron(np.isin(np.arange(side**2), chosen).reshape(side, side), np.ones((block, block), bool))
        region = frame[: side * block, : side * block]
        region[gone] = cv2.GaussianBlur(old, (0, 0), block)[: side * block, : side * block][gone]
    return found


def told(one: Segmentation, frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of the left ventricle, and its summed probability: (2,), mean over frames."""
    with torch.no_grad():
        logits = one.net(torch.from_numpy(frames))
    drawn = (logits.argmax(dim=1) == 1).numpy()
    dice = [measures(a, b == 1, 1.0)[0] for a, b in zip(drawn, truth, strict=True)]
    return np.array([np.mean(dice), float(logits.softmax(dim=1)[:, 1].sum() / len(frames))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    for name, default in (("task", "hearts-masks"), ("encoder", "mit_b0"), ("weights", ""), ("steps", 300)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--layers", nargs="+", default=["net.decoder.center"])
    parser.add_argument("--block", type=int, default=8, help="side of a block in pixels")
    chosen, rows = parser.parse_args(), []
    torch.set_num_threads(1)
    for data in chosen.data:
        folds = read_folds(data / "split" / f"{chosen.task}.csv")
        training, test = outer_fold(folds, 0, 0)
        source = str(folds["source"].iloc[0])
        recordings, task = Recordings.of_sources(data / "ingest", [source]), {"kind": "segmentation", "source": source}
        settings = UNetSettings(encoder=chosen.encoder, weights=chosen.weights, steps=chosen.steps)
        with tempfile.TemporaryDirectory() as work:
            one = Segmentation.fit(settings, SegmentationTask.parse(task, ""), recordings, training, 0, Path(work))
        names, shown, masks = [str(name) for name in test["sample_id"]], {}, {}
        for name in names:
            store = recordings.masks(name)
            ends = np.isin(store.phases(name), ["ED", "ES"])
            shown[name], masks[name] = one.inputs(recordings, name, store.frames(name)[ends]), store.masks(name)[ends]
        for layer in chosen.layers:
            maps = {name: grad_cam(one.net, one.net.get_submodule(layer), shown[name], 1) for name in names}
            for at, name in enumerate(names):
                whole, random = told(one, shown[name], masks[name]), np.random.default_rng(at)
                side = (len(shown[name]), *(shown[name].shape[-1] // chosen.block,) * 2)
                orders = {"highest": [maps[name]], "lowest": [-maps[name]], "random": random.random((DRAWS, *side))}
                orders["another's highest"] = [maps[names[at - 3]]]
                for (what, scores), share in ((o, s) for o in orders.items() for s in (0.1, 0.2, 0.4)):
                    left = [told(one, deleted(shown[name], s, share, chosen.block), masks[name]) for s in scores]
                    lost = whole[0] - np.mean(left, axis=0)[0], 1 - np.mean(left, axis=0)[1] / whole[1]
                    rows.append((f"{data.name}, {layer}", what, share, test["patient_id"].iloc[at], whole[0], *lost))
    table = pd.DataFrame(
        rows, columns=["study", "deleted", "share", "patient", "dice", "Dice lost", "probability lost"]
    )
    print(
        f"{datetime.date.today()}, {' '.join(map(str, chosen.data))}: {table['patient'].nunique()} test patients,",
        end="",
    )
    print(f" Dice {table['dice'].mean():.2f} with nothing deleted; {chosen.encoder}, {chosen.steps} steps")
    for metric in ("Dice lost", "probability lost"):
        cells = {}
        for key, mine in table.groupby(["study", "deleted", "share"], sort=False):
            each = mine.groupby("patient")[metric].mean().to_numpy()
            draws = each[np.random.default_rng(0).integers(0, len(each), (1000, len(each)))].mean(axis=1)
            cells[key] = "{:.2f} [{:.2f}, {:.2f}]".format(each.mean(), *np.quantile(draws, [0.025, 0.975]))
        print(metric, pd.Series(cells).unstack().to_string(), sep="\n")


if __name__ == "__main__":
    main()
