"""What a comparison supports, in words no stronger than the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.05
SEEDS_FOR_PRETRAINING = 3
"""From this many pretraining seeds on, a sentence may speak of pretraining; below, only of the encoder at hand."""


@dataclass(frozen=True)
class PairFacts:
    """Who is compared with whom, on how much."""

    task: str
    arm: str
    reference: str
    probe: str
    reference_probe: str
    reference_role: str
    """reference (untrained encoders), control or majority; see `comparison.ROLES`."""
    pretrained: bool
    """The arm is a pretrained encoder."""
    arm_seeds: int
    reference_seeds: int
    n_patients: int
    n_groups: int
    """Split groups that the patients fall into: what is resampled and flipped."""
    n_videos: int
    n_seen: int = 0
    """Videos of the task that one of the two was pretrained on."""


def verdict(
    pair: PairFacts, difference: float, low: float, high: float, p_value: float, p_holm: float
) -> tuple[str, str]:
    """(better | worse | undecided, sentences) from the log-loss difference arm minus reference and its interval.

    Decided at 5% by the corrected p-value where the pair belongs to the confirmatory family, else by its own.
    """
    decisive = p_value if np.isnan(p_holm) else p_holm
    chance = f"sign-flip {p_text(p_value)}" + ("" if np.isnan(p_holm) else f", after Holm {p_text(p_holm)}")
    if np.isnan(p_holm):
        explores = pair.pretrained and pair.reference_role == "reference"
        chance += ", exploratory and not corrected" if explores else ", not corrected"
    basis = f"{chance}; {patients(pair.n_patients, pair.n_groups)}, {pair.n_videos} videos"
    arm, reference = _arm(pair), _reference(pair)
    if decisive > SIGNIFICANCE:
        text = (
            f"No difference was shown between {arm} and {reference}: log-loss {signed(difference)} ({basis})."
            f" For these fitted models on new patients anything from {signed(low)} to {signed(high)} fits the data;"
            " that is not evidence that they are equal."
        )
        return "undecided", f"{text} {_reach(pair)}".strip()
    outcome, direction = ("better", "lower") if difference < 0 else ("worse", "higher")
    nearest, farthest = (-high, -low) if difference < 0 else (low, high)
    text = (
        f"{arm} predicted {outcome} than {reference}: log-loss {abs(difference):.3f} {direction} (95% interval, for"
        f" these fitted models on new patients: {plain(nearest)} to {plain(farthest)}; {basis})."
    )
    return outcome, f"{text} {_reach(pair)}".strip()


def _arm(pair: PairFacts) -> str:
    return pair.arm if pair.arm_seeds == 1 else f"{pair.arm} (mean of {pair.arm_seeds} seeds)"


def _reference(pair: PairFacts) -> str:
    if pair.reference_role == "majority":
        return f"{pair.reference} (the class frequencies)"
    if pair.reference_role == "control":
        return f"the {pair.reference} control"
    if pair.reference_seeds == 1:
        return f"this one {pair.reference} draw"
    return f"the mean of these {pair.reference_seeds} {pair.reference} draws"


def _reach(pair: PairFacts) -> str:
    """How far the sentence before reaches; nothing to add where no pretraining is in question."""
    if pair.n_seen:
        return (
            f"Not counted as evidence: {pair.n_seen} of the {pair.n_videos} videos were watched (without their labels)"
            " in pretraining."
        )
    if not pair.pretrained or pair.reference_role != "reference":
        return ""
    if pair.arm_seeds < SEEDS_FOR_PRETRAINING:
        seeds = "one pretraining seed" if pair.arm_seeds == 1 else f"{pair.arm_seeds} pretraining seeds"
        return (
            f"This speaks of this encoder against these draws: {seeds} cannot say what pretraining does in general"
            f" (that needs at least {SEEDS_FOR_PRETRAINING})."
        )
    return f"With {pair.arm_seeds} pretraining seeds this speaks of this pretraining recipe, on this task."


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
