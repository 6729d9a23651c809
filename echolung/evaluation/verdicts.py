"""What a comparison supports, in words no stronger than the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.05
SEEDS_FOR_PRETRAINING = 3
"""From this many pretraining seeds on, a verdict is about the recipe; below, about one encoder."""


@dataclass(frozen=True)
class PairFacts:
    """Which two arms are compared, on how much."""

    task: str
    arm: str
    reference: str
    method: str
    reference_method: str
    reference_role: str
    """reference, control or baseline; see `comparison.ROLES`."""
    metric: str
    """The loss that is tested."""
    label: str
    """Its name in a sentence."""
    pretrained: bool
    """The arm is a pretrained encoder."""
    confirmatory: bool
    """The pair is in the family that Holm corrects."""
    arm_seeds: int
    reference_seeds: int
    n_patients: int
    n_groups: int
    """Split groups of the patients: what is resampled and flipped."""
    n_videos: int
    n_seen: int = 0
    """Videos of the task that one of the two was pretrained on."""


def verdict(
    pair: PairFacts, difference: float, low: float, high: float, p_value: float, p_holm: float
) -> tuple[str, str]:
    """(better | worse | undecided, sentences) from the difference in loss, arm minus reference, and its interval.

    Decided at 5% by the corrected p-value where the pair is confirmatory, else by its own.
    """
    decisive = p_value if np.isnan(p_holm) else p_holm
    chance = p_text(p_value) if np.isnan(p_holm) else f"{p_text(p_holm)} after Holm"
    if np.isnan(p_holm):
        chance += ", not corrected"
    basis = f"{chance}; {patients(pair.n_patients, pair.n_groups)}, {pair.n_videos} videos"
    arm, reference = _arm(pair), _reference(pair)
    if decisive > SIGNIFICANCE:
        text = (
            f"No difference was shown between {arm} and {reference}: {pair.label} {signed(difference)}"
            f" [{signed(low)}, {signed(high)}] ({basis})."
        )
        return "undecided", f"{text} {_reach(pair)}".strip()
    outcome, direction = ("better", "lower") if difference < 0 else ("worse", "higher")
    nearest, farthest = (-high, -low) if difference < 0 else (low, high)
    text = (
        f"{arm} predicted {outcome} than {reference}: {pair.label} {abs(difference):.3f} {direction}"
        f" [{plain(nearest)}, {plain(farthest)}] ({basis})."
    )
    return outcome, f"{text} {_reach(pair)}".strip()


def _arm(pair: PairFacts) -> str:
    return pair.arm if pair.arm_seeds == 1 else f"{pair.arm} (mean of {pair.arm_seeds} seeds)"


def _reference(pair: PairFacts) -> str:
    if pair.reference_role == "baseline":
        return f"{pair.reference} (the baseline, which ignores the video)"
    if pair.reference_role == "control":
        return f"the {pair.reference} control"
    return pair.reference if pair.reference_seeds == 1 else f"{pair.reference} (mean of {pair.reference_seeds} seeds)"


def _reach(pair: PairFacts) -> str:
    """How far the verdict reaches; empty where no pretraining is involved."""
    if pair.n_seen:
        return (
            f"Not counted as evidence: {pair.n_seen} of the {pair.n_videos} videos were seen (without their labels)"
            " in pretraining."
        )
    if not pair.pretrained or pair.reference_role != "reference":
        return ""
    if pair.arm_seeds < SEEDS_FOR_PRETRAINING:
        seeds = "one pretraining seed" if pair.arm_seeds == 1 else f"{pair.arm_seeds} pretraining seeds"
        return f"With {seeds}, this is about this encoder, not about pretraining in general."
    return f"With {pair.arm_seeds} pretraining seeds, this is about this recipe on this task."


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
