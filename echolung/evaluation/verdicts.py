"""What a comparison supports, in words no stronger than the evidence."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SIGNIFICANCE = 0.05
SEEDS_FOR_PRETRAINING = 3  # from so many on, a verdict speaks of the recipe, too; below, of these encoders alone


@dataclass(frozen=True)
class PairFacts:
    """What two compared arms are."""

    label: str  # the name of the loss that is tested, in a sentence
    reference_role: str  # reference, control or baseline
    pretrained: bool  # the arm is a pretrained encoder
    confirmatory: bool  # the pair is in the family that Holm corrects
    arm_seeds: int
    reference_seeds: int
    main: bool = True  # the task is confirmatory; on others no p-value is told


def verdict(pair: PairFacts, row: pd.Series) -> tuple[str, str]:
    """(better | worse | undecided, sentences) from the difference in loss, arm minus reference: a row of `pairs`.
    Decided at 5% by the corrected p-value where the pair is confirmatory, else by its own."""
    p_value = row["p_holm"] if pair.confirmatory else row["p_value"]
    outcome = "undecided" if p_value > SIGNIFICANCE else "better" if row["difference"] < 0 else "worse"
    arm, reference = _with_seeds(row["arm"], pair.arm_seeds), _reference(pair, row["reference"])
    numbers = f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"
    sizes = f"{patients(row['n_patients'], row['n_groups'])}, {row['n_videos']} videos"
    if not pair.main:
        text = f"{pair.label} of {arm} minus {reference}: {numbers} (exploratory; {sizes})."
    else:
        shown = f"{arm} predicted {outcome} than {reference}"
        if outcome == "undecided":
            shown = f"No difference was shown between {arm} and {reference}"
        text = f"{shown}: {pair.label} {numbers} ({_chance(pair, p_value)}; {sizes})."
    return outcome, f"{text} {_reach(pair, row, outcome)}".strip()


def _chance(pair: PairFacts, p_value: float) -> str:
    return p_text(p_value) + (" after Holm" if pair.confirmatory else ", not corrected")


def _with_seeds(arm: str, seeds: int) -> str:
    return arm if seeds == 1 else f"{arm} (mean of {seeds} seeds)"


def _reference(pair: PairFacts, name: str) -> str:
    if pair.reference_role == "baseline":
        return f"{name} (the baseline, which ignores the video)"
    return f"the {name} control" if pair.reference_role == "control" else _with_seeds(name, pair.reference_seeds)


def _reach(pair: PairFacts, row: pd.Series, outcome: str) -> str:
    """How far the verdict reaches; empty where no pretraining is involved."""
    if row["n_seen"]:
        seen = f"{row['n_seen']} of the {row['n_videos']} videos were seen (without their labels) in pretraining"
        return f"Not counted as evidence: {seen}."
    if not pair.pretrained or pair.reference_role != "reference" or not pair.main:
        return ""
    if pair.arm_seeds < SEEDS_FOR_PRETRAINING:
        return f"Pretraining seeds: {pair.arm_seeds}. This is about these weights, not about pretraining in general."
    if np.isnan(row["p_recipe"]):
        return "This is about these encoders: the recipe is compared where the reference has seeds, too."
    p_value = row["p_recipe_holm"] if pair.confirmatory else row["p_recipe"]
    counts = f"{pair.arm_seeds} and {pair.reference_seeds} seeds as a sample: {_chance(pair, p_value)}"
    if outcome == "undecided" or p_value > SIGNIFICANCE:
        return f"No difference was shown for the recipe ({counts})."
    return f"So did the recipe, on this task ({counts})."


def patients(count: int, groups: int) -> str:
    """How many patients, and in how many groups where they are fewer: "72 patients (55 independent groups)"."""
    return f"{count} patients" + (f" ({groups} independent groups)" if groups != count else "")


def p_text(p_value: float) -> str:
    """A p-value with the digits it deserves: "p < 0.001", "p = 0.012", "p = 0.34"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, a true minus; zero has none."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:.{digits}f}" if rounded == 0 else f"{rounded:+.{digits}f}".replace("-", "−")


def plain(value: float, digits: int = 3) -> str:
    """A number with a true minus; "n/a" where it is not defined."""
    return "n/a" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
