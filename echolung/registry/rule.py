"""The rule of promotion.

A first champion must have a lower out-of-fold loss than the task's baseline and beat the kind's bar (for classes, a
balanced accuracy above chance). A later one must have a lower loss than the champion on the same data and split.
Whether pretraining helped decides nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from echolung.core.errors import PromotionError

RESET_REMEDY = "To compare with the baseline only, not with the champion, add --reset."


@dataclass(frozen=True)
class Evidence:
    """Out-of-fold scores of a candidate, and what they were measured on."""

    metric: str  # label of the loss
    loss: float
    baseline_loss: float
    bar: Mapping[str, tuple[float, float]]
    """Label of a metric -> its value, and the value it must exceed (higher is better)."""
    data_digest: str
    split_digest: str

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Evidence:
        """From the tag `evidence`, its fields as JSON; raises PromotionError if it is gone."""
        try:
            return cls(**json.loads(tags["evidence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PromotionError(
                f"the champion's tag 'evidence' is missing or damaged ({error})", RESET_REMEDY
            ) from None


def decide(candidate: Evidence, champion: Evidence | None) -> list[str]:
    """Why the candidate is promoted; raises PromotionError saying why it is not."""
    if champion is None:
        found = [f"{candidate.metric} {candidate.loss:.4f}, baseline {candidate.baseline_loss:.4f}"]
        found += [f"{name} {value:.3f} (more than {bar:.3f} is needed)" for name, (value, bar) in candidate.bar.items()]
        # Comparisons with NaN are false.
        good = candidate.loss < candidate.baseline_loss and all(value > bar for value, bar in candidate.bar.values())
        if not good:
            raise PromotionError(
                f"the candidate does not beat the baseline out of fold: {'; '.join(found)}",
                "It needs more data or a better encoder.",
            )
        return [f"out of fold: {'; '.join(found)}"]
    if (candidate.data_digest, candidate.split_digest) != (champion.data_digest, champion.split_digest):
        raise PromotionError(
            f"champion and candidate were scored on different data or splits, so that their {candidate.metric}"
            f" ({champion.loss:.4f}, {candidate.loss:.4f}) cannot be compared",
            RESET_REMEDY,
        )
    numbers = f"{candidate.metric} {candidate.loss:.4f}, champion {champion.loss:.4f}, on the same data and split"
    if not candidate.loss < champion.loss:
        raise PromotionError(f"the candidate is not better than the champion out of fold: {numbers}", RESET_REMEDY)
    return [f"out of fold: {numbers}"]
