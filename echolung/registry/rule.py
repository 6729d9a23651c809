"""The rule of promotion, and the numbers it looks at.

The first champion of a task must beat the majority class on the task's unit of decision: a lower out-of-fold log-loss
and a balanced accuracy above chance. A later one must have been scored on the same data and the same split, and have a
lower out-of-fold log-loss than the present champion. Whether pretraining helped decides nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from echolung.core.errors import PromotionError

RESET_REMEDY = "To begin a new line of champions that is measured against the majority class alone, add --reset."


@dataclass(frozen=True)
class Evidence:
    """What decides: out-of-fold scores on the task's unit of decision, and what they were taken on."""

    log_loss: float
    balanced_accuracy: float
    majority_log_loss: float
    chance: float
    """Balanced accuracy of guessing: 1 / classes."""
    data_digest: str
    split_digest: str

    def tags(self) -> dict[str, str]:
        """As the model version's tags keep it, to the last digit."""
        return {f"evidence_{name}": str(value) for name, value in vars(self).items()}

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Evidence:
        """What `tags` wrote; raises PromotionError if someone took it away."""
        try:
            return cls(
                log_loss=float(tags["evidence_log_loss"]),
                balanced_accuracy=float(tags["evidence_balanced_accuracy"]),
                majority_log_loss=float(tags["evidence_majority_log_loss"]),
                chance=float(tags["evidence_chance"]),
                data_digest=tags["evidence_data_digest"],
                split_digest=tags["evidence_split_digest"],
            )
        except (KeyError, ValueError) as error:
            raise PromotionError(f"the champion's tags do not hold its evidence ({error})", RESET_REMEDY) from None


def decide(candidate: Evidence, champion: Evidence | None) -> list[str]:
    """The rule. Returns why the candidate has earned the place; raises PromotionError saying why it has not."""
    if champion is None:
        log_loss = f"log-loss {candidate.log_loss:.4f} against {candidate.majority_log_loss:.4f} of the majority class"
        accuracy = f"balanced accuracy {candidate.balanced_accuracy:.3f} against {candidate.chance:.3f} by chance"
        if not (candidate.log_loss < candidate.majority_log_loss and candidate.balanced_accuracy > candidate.chance):
            raise PromotionError(
                f"the candidate does not beat the majority class out of fold: {log_loss}, {accuracy}",
                "It needs a lower log-loss and a balanced accuracy above chance: more data, or a better encoder.",
            )
        return [f"out-of-fold {log_loss}", f"out-of-fold {accuracy}"]
    for what, ours, theirs in (
        ("data", candidate.data_digest, champion.data_digest),
        ("split", candidate.split_digest, champion.split_digest),
    ):
        if ours != theirs:
            raise PromotionError(
                f"the champion was scored on another {what} ({theirs}) than the candidate ({ours}), so log-loss"
                f" {champion.log_loss:.4f} and {candidate.log_loss:.4f} cannot be compared",
                RESET_REMEDY,
            )
    numbers = f"log-loss {candidate.log_loss:.4f} against {champion.log_loss:.4f} of the present champion"
    if not candidate.log_loss < champion.log_loss:
        raise PromotionError(
            f"the candidate is no better than the champion on the same patients: out-of-fold {numbers}",
            "The champion stays. " + RESET_REMEDY,
        )
    return [f"out-of-fold {numbers}, on the same data and split"]
