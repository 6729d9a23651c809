"""The answer in sentences: what was confirmed, how it stands against the controls, and whether an encoder collapsed."""

from __future__ import annotations

import pandas as pd

from echolung.evaluation.comparison import Comparison
from echolung.evaluation.verdicts import p_text
from echolung.reports.tables import SEEN

COLLAPSING = 0.5
"""Share of the untrained encoders' effective rank below which an encoder is said to have partly collapsed.

Untrained draws of the same network on the same videos are the yardstick, since size, number and kind of videos bound
every encoder's rank alike. Their draws lie within a tenth or so of one another, so that half is far outside chance;
some loss is no fault, for learning to ignore speckle also gives up directions.
"""


def headline(comparison: Comparison) -> list[str]:
    """The answer in as few sentences as are true: the confirmatory tests, and where the majority was not beaten.

    What explores has no place in a headline, unless nothing was to be confirmed.
    """
    roles = comparison.arms.drop_duplicates("arm").set_index("arm")["role"].to_dict()
    verdicts = comparison.verdicts.to_dict("records")
    sentences = []
    for arm in [arm for arm, role in roles.items() if role == "pretrained"]:
        who = f"the pretrained encoder ({arm})"
        mine = [row for row in verdicts if row["arm"] == arm and row["confirmatory"]]
        for outcome, words in (
            ("better", f"{who} predicted better than the mean of the random draws"),
            ("worse", f"{who} predicted worse than the mean of the random draws"),
            ("undecided", f"no difference was shown between {who} and the mean of the random draws"),
        ):
            tasks = [row["task"] for row in mine if row["outcome"] == outcome]
            if tasks:
                sentences.append(f"On {_and(tasks)}, {words}.")
        unbeaten = [
            row["task"]
            for row in verdicts
            if row["arm"] == arm and roles[row["reference"]] == "majority" and row["outcome"] != "better"
        ]
        if unbeaten:
            sentences.append(f"On {_and(unbeaten)}, {who} was not shown to beat the class frequencies.")
    return sentences or ["No pretrained arm was compared with the reference."]


def standing(comparison: Comparison) -> list[str]:
    """How every pretrained arm stands against each control by log-loss, tasks grouped by what was shown.

    These tests belong to no family that was to confirm: their p-values are uncorrected, and the sentences say so.
    """
    roles = comparison.arms.drop_duplicates("arm").set_index("arm")["role"]
    keys = ["task", "arm", "reference", "probe"]
    tested = comparison.pairs[comparison.pairs["metric"] == "log_loss"]
    found = comparison.verdicts.merge(tested[[*keys, "p_value", "n_seen"]], on=keys, validate="one_to_one")
    found = found[found["arm"].map(roles).eq("pretrained") & found["reference"].map(roles).eq("control")]
    sentences = []
    for (arm, control), rows in found.groupby(["arm", "reference"], sort=True):
        parts = []
        for outcome in ("better", "worse", "undecided"):
            tasks = [
                row["task"]
                + SEEN * (row["n_seen"] > 0)
                + (f" ({p_text(row['p_value'])})" if outcome != "undecided" else "")
                for row in rows[rows["outcome"] == outcome].to_dict("records")
            ]
            if tasks:
                parts.append(f"{outcome} on {_and(tasks)}")
        marked = ", p uncorrected" if (rows["outcome"] != "undecided").any() else ""
        sentences.append(f"{arm} against the {control} control (log-loss{marked}): {'; '.join(parts)}.")
    if any("undecided" in sentence for sentence in sentences):
        sentences.append("Undecided: no difference was shown at 5%, which is not evidence that there is none.")
    return sentences


def collapsed(ranks: pd.DataFrame, comparison: Comparison) -> list[str]:
    """A sentence on the pretrained arms whose features span few directions; ranks as of `study.effective_ranks`."""
    if ranks.empty:
        return []
    roles = comparison.arms.drop_duplicates("arm").set_index("arm")["role"]
    role = ranks["arm"].map(roles)
    untrained = ranks[role == "reference"].set_index("source")["mean"].to_dict()
    found = []
    for arm, rows in ranks[role == "pretrained"].groupby("arm", sort=True):
        low = [
            f"{row['mean']:.1f} against {untrained[row['source']]:.1f} on the videos of {row['source']}"
            for row in rows.to_dict("records")
            if row["source"] in untrained and row["mean"] < COLLAPSING * untrained[row["source"]]
        ]
        if low:
            found.append(f"{arm} {_and(low)}")
    if not found:
        return []
    who = "This encoder has" if len(found) == 1 else "These encoders have"
    return [
        f"Pretraining left features that span less than {COLLAPSING:.0%} of the untrained encoders' directions"
        f" (effective rank, mean over seeds): {'; '.join(found)}. {who} partly collapsed, and the results tell of this"
        " recipe at this scale."
    ]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
