"""Size and power of the paired tests on simulated scores: make calibrate, or python benchmarks/calibrate.py

Patients have two labels and answers of 3 pretrained and 5 untrained encoders. An encoder's score of a patient adds its
quality, the patient's difficulty (shared by all encoders, and by the patients of a group), what the recipe makes of the
patient (shared by its seeds), and noise. Probabilities are calibrated. `seeds` is the standard deviation of quality
from seed to seed, in units of the score's noise. Tested is the mean difference of a loss, by

    encoders    sign flips of groups, encoders held fixed (`statistics.sign_flip`): the claim "these encoders"
    recipe      seeds are a sample, too (`statistics.two_way`): the claim "this recipe"

With equal quality the table shows sizes, which should be 5% (and 1.25%, the strictest step of Holm over a family of
four); with 0.8 against 0.6 balanced accuracy it shows power.
"""

from __future__ import annotations

import argparse
import os
import platform

import numpy as np
import pandas as pd
from scipy.special import expit, ndtri

from echolung.evaluation import statistics
from echolung.kinds import metrics

LOSSES = {"log-loss": metrics.log_losses, "Brier": metrics.brier_scores}
PRETRAINED, UNTRAINED = 3, 5
DIFFICULTY, RECIPE = 0.6, 0.3
"""Shares of the variance of a score: the patient, and the recipe's answer to the patient. The rest is noise."""
LEVELS = (0.05, 0.0125)
STRUCTURES = {"63 patients": np.arange(63), "72 patients, 55 groups": np.minimum(np.arange(72), 54)}
"""Group of each patient: COVID-BLUES; POCUS, where 18 recordings cannot be told apart."""


def study(group: np.ndarray, quality: tuple[float, float], seeds: float, random: np.random.Generator) -> np.ndarray:
    """Scores of the label's side (encoders, patients): positive where the answer is right; and their log-odds."""
    patients = len(group)
    shared = (random.normal(size=patients) + random.normal(size=group.max() + 1)[group]) / 2**0.5
    sides = []
    for balanced_accuracy, encoders in zip(quality, (PRETRAINED, UNTRAINED), strict=True):
        strength = ndtri(balanced_accuracy)
        own = strength + seeds * random.normal(size=(encoders, 1)) + RECIPE**0.5 * random.normal(size=patients)
        noise = (1 - DIFFICULTY - RECIPE) ** 0.5 * random.normal(size=(encoders, patients))
        sides.append(2 * strength * (own + DIFFICULTY**0.5 * shared + noise))
    return np.concatenate(sides)


def rejections(group: np.ndarray, quality: tuple[float, float], seeds: float, studies: int) -> list[dict[str, object]]:
    """Share of studies that each test calls different."""
    random = np.random.default_rng(0)
    label = np.arange(len(group)) % 2
    p_values: dict[tuple[str, str], list[float]] = {}
    size = np.bincount(group)
    for _ in range(studies):
        right = expit(study(group, quality, seeds, random))
        p = np.stack([np.where(label == k, right, 1 - right) for k in (0, 1)], axis=-1)
        for name, loss in LOSSES.items():
            of_group = np.stack([np.bincount(group, one) for one in loss(label, p)]) * (len(size) / len(group))
            ours, theirs = of_group[:PRETRAINED], of_group[PRETRAINED:]
            flipped = statistics.sign_flip(ours.mean(axis=0) - theirs.mean(axis=0), 999, random)
            p_values.setdefault((name, "encoders"), []).append(flipped)
            p_values.setdefault((name, "recipe"), []).append(statistics.two_way(ours, theirs).p_value)
    rows = []
    for (name, test), found in p_values.items():
        shares = {f"at {level:.2%}": np.mean(np.array(found) <= level) for level in LEVELS}
        rows.append({"seeds": seeds, "quality": "{} / {}".format(*quality), "loss": name, "test": test, **shares})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    error = 1.96 * (0.05 * 0.95 / studies) ** 0.5
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {studies} studies a row, Monte Carlo error of 5%: {error:.1%}"
    )
    for name, group in STRUCTURES.items():
        rows = []
        for quality in ((0.6, 0.6), (0.8, 0.6)):
            for seeds in (0.0, 0.1, 0.2):
                rows += rejections(group, quality, seeds, studies)
        print(f"\n{name}\n{pd.DataFrame(rows).to_string(index=False, float_format='{:.3f}'.format)}")


if __name__ == "__main__":
    main()
