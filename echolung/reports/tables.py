"""A comparison as tables: for the terminal, for Markdown, and for the page."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd

from echolung.evaluation.comparison import ROLES, Comparison, arms_in_order
from echolung.evaluation.verdicts import p_text, patients, plain, signed
from echolung.kinds.metrics import METRICS

COLUMNS = ["balanced_accuracy", "auroc", "macro_f1", "log_loss"]
SEEN = " †"
"""Marks an arm that was pretrained on videos it is scored on."""
MORE_COLUMNS = ["auprc", "mcc", "brier"]
READING = (
    "In brackets: 95% intervals of these fitted models on new patients (bootstrap over groups of patients,"
    " stratified by class); patients who share a recording or near-duplicate videos are one group. ×3: mean over three"
    " seeds. p: sign-flip permutation of the groups' log-loss differences, corrected by Holm where a pretrained arm"
    " meets the random one on a task that was to confirm; every other p is marked as uncorrected and explores."
)


@dataclass(frozen=True)
class Row:
    """One line of a task's table: an arm, or the difference between two."""

    difference: bool
    label: str
    probe: str
    cells: list[str]


@dataclass(frozen=True)
class Verdict:
    """What a pair's comparison supports: outcome (better | worse | undecided) and sentences."""

    arm: str
    reference: str
    against: str
    """The reference's role: reference (untrained encoders), control or majority."""
    outcome: str
    text: str


@dataclass(frozen=True)
class TaskTable:
    """One task's estimates and differences, in reading order."""

    task: str
    basis: str
    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]


def headings(columns: list[str] = COLUMNS) -> list[str]:
    """Column titles of the metrics."""
    return [METRICS[metric].label for metric in columns]


def task_tables(comparison: Comparison, primary: bool = True, columns: list[str] = COLUMNS) -> list[TaskTable]:
    """A table per task, at the primary probe or at the others; differences only of metrics that are compared."""
    tables = []
    for task in comparison.arms["task"].unique():
        arms = comparison.arms[(comparison.arms["task"] == task) & (comparison.arms["primary"] == primary)]
        pairs = comparison.pairs[(comparison.pairs["task"] == task) & (comparison.pairs["primary"] == primary)]
        if arms.empty:
            continue
        first = arms.iloc[0]
        sizes = f"{patients(first['n_patients'], first['n_groups'])}, {first['n_videos']} videos"
        tables.append(
            TaskTable(
                task=str(task),
                basis=f"decided per {first['unit']}: {sizes}",
                rows=_arm_rows(arms, columns) + (_difference_rows(pairs) if columns == COLUMNS else []),
                verdicts=_verdicts(comparison, str(task)) if primary else [],
                notes=_notes(arms, columns),
            )
        )
    return tables


def _arm_rows(arms: pd.DataFrame, columns: list[str]) -> list[Row]:
    rows = []
    for arm in arms_in_order(arms):
        for probe, found in arms[arms["arm"] == arm].groupby("probe", sort=True):
            by_metric = {row["metric"]: row for row in found.to_dict("records")}
            seeds = int(found["seeds"].iloc[0])
            cells = [_cell(by_metric[metric], "estimate", plain) for metric in columns]
            label = arm if seeds == 1 else f"{arm} ×{seeds}"
            mark = SEEN if found["n_seen"].iloc[0] else ""
            rows.append(Row(False, label + mark, str(probe), cells))
    return rows


def _difference_rows(pairs: pd.DataFrame) -> list[Row]:
    rows = []
    for (arm, reference, probe), found in pairs.groupby(["arm", "reference", "probe"], sort=False):
        by_metric = {row["metric"]: row for row in found.to_dict("records")}
        cells = [_cell(by_metric[metric], "difference", signed) for metric in COLUMNS]
        tested = by_metric["log_loss"]
        cells[-1] += f", {chance(tested)}"
        mark = SEEN if found["n_seen"].iloc[0] else ""
        rows.append(Row(True, f"{arm} − {reference}{mark}", str(probe), cells))
    return rows


def chance(row: dict[Any, Any]) -> str:
    """The p-value of a pair's log-loss, and whether it was corrected: "p = 0.24 (uncorrected)", "p = 1.00 (Holm)"."""
    if pd.isna(row["p_holm"]):
        return f"{p_text(row['p_value'])} (uncorrected)"
    return f"{p_text(row['p_holm'])} (Holm)"


def _verdicts(comparison: Comparison, task: str) -> list[Verdict]:
    """The verdicts of one task, those against the reference first."""
    roles = comparison.arms.drop_duplicates("arm").set_index("arm")["role"].to_dict()
    rows = comparison.verdicts[comparison.verdicts["task"] == task].to_dict("records")
    found = [
        Verdict(row["arm"], row["reference"], roles[row["reference"]], row["outcome"], row["text"]) for row in rows
    ]
    return sorted(found, key=lambda one: ROLES.index(one.against))


def _cell(row: dict[Any, Any], value: str, written: Any) -> str:
    if pd.isna(row[value]):
        return "undefined"
    return f"{written(row[value], 2)} [{plain(row['low'], 2)}, {plain(row['high'], 2)}]"


def _notes(arms: pd.DataFrame, columns: list[str]) -> list[str]:
    """What must be known of single figures, said once."""
    noted = arms[(arms["note"] != "") & arms["metric"].isin(columns)]
    seen = arms[arms["n_seen"] > 0].drop_duplicates("arm")
    found: dict[tuple[str, str], list[str]] = {}
    for metric, text, arm in noted[["metric", "note", "arm"]].itertuples(index=False, name=None):
        found.setdefault((metric, text), []).append(arm)
    overlap = [
        f"{row['arm']}{SEEN}: pretrained, without labels, on {row['n_seen']} of these {row['n_videos']} videos; not"
        " counted as evidence."
        for row in seen.to_dict("records")
    ]
    return overlap + [
        f"{METRICS[metric].label} of {', '.join(names)}: {text}." for (metric, text), names in found.items()
    ]


def rank_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """The same as words, to be shown."""
    rows = ranks.to_dict("records")
    return pd.DataFrame(
        {
            "source": row["source"],
            "arm": row["arm"],
            "seeds": row["seeds"],
            "effective rank of the features": f"{row['mean']:.1f} ({row['low']:.1f} to {row['high']:.1f})",
            "of at most": row["most"],
        }
        for row in rows
    )


RANKS = (
    "How many directions the features of a source's videos span (RankMe): mean over seeds, and range; the number of"
    " videos or the encoder's width is the most there can be."
)


def table_text(comparison: Comparison, width: int = 116) -> str:
    """The comparison for a terminal: per task the estimates, the differences and what they support."""
    lines = []
    for table in task_tables(comparison):
        body = [["", "probe", *headings()], *([row.label, row.probe, *row.cells] for row in table.rows)]
        sizes = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
        lines += [f"{table.task} · {table.basis}", ""]
        rules = 0
        for i, line in enumerate(body):
            if i == 1 or (i > 1 and table.rows[i - 1].difference and not rules):
                lines.append("  " + "─" * (sum(sizes) + 2 * len(sizes) - 2))
                rules += i > 1
            lines.append("  " + "  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip())
        lines.append("")
        # Beating the class frequencies is expected; a terminal says it only where it was not shown.
        said = [one.text for one in table.verdicts if one.against != "majority" or one.outcome != "better"]
        for text in said + table.notes:
            lines += textwrap.wrap(text, width - 4, initial_indent="  • ", subsequent_indent="    ")
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(READING, width)])


def table_markdown(comparison: Comparison) -> str:
    """The same table for a README."""
    lines = []
    for table in task_tables(comparison):
        lines += [f"**{_escaped(table.task)}** ({table.basis})", ""]
        lines += ["| | probe | " + " | ".join(headings()) + " |", "|---|---|" + "---|" * len(COLUMNS)]
        for row in table.rows:
            label = f"*{_escaped(row.label)}*" if row.difference else _escaped(row.label)
            lines.append(f"| {label} | {_escaped(row.probe)} | " + " | ".join(row.cells) + " |")
        lines.append("")
    return "\n".join([*lines, READING, ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
