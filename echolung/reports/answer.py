"""The answers in sentences: against the references and against the controls."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from echolung.evaluation.comparison import Comparison
from echolung.evaluation.verdicts import SEEDS_FOR_PRETRAINING, p_text, signed
from echolung.kinds.kinds import kind_of
from echolung.kinds.task import Task

SEEN = " †"  # marks an arm whose encoder was pretrained on videos that it is scored on


def tested(comparison: Comparison) -> pd.DataFrame:
    """The tests of the loss between primary methods: `Comparison.pairs` and verdicts, with both arms' roles as `role`
    and `against`."""
    keys, roles = ["task", "arm", "reference", "method"], comparison.roles
    rows = comparison.pairs[comparison.pairs["primary"] & (comparison.pairs["test"] != "")]
    rows = rows.merge(comparison.verdicts[[*keys, "confirmatory", "outcome"]], on=keys, validate="one_to_one")
    return rows.assign(role=rows["arm"].map(roles), against=rows["reference"].map(roles))


def answers(comparison: Comparison, tasks: Mapping[str, Task]) -> dict[str, str]:
    """task -> how its candidates compare with the references, and which of them were not shown to beat the baseline."""
    found = tested(comparison)
    found = found[found["role"] == "candidate"]
    names = [task for task in tasks if (comparison.arms["task"] == task).any()]
    return {name: _answer(found[found["task"] == name], tasks[name]) for name in names}


def _answer(rows: pd.DataFrame, task: Task) -> str:
    main = rows[rows["against"] == "reference"]
    low = rows[(rows["against"] == "baseline") & (rows["outcome"] != "better")]
    if main.empty:
        return "No candidate was compared with a reference."
    parts = _sentences(main, task)
    if len(low) and task.main:
        was = "was" if len(low) == 1 else "were"
        parts.append(f"{_joined(low['arm'])} {was} not shown to beat {low['reference'].iloc[0]}")
    text = "; ".join(parts)
    if not main["confirmatory"].any():
        text = f"exploratory: {text}"
    if text.startswith(("no difference", "exploratory")):  # not the name of an arm
        text = text[0].upper() + text[1:]
    return f"{text}."


def _sentences(rows: pd.DataFrame, task: Task) -> list[str]:
    """One per reference and outcome: `jepa (Brier score −0.25, p = 0.012) predicted better than random`.
    On exploratory tasks one per reference, with intervals instead of tests."""
    loss, parts = kind_of(task).metrics[kind_of(task).loss].label, []
    for reference, against in rows.groupby("reference", sort=False):
        if not task.main:
            numbers = [
                f"{row['arm']}{SEEN * (row['n_seen'] > 0)} {cell(row, 'difference', signed)}"
                for row in against.to_dict("records")
            ]
            parts.append(f"{loss} minus that of {reference}: {', '.join(numbers)}")
            continue
        for outcome in ("better", "worse", "undecided"):
            names = []
            for row in against[against["outcome"] == outcome].to_dict("records"):
                effect = "" if outcome == "undecided" else f"{loss} {signed(row['difference'], 2)}, "
                p = p_text(row["p_value"] if pd.isna(row["p_holm"]) else row["p_holm"])
                names.append(row["arm"] + SEEN * (row["n_seen"] > 0) + f" ({effect}{p})")
            if names and outcome == "undecided":
                parts.append(f"no difference was shown between {reference} and {_joined(names, 'or')}")
            elif names:
                parts.append(f"{_joined(names)} predicted {outcome} than {reference}")
    return parts


def cell(row: Mapping[Any, Any], value: str, written: Callable[[float, int], str]) -> str:
    """A value of a row with its interval."""
    if pd.isna(row[value]):
        return "undefined"
    return f"{written(row[value], 2)} [{written(row['low'], 2)}, {written(row['high'], 2)}]"


def against_controls(comparison: Comparison, tasks: Mapping[str, Task]) -> list[str]:
    """How the candidates compare with the controls, a line per task; these p-values are not corrected."""
    found = tested(comparison)
    found = found[(found["role"] == "candidate") & (found["against"] == "control")]
    by_task = found.groupby("task", sort=False)
    return [f"{task}: {'; '.join(_sentences(rows, tasks[str(task)]))}." for task, rows in by_task]


def few_seeds(comparison: Comparison) -> str:
    """What too few training seeds mean for the answers; empty where there are enough."""
    arms = comparison.arms[comparison.arms["role"] == "candidate"]
    few = {arm: count for arm, count in arms.groupby("arm")["seeds"].max().items() if count < SEEDS_FOR_PRETRAINING}
    if not few:
        return ""
    named = f"Fewer than {SEEDS_FOR_PRETRAINING} training seeds: {_joined(f'{arm} ({n})' for arm, n in few.items())}"
    return f"{named}. The answers are about these trained models, not about the way of training."


def _joined(names: Iterable[str], word: str = "and") -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
