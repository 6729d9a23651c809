"""How many labels does `echolung suggest` save? python benchmarks/active_learning.py

Plays annotation on a study whose recordings all have masks, after its stages `embed` and `ingest`: training patients of
the official split hand over their masks only when they are chosen, in batches, from 10 that chance chose up to 200.
What chooses is `methods/suggestion.py: suggest`, as the command calls it, on an encoder's frozen tokens; a patient is
one unit. After each batch a light decoder learns from all masks at hand. Scores, on the validation patients: Dice of
the left ventricle, and the error of the ejection fraction by biplane discs of the drawn masks against the same discs of
the reference masks (a patient on whom nothing is drawn at end-diastole gets the median of the labelled ones). Test
patients are not opened. Writes reports/active-learning.csv and docs/active-learning.png.
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
from typing import get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from echolung.core.drawing import COLOURS
from echolung.core.errors import DataError
from echolung.core.runtime import derived_seed
from echolung.data.splits import ALWAYS_TRAINED
from echolung.embedding.recordings import APICAL, Recordings
from echolung.hearts.volumes import ejection_fraction, largest, volume
from echolung.kinds.segmentation import measures, segmentation_of
from echolung.methods.segmentation import Light
from echolung.methods.suggestion import Strategy, suggest
from echolung.settings import Settings, load
from echolung.stage import project_root

SIZES = (10, 20, 40, 80, 120, 200)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PHASES = ("ED", "ES")


class Play:
    """One task with one encoder's tokens, and what is known of it."""

    def __init__(self, root: Path, settings: Settings, name: str, arm: str) -> None:
        data, self.task = root / "data" / settings.study, segmentation_of(settings.tasks[name])
        tokens = data / "embed" / self.task.source / arm / f"seed{settings.seeds(arm)[0]}"
        self.recordings = Recordings.of_sources(data / "ingest", [self.task.source], [tokens])
        given = settings.fit.of("light-decoder")
        self.settings = Light.Settings.parse(given.model_dump() | {"curve": ()}, "the decoder")
        rows = self.recordings.parts[0].manifest
        self.pool, self.validation = (rows[rows["split_official"] == side] for side in ("TRAIN", "VAL"))
        self.truth = {
            str(name): {phase: self.recordings.masks(name).maps[at] for phase, at in self.at(name).items()}
            for name in (*self.pool["sample_id"], *self.validation["sample_id"])
        }

    def at(self, name: str) -> dict[str, int]:
        """Where end-diastole and end-systole are among the traced frames."""
        phases = self.recordings.masks(name).phases
        return {phase: phases.index(phase) for phase in PHASES}

    def fractions(self, rows: pd.DataFrame, maps: dict[str, dict[str, np.ndarray]]) -> pd.Series:
        """The ejection fraction of each patient with both views; NaN where its end-diastole is empty."""
        found = {}
        for patient, mine in rows.groupby("patient_id"):
            names = mine.drop_duplicates("view").set_index("view")["sample_id"]
            if not set(APICAL) <= set(names.index):
                continue
            spacings = [self.recordings.masks(names[view]).spacing for view in APICAL]
            views = [{phase: largest(maps[names[view]][phase] == 1) for phase in PHASES} for view in APICAL]
            full, empty = (volume((views[0][one], spacings[0]), (views[1][one], spacings[1])) for one in PHASES)
            found[patient] = ejection_fraction(full, empty) if full > 0 else np.nan
        return pd.Series(found, dtype=float)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a play lives as long as its process
    def scores(self, patients: frozenset[str], seed: int) -> dict[str, float]:
        """After learning from these patients."""
        rows = self.pool[self.pool["patient_id"].isin(patients)].assign(inner=ALWAYS_TRAINED)
        one = Light.fit(self.settings, self.task, self.recordings, rows, derived_seed(seed, "score"), Path())
        maps, dice = {}, []
        for name in map(str, self.validation["sample_id"]):
            drawn = one.maps(self.recordings, name, None)
            maps[name] = {phase: drawn[at] for phase, at in self.at(name).items()}
            dice += [measures(maps[name][phase] == 1, self.truth[name][phase] == 1, 1.0)[0] for phase in PHASES]
        usual = self.fractions(rows, self.truth).median()
        error = self.fractions(self.validation, maps).fillna(usual) - self.fractions(self.validation, self.truth)
        return {"dice": float(np.mean(dice)), "ef_mae": float(error.abs().mean())}


def played(root: Path, name: str, arm: str, sizes: tuple[int, ...], seed: int) -> pd.DataFrame:
    """Every strategy from the same first patients: a row per strategy and number of patients."""
    torch.set_num_threads(1)
    play, rows = Play(root, load(root), name, arm), []
    patients = np.random.default_rng(seed).permutation(play.pool["patient_id"].unique())
    frames = {str(one): play.recordings.masks(one).frames.tolist() for one in play.pool["sample_id"]}
    for strategy in STRATEGIES:
        known = set(patients[: sizes[0]])
        for step, size in enumerate(sizes):
            if step:
                mine = play.pool["patient_id"].isin(known)
                old, new = play.pool[mine].reset_index(drop=True), play.pool[~mine].reset_index(drop=True)
                table, _ = suggest(
                    play.task, play.settings, play.recordings, old, new, frames, size - len(known),
                    derived_seed(seed, step), unit="patient_id", strategy=strategy,
                )  # fmt: skip
                known |= set(table["patient_id"])
            rows.append({"strategy": strategy, "seed": seed, "patients": size, **play.scores(frozenset(known), seed)})
    return pd.DataFrame(rows)


def needed(curve: pd.Series, value: float) -> float:
    """Patients at which a curve (score by patients) first reaches a value, between its points; inf: nowhere."""
    best = curve.cummax()
    if value > best.iloc[-1]:
        return float("inf")
    above = int((best >= value).to_numpy().argmax())
    if not above:
        return float(curve.index[0])
    (low, high), (before, after) = curve.index[above - 1 : above + 1], best.iloc[above - 1 : above + 1]
    return float(low + (high - low) * (value - before) / (after - before))


def saved(table: pd.DataFrame) -> pd.DataFrame:
    """Of each strategy and number of patients, how many chance needs for its mean Dice."""
    means = table.pivot_table(index="patients", columns="strategy", values="dice")
    rows = [
        {"strategy": one, "patients": size, "dice": dice, "random needs": needed(means["random"], dice)}
        for one in STRATEGIES
        if one != "random"
        for size, dice in means[one].iloc[1:].items()
    ]
    table = pd.DataFrame(rows)
    share = 1 - table["patients"] / table["random needs"]
    return table.assign(saved=share.where(np.isfinite(table["random needs"])))


def drawn(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(8.8, 3.2), layout="constrained")
    names = {"dice": "Dice of the left ventricle", "ef_mae": "error of the ejection fraction, points"}
    for panel, (measure, name) in zip(figure.subplots(1, 2), names.items(), strict=True):
        for colour, strategy in zip(COLOURS, STRATEGIES, strict=False):
            found = table[table["strategy"] == strategy].groupby("patients")[measure].agg(["mean", "min", "max"])
            panel.plot(found.index, found["mean"], color=colour, label=strategy, marker="o", markersize=3)
            panel.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.12, linewidth=0)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("patients with masks")
        panel.set_xscale("log")
        ticks = sorted(set(table["patients"]))
        panel.set_xticks(ticks, map(str, ticks))
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="camus-masks")
    parser.add_argument("--arm", help="whose encoder; by default the task's first candidate with one")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="numbers of patients with masks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one seed at a time")
    given, root = parser.parse_args(), project_root()
    settings, sizes = load(root), tuple(given.sizes)
    arms = sorted(settings.encoders_of(given.task), key=lambda name: settings.arms[name].role != "candidate")
    arm, seeds = given.arm or arms[0], range(given.seeds)
    there = Play(root, settings, given.task, arm).pool["patient_id"].nunique()
    if there < sizes[-1]:
        raise DataError(f"{given.task} has {there} training patients", "Give --sizes up to that number.")
    job = functools.partial(played, root, given.task, arm, sizes)
    if given.workers > 1:
        with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
            found = pd.concat(pool.map(job, seeds), ignore_index=True)
    else:
        found = pd.concat(map(job, seeds), ignore_index=True)
    for folder in ("reports", "docs"):
        (root / folder).mkdir(exist_ok=True)
    found.round(4).to_csv(root / "reports" / "active-learning.csv", index=False, lineterminator="\n")
    drawn(found).savefig(root / "docs" / "active-learning.png", dpi=150)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}, study {settings.study}, arm {arm}")
    for measure, digits in (("dice", 3), ("ef_mae", 2)):
        wide = found.pivot_table(index="strategy", columns="patients", values=measure, sort=False)
        print(f"\n{measure}, mean of {given.seeds} seeds\n{wide.round(digits).to_string()}")
    print("\nPatients that chance needs for the same Dice; inf: more than it was given")
    print(saved(found).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
