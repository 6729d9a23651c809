"""Are events of a few frames drowned by attention over the whole clip? python benchmarks/events.py [--unet]

Drawn hearts (four-chamber, two beats or so at 25 frames a second). In an abnormal one a wall stands where it is at
end-diastole in 1 to 12 frames around the second end-systole, and nothing else differs. Tokens: the mean feature of each
frame of a frozen backbone, less the clip's mean; natural images' with `--weights`, else untrained. With `--contours`
they are what a segmentation would tell: both walls' distances from the long axis at eight heights, each wrong by a
normal error of so many millimetres; that tests the temporal part without what a backbone overlooks. With `--unet` they
are what one does tell: the tokens of `hybrid-walls`, by a U-Net that was fitted on end-diastole and end-systole of the
hearts to learn from (`--weights` for its EfficientNet-lite0, if any). `hybrid-tokens`,
{attention alone, with convolution} x {weighted sampler, none}, learns from normal hearts, of which a quarter is shown
with an event, too, of any length; it is asked about other hearts, each without event and with one of every length.
Intervals: hearts resampled, in pairs. The last panel shows what a threshold alone does: a published gain from 26% to
63% recall is two points of one curve.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from echolung.core.runtime import derived_seed
from echolung.data.masks import STRUCTURES, Masks
from echolung.embedding.features import Features
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.hearts.volumes import DISCS
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.segmentation import SegmentationTask
from echolung.methods.hybrid import OnTokens, TemporalSettings
from echolung.methods.segmentation import Segmentation, UNetSettings
from echolung.methods.walls import OnShapes, motion, shapes
from echolung.models.encoders import initial_encoder
from echolung.models.frames import FramesSettings
from echolung.phantom.heart import HeartVideo, beating_heart, draw_heart
from echolung.phantom.motion import Ventricle, outline

FRAMES, FPS = 40, 25.0
LENGTHS = (1, 2, 3, 4, 6, 8, 12)
TASK = ClassificationTask(kind="classification", source="h", label="l", classes=["normal", "event"], unit="video")
STEP = "largest step"
"""No model: the largest difference between neighbouring tokens, since an event begins and ends with a jump."""
MASKS = SegmentationTask(kind="segmentation", source="h")
ARMS = {f"{t}, {b}": {"temporal": t, "balance": b} for t in ("global", "hybrid") for b in ("none", "sampler")}


def chosen(number: int) -> tuple[int, float, int, Ventricle, int]:
    """Seed, ejection fraction and still wall of a heart, how it beats then, and where its second beat empties."""
    for attempt in range(100):
        seed = derived_seed("events", number, attempt)
        random = np.random.default_rng(seed)
        ef, wall = float(random.uniform(45, 75)), int(random.choice((-1, 1)))
        beat = beating_heart("a4c", ef, FRAMES, FPS, np.random.default_rng(seed), wall).ventricle
        empty, reach = beat.end_systole + beat.frames_per_beat, max(LENGTHS) // 2
        if beat.abnormal.start <= empty - reach and empty + reach <= FRAMES:
            break
    return seed, ef, wall, beat, empty


def contours(number: int, error: float) -> tuple[np.ndarray, int]:
    """Millimetres (2, T, 2 x 8) between the axis and the walls, normal and with a still one; where beat two empties."""
    seed, ef, _, beat, empty = chosen(number)
    normal = beating_heart("a4c", ef, FRAMES, FPS, np.random.default_rng(seed), 0).ventricle
    heights = outline(np.linspace(0.2, 0.9, 8))
    walls = np.stack([normal.walls, beat.walls])[..., None] * heights  # (2, 2, T, 8)
    found = walls.transpose(0, 2, 1, 3).reshape(2, FRAMES, -1)
    return found + np.random.default_rng(derived_seed("error", number)).normal(0, error, found.shape[1:]), empty


def segmented(hearts: tuple[range, range], size: int, weights: str) -> list[np.ndarray]:
    """Tokens (V, 2, T, D) of the walls that a U-Net draws, and where second beats empty, of both ranges of hearts."""
    shown, masks, places = {}, {}, {}
    for number in itertools.chain(*hearts):
        videos, beat, places[number] = drawn(number, size, number in hearts[1] or number % 4 == 0)
        shown |= {f"h/{number}/{still}": (video.frames, FPS) for still, video in enumerate(videos)}
        traced = np.array([beat.end_diastole, beat.end_systole])
        masks[f"h/{number}/0"] = Masks(traced, ("ED", "ES"), videos[0].labels()[traced], STRUCTURES, float("nan"))
    recordings = Recordings([Part(pd.DataFrame({"sample_id": list(shown)}), HeldClips(shown), masks=masks)])
    names = list(masks)
    training = pd.DataFrame({"sample_id": names[: len(hearts[0])], "patient_id": names[: len(hearts[0])]})
    training["inner"] = np.where(np.array(hearts[0]) // 4 % 3 == 0, 0, -2)
    settings = UNetSettings(
        encoder="tu-tf_efficientnet_lite0", image_size=size, steps=300, validate_every=100, weights=weights, seed=0
    )
    with tempfile.TemporaryDirectory() as place:
        unet = Segmentation.fit(settings, MASKS, recordings, training, 0, Path(place) / "fit")
    drawn_as = [unet.maps(recordings, name, None) == 1 for name in names[len(hearts[0]) :]]
    truth = [masks[name].maps == 1 for name in names[len(hearts[0]) :]]
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(drawn_as, truth, strict=True)]
    print(f"Dice of the ventricle in the hearts that are asked about: {np.mean(dice):.3f}", flush=True)
    parts = []
    for numbers in hearts:
        tokens = np.zeros((len(numbers), 2, FRAMES, 2 * DISCS + 1), np.float32)
        for at, number in enumerate(numbers):
            names = [name for name in (f"h/{number}/0", f"h/{number}/1") if name in shown]
            # Together, so that one length is the unit of both.
            found = shapes(np.concatenate([unet.maps(recordings, name, np.arange(FRAMES)) for name in names]))
            tokens[at, : len(names)] = found.reshape(len(names), FRAMES, -1)
        parts += [tokens, np.array([places[number] for number in numbers])]
    return parts


def drawn(number: int, size: int, both: bool) -> tuple[list[HeartVideo], Ventricle, int]:
    """A heart, normal and (`both`) with a still wall in beat two; how it beats then, and where that beat empties."""
    seed, ef, wall, beat, empty = chosen(number)
    videos = [draw_heart(ef, FRAMES, FPS, size, seed, "a4c", still) for still in (0, wall)[: 1 + both]]
    outside = np.delete(np.arange(FRAMES), np.arange(FRAMES)[beat.abnormal])
    assert all((one.frames[outside] == videos[0].frames[outside]).all() for one in videos), "nothing else differs"
    return videos, beat, empty


def with_event(tokens: np.ndarray, empty: int, length: int) -> np.ndarray:
    """Tokens (T, D) of a heart whose wall is still in `length` frames around `empty`; tokens: (2, T, D)."""
    found = tokens[0].copy()
    first = empty - length // 2
    found[first : first + length] = tokens[1, first : first + length]
    return found


def embedded(hearts: range, size: int, weights: str, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (V, 2, T, D) of hearts and where their second beats empty; `every`: of events, too, else of a quarter."""
    model = "tf_efficientnet_lite0" if weights else "test_efficientnet"
    spec = FramesSettings(model=model, image_size=size, frames=FRAMES, clip_fps=FPS, weights=weights)
    encoder = initial_encoder(spec, 0).eval()
    found = np.zeros((len(hearts), 2, FRAMES, encoder.width), np.float16)
    places = np.zeros(len(hearts), int)
    for at, number in enumerate(hearts):
        videos, _, places[at] = drawn(number, size, every or at % 4 == 0)
        frames = np.stack([video.frames for video in videos])
        tokens = encoder.encode(torch.from_numpy(frames)).unflatten(1, (FRAMES, -1)).mean(dim=2)
        found[at, : len(frames)] = tokens.half().numpy()
    return found, places


def recordings_of(tokens: np.ndarray, walls: bool) -> tuple[Recordings, list[str]]:
    """Of clips (V, T, D): less each clip's mean; walls as `hybrid-walls` reads them."""
    names, x = [f"h/{number}" for number in range(len(tokens))], tokens.astype(np.float32)
    if walls:  # each clip in units of its own
        x = np.stack([motion(clip / np.quantile(clip[:, -1], 0.95)) for clip in x])
    else:
        x = x - x.mean(axis=1, keepdims=True)
    features = Features.in_memory(names, x[:, None].astype(np.float16), (FRAMES, 1, 1))
    return Recordings([Part(pd.DataFrame({"sample_id": names}), HeldClips({}), features)]), names


def answers(options: argparse.Namespace, train: tuple, test: tuple) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """Probabilities of an event per arm, seed, length (0: none) and heart; the thresholds of every arm's seeds."""
    (tokens, empty), (asked, places) = train, test
    shown = np.arange(0, len(tokens), 4)  # with an event, too
    lengths = np.random.default_rng(0).choice(LENGTHS, len(shown))
    events = [with_event(tokens[at], empty[at], length) for at, length in zip(shown, lengths, strict=True)]
    recordings, names = recordings_of(np.concatenate([tokens[:, 0], events]), options.unet)
    heart = np.concatenate([np.arange(len(tokens)), shown])
    training = pd.DataFrame({"sample_id": names, "patient_id": heart, "y": np.arange(len(heart)) >= len(tokens)})
    training["inner"] = np.where(heart // 4 % 3 == 0, 0, -2)
    variants = {0: asked[:, 0]}
    for length in LENGTHS:
        variants[length] = np.stack([with_event(*one, length) for one in zip(asked, places, strict=True)])
    rows, cuts, method = [], {arm: [] for arm in ARMS}, OnShapes if options.unet else OnTokens
    for length, clips in variants.items():
        held, known = recordings_of(clips, options.unet)
        steps = np.linalg.norm(np.diff(held.tokens(known)[:, 0].astype(np.float32), axis=1), axis=2).max(axis=1)
        rows += [(STEP, 0, length, heart, value) for heart, value in enumerate(steps)]
    for arm, choices in ARMS.items():
        for seed in range(options.seeds):
            settings = TemporalSettings(
                steps=options.steps, batch=16, learning_rate=2e-3, width=32, patience=10, cut="validation", **choices
            )
            with tempfile.TemporaryDirectory() as place:
                one = method.fit(settings, TASK, recordings, training, seed, Path(place))
            cuts[arm].append(float(one.search()["threshold"].iloc[0]))
            one.facts["shift"] = 0.0  # probabilities as they are
            for length, clips in variants.items():
                held, known = recordings_of(clips, options.unet)
                p = one.predict(held, known)[:, 1]
                rows += [(arm, seed, length, heart, value) for heart, value in enumerate(p)]
            print(f"{arm} seed {seed}: stopped after {len(one.search())} looks", flush=True)
    return pd.DataFrame(rows, columns=["arm", "seed", "length", "heart", "p"]), cuts


def scores(p: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """AUROC, and sensitivity at specificity .9, mean over seeds: p (seeds, 2, hearts), normal and with the event."""
    y, found = np.repeat([0, 1], len(rows)), []
    for normal, event in p[:, :, rows]:
        cut = np.quantile(normal, 0.9, method="higher")
        found.append((roc_auc_score(y, np.concatenate([normal, event])), (event > cut).mean()))
    auroc, sensitivity = np.mean(found, axis=0)
    return float(auroc), float(sensitivity)


def table(told: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Of every arm, and of hybrid less global."""
    found: dict[tuple[str, int], np.ndarray] = {}  # by arm and length, of all hearts and of each resample
    for arm in (*ARMS, STEP):
        p = told[told["arm"] == arm].set_index(["length", "seed", "heart"])["p"].unstack()
        draws = np.random.default_rng(0).integers(0, p.shape[1], (resamples, p.shape[1]))
        for length in LENGTHS:
            pair = np.stack([p.loc[0].to_numpy(), p.loc[length].to_numpy()], axis=1)
            found[arm, length] = np.array([scores(pair, draw) for draw in (np.arange(p.shape[1]), *draws)])
    for balance in ("none", "sampler"):
        for length in LENGTHS:
            apart = found[f"hybrid, {balance}", length] - found[f"global, {balance}", length]
            found[f"difference, {balance}", length] = apart
    rows = []
    for (arm, length), every in found.items():
        low, high = np.quantile(every[1:], [0.025, 0.975], axis=0)
        for at, metric in enumerate(("AUROC", "sensitivity at specificity .9")):
            rows.append((arm, length, metric, every[0][at], low[at], high[at]))
    return pd.DataFrame(rows, columns=["arm", "length", "metric", "value", "low", "high"])


def figure(found: pd.DataFrame, told: pd.DataFrame, cuts: dict[str, list[float]], path: Path) -> list[str]:
    """Draws it, and returns in words what thresholds do."""
    picture = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = picture.subplots(1, 3)
    looks = dict(zip(ARMS, (("C0", "-"), ("C0", "--"), ("C1", "-"), ("C1", "--")), strict=True))
    for panel, (metric, rows) in zip((left, middle), found.groupby("metric"), strict=True):
        for at, (arm, one) in enumerate(rows[rows["arm"].isin(ARMS)].groupby("arm", sort=False)):
            x = np.arange(len(LENGTHS)) + 0.08 * (at - 1.5)
            error = np.abs(one[["low", "high"]].to_numpy().T - one["value"].to_numpy())
            panel.errorbar(
                x, one["value"], error, color=looks[arm][0], ls=looks[arm][1], marker=".", capsize=2, label=arm
            )
        panel.set(
            xticks=range(len(LENGTHS)), xticklabels=LENGTHS, xlabel="frames of the event", ylabel=metric, ylim=(0, 1.02)
        )
        panel.axhline(0.5 if metric == "AUROC" else 0.1, color="grey", lw=0.7)
    left.legend(fontsize=8)
    x, words = np.linspace(-4, 4, 200), []
    right.plot(norm.cdf(x - 1.1), norm.cdf(x), color="grey", lw=1, label="d' = 1.10")
    right.plot(norm.cdf(norm.ppf([0.26, 0.63]) - 1.1), [0.26, 0.63], "k*", label="published: 26% and 63% recall")
    for arm in ("hybrid, none", "hybrid, sampler"):
        mine = told[told["arm"] == arm]
        event = mine["length"] > 0
        rates, recalls, _ = roc_curve(event, mine["p"])
        auroc = roc_auc_score(event, mine["p"])
        right.plot(rates, recalls, color="C1", ls=looks[arm][1], label=f"{arm}: AUROC {auroc:.2f}")
        for mark, what, where in (("o", ".5", [0.5] * len(cuts[arm])), ("s", "frozen", cuts[arm])):
            above = mine["p"] > mine["seed"].map(dict(enumerate(where)))
            rate, recall = above[~event].mean(), above[event].mean()
            right.plot(rate, recall, "C1" + mark, mfc="white" if arm == "hybrid, none" else None)
            words.append(
                f"{arm}, threshold {what}: recall {recall:.2f}, specificity {1 - rate:.2f} (AUROC {auroc:.2f})"
            )
    right.set(xlabel="1 - specificity", ylabel="recall, all lengths")
    right.set_title("circles: threshold .5, squares: frozen; open: no sampler", fontsize=8)
    right.legend(fontsize=7, loc="lower right")
    picture.savefig(path, dpi=110)
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("train", 240),
        ("test", 80),
        ("size", 48),
        ("seeds", 3),
        ("steps", 240),
        ("resamples", 200),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--contours", type=float, metavar="MM", help="tokens are walls, with this error")
    parser.add_argument("--unet", action="store_true", help="tokens are the walls that a U-Net draws")
    parser.add_argument("--weights", default="")
    parser.add_argument("--tokens", type=Path, help="a file that keeps the tokens for another call")
    parser.add_argument("--out", type=Path, default=Path("docs/events.png"))
    options, begun = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    hearts = range(options.train), range(10_000, 10_000 + options.test)
    if options.contours is not None:
        walls = [[contours(number, options.contours) for number in numbers] for numbers in hearts]
        parts = [np.array(part) for numbers in walls for part in zip(*numbers, strict=True)]
    elif options.tokens and options.tokens.exists():
        parts = list(np.load(options.tokens).values())
    elif options.unet:
        parts = segmented(hearts, options.size, options.weights)
    else:
        parts = [*embedded(hearts[0], options.size, options.weights, False)]
        parts += embedded(hearts[1], options.size, options.weights, True)
    if options.tokens:
        np.savez(options.tokens, *parts)
    print(f"drawn and embedded in {time.perf_counter() - begun:.0f} s", flush=True)
    told, cuts = answers(options, (parts[0], parts[1]), (parts[2], parts[3]))
    found = table(told, options.resamples)
    words = figure(found, told, cuts, options.out)
    print(
        f"{platform.machine()}, 1 of {os.cpu_count()} threads, {datetime.date.today()};"
        f" {options.train} hearts to learn from, {options.test} asked about, {time.perf_counter() - begun:.0f} s"
    )
    for metric, rows in found.groupby("metric"):
        shown = rows.assign(cell=[f"{r.value:.2f} ({r.low:.2f}-{r.high:.2f})" for r in rows.itertuples()])
        print(metric, shown.pivot(index="arm", columns="length", values="cell").to_string(), sep="\n")
    print(*words, sep="\n")


if __name__ == "__main__":
    main()
