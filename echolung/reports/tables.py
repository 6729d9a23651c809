"""A comparison as tables: for the terminal, for Markdown and for the page."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from echolung.evaluation.comparison import Comparison
from echolung.evaluation.verdicts import p_text, patients, plain, signed
from echolung.kinds.kind import Kind
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.reports.answer import SEEN, answers, cell, few_seeds, tested

READING = (
    "Brackets: 95% intervals for these fitted models on new patients. ×n: mean of n seeds. A loss below the reference's"
    " is better; p: paired sign-flip test of it, Holm-corrected (*: not corrected); exploratory tasks have none."
)


@dataclass(frozen=True)
class TaskTable:
    """One task's estimates and differences: lines of an arm, or of the difference of two, its method, and cells."""

    task: str
    basis: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str]


def by_kind(tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """Kind -> its tasks."""
    found: dict[str, list[str]] = {}
    for name, task in tasks.items():
        found.setdefault(task.kind, []).append(name)
    return found


def task_tables(
    comparison: Comparison, tasks: Mapping[str, Task], view: Literal["main", "pairs", "methods", "metrics"] = "main"
) -> list[TaskTable]:
    """A table per task.
    main: each arm's primary method, and the differences from references. pairs: the other differences. methods: the
    other methods. metrics: those that are not compared."""
    tables = []
    for name, task in tasks.items():
        kind = KINDS[task.kind]
        metrics = [metric for metric in kind.metrics if (metric in kind.paired) != (view == "metrics")]
        mine = comparison.of_tasks([name])
        arms, pairs = (table[table["primary"] == (view != "methods")] for table in (mine.arms, mine.pairs))
        main = pairs["reference"].map(comparison.roles).eq("reference")
        pairs = {"main": pairs[main], "pairs": pairs[~main], "methods": pairs, "metrics": pairs[:0]}[view]
        if arms.empty or not metrics:
            continue
        rows = [] if view == "pairs" else [*arm_rows(arms, comparison.order, metrics).values()]
        rows += _difference_rows(pairs, metrics, task.main)
        heads = ["", "method", *(kind.metrics[metric].label for metric in metrics)]
        notes = [] if view == "pairs" else _notes(arms, metrics, kind)
        tables.append(TaskTable(name, basis(arms), heads, rows, notes))
    return tables


def basis(arms: pd.DataFrame) -> str:
    """How much the estimates of one task rest on, from its rows of `Comparison.arms`."""
    first = arms.iloc[0]
    return f"per {first['unit']}: {patients(first['n_patients'], first['n_groups'])}, {first['n_videos']} videos"


def arm_rows(arms: pd.DataFrame, order: Sequence[str], metrics: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """(arm, method) -> its line, the arm with its seeds, of rows of `Comparison.arms` of one task, in this order."""
    rows = {}
    for arm in order:
        for method, found in arms[arms["arm"] == arm].groupby("method", sort=False):
            by_metric = found.set_index("metric").to_dict("index")
            cells = [cell(by_metric[metric], "estimate", plain) for metric in metrics]
            seeds, seen = found[["seeds", "n_seen"]].iloc[0]
            label = f"{arm}{f' ×{seeds}' if seeds > 1 else ''}{SEEN if seen else ''}"
            rows[arm, str(method)] = [label, str(method), *cells]
    return rows


def _difference_rows(pairs: pd.DataFrame, metrics: Sequence[str], main: bool) -> list[list[str]]:
    rows = []
    for (arm, reference, method), found in pairs.groupby(["arm", "reference", "method"], sort=False):
        by_metric = found.set_index("metric").to_dict("index")
        cells = [cell(by_metric[metric], "difference", signed) for metric in metrics]
        for place, metric in enumerate(metrics):
            if by_metric[metric]["test"] and main:
                cells[place] += f", {chance(by_metric[metric])}"
        mark = SEEN if found["n_seen"].iloc[0] else ""
        rows.append([f"{arm} − {reference}{mark}", str(method), *cells])
    return rows


def chance(row: Mapping[Any, Any]) -> str:
    """The p-value of a pair: "p = 1.00" corrected, "p = 0.24*" not."""
    return f"{p_text(row['p_value'])}*" if pd.isna(row["p_holm"]) else p_text(row["p_holm"])


def _notes(arms: pd.DataFrame, metrics: Sequence[str], kind: Kind) -> list[str]:
    """What applies to single numbers of the table."""
    noted = arms[(arms["note"] != "") & arms["metric"].isin(metrics)].groupby(["metric", "note"], sort=False)["arm"]
    overlap = [
        f"{row.arm}{SEEN}: pretrained, without labels, on {row.n_seen} of these {row.n_videos} videos; not evidence."
        for row in arms[arms["n_seen"] > 0].drop_duplicates("arm").itertuples()
    ]
    label = {metric: kind.metrics[metric].label for metric in metrics}
    return overlap + [f"{label[str(metric)]} of {', '.join(names)}: {text}." for (metric, text), names in noted]


def table_text(comparison: Comparison, tasks: Mapping[str, Task], width: int = 100) -> str:
    """The comparison for a terminal: a line of answer per task, one table, and how to read it."""
    found = answers(comparison, tasks)
    wrapped = partial(textwrap.wrap, width=width, break_on_hyphens=False)
    lines = [line for task, text in found.items() for line in wrapped(f"{task}: {text}", subsequent_indent="    ")]
    rows = [row for kind, names in by_kind(tasks).items() for row in _of_kind(comparison, KINDS[kind], names, tasks)]
    sizes = [max(len(row[place]) for row in rows if len(row) > 1) for place in range(len(rows[0]))]
    sizes[0] = min(sizes[0], width - sum(sizes[1:]) - 2 * len(sizes[1:]))
    for row in rows:
        if row[0] == "":
            lines.append("")
        first = row[0] if len(row) == 1 or len(row[0]) <= sizes[0] else f"{row[0][: sizes[0] - 1]}…"
        cells = zip([first, *row[1:]], sizes, strict=False)
        lines.append("  ".join(text.ljust(size) for text, size in cells).rstrip())
    seen = f" {SEEN.strip()}: pretrained on videos of the task; not evidence." if SEEN in str(rows) else ""
    return "\n".join([*lines, "", *wrapped(f"{READING}{seen} {few_seeds(comparison)}")])


def _of_kind(comparison: Comparison, kind: Kind, tasks: Sequence[str], of: Mapping[str, Task]) -> list[list[str]]:
    """Rows of arm, two metrics, difference from the reference and p; a row of one cell is a task."""
    pairs = tested(comparison)
    pairs = pairs[(pairs["against"] == "reference") & pairs["task"].isin(tasks)]
    references = list(pairs["reference"].unique())
    metrics, loss = kind.paired[:2], kind.metrics[kind.loss].label
    blank = [""] * (2 - len(metrics))
    other = references[0] if len(references) == 1 else "reference"
    rows = [["", *(kind.metrics[metric].label for metric in metrics), *blank, f"{loss} − {other}", "p"]]
    for task in tasks:
        arms = comparison.arms[(comparison.arms["task"] == task) & comparison.arms["primary"]]
        rows.append([f"{task} ({basis(arms)})"])
        for (arm, _), (label, _, *cells) in arm_rows(arms, comparison.order, metrics).items():
            mine = pairs[(pairs["task"] == task) & (pairs["arm"] == arm)].to_dict("records")
            tests = [chance(pair)[2:].removeprefix("= ") if of[task].main else "" for pair in mine]
            differences = [[cell(pair, "difference", signed), p] for pair, p in zip(mine, tests, strict=True)]
            beside = differences.pop() if len(references) == 1 and differences else ["", ""]
            rows.append([f"  {label}", *cells, *blank, *beside])
            below = zip(mine, differences, strict=False)
            rows += [[f"    − {pair['reference']}", "", "", *difference] for pair, difference in below]
    return rows


def table_markdown(comparison: Comparison, tasks: Mapping[str, Task], more: Sequence[TaskTable] = ()) -> str:
    """The answers and tables as Markdown, `more` tables last."""
    lines = [*(f"- {task}: {answer}" for task, answer in answers(comparison, tasks).items()), ""]
    for table in [*task_tables(comparison, tasks), *task_tables(comparison, tasks, "pairs"), *more]:
        lines += [f"**{table.task}** ({table.basis})", ""]
        cells = [table.heads, ["---"] * len(table.heads), *table.rows]
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        lines += ["", *table.notes, ""]
    return "\n".join([*lines, READING, ""])
