"""The figures of a comparison: each function draws one and returns it; the caller saves and closes it.

A task's panels stand in a row, a metric's in a column, and an arm keeps its colour throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from echolung.evaluation.comparison import Comparison, arms_in_order
from echolung.evaluation.verdicts import patients
from echolung.kinds.metrics import METRICS
from echolung.reports.style import (
    ARM_COLOURS,
    FAINT,
    INK,
    SOFT,
    arm_colours,
    hide,
    new_figure,
    note,
    ticks,
)

SHOWN = ["balanced_accuracy", "auroc", "macro_f1", "log_loss"]
TRAINING = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "ema": "teacher's momentum (EMA)",
    "effective_rank": "effective rank of the features",
}
SCHEDULES = ["learning_rate", "ema"]
"""What is set and not measured: one that stays as it is needs no panel."""
SEED_STYLES = ["-", "--", ":", "-."]


def axis_label(metric: str) -> str:
    """The metric's name and which way is better."""
    described = METRICS[metric]
    return f"{described.label} {'→' if described.higher_is_better else '←'} better"


def estimates(comparison: Comparison) -> Figure:
    """Every arm's metrics with 95% intervals; the bar behind a mark spans the arm's single seeds."""
    table = comparison.arms[comparison.arms["primary"]]
    tasks, colours = list(table["task"].unique()), arm_colours(table)
    most = table.groupby("task")["arm"].nunique().max()
    figure, panels = new_figure(len(tasks), len(SHOWN), 0.75 + len(tasks) * (0.62 + 0.3 * most))
    for row, task in zip(panels, tasks, strict=True):
        arms = arms_in_order(table[table["task"] == task])
        for column, (panel, metric) in enumerate(zip(row, SHOWN, strict=True)):
            found = table[(table["task"] == task) & (table["metric"] == metric)].set_index("arm")
            for place, arm in enumerate(reversed(arms)):
                _estimate(panel, place, found.loc[arm].to_dict(), colours[arm])
            names = list(reversed(arms)) if column == 0 else [""] * len(arms)
            panel.set_yticks(range(len(arms)), names, color=INK, fontsize=9)
            panel.set_ylim(-0.6, len(arms) - 0.4)
            panel.grid(axis="y", visible=False)
            panel.xaxis.set_major_locator(ticks(4))
            panel.set_xlabel(axis_label(metric))
            if column == 0:
                sizes = table[table["task"] == task].iloc[0]
                panel.set_title(
                    f"{task}\n{patients(sizes['n_patients'], sizes['n_groups'])}, {sizes['n_videos']} videos"
                )
    note(
        figure,
        "Mark: estimate (mean over an arm's seeds). Line: 95% interval over groups of patients. Band: range of"
        " single seeds.",
    )
    return figure


def _estimate(panel: Axes, place: int, found: dict[Any, Any], colour: str) -> None:
    if found["seeds"] > 1:
        panel.plot(
            [found["seed_low"], found["seed_high"]],
            [place] * 2,
            lw=9,
            color=colour,
            alpha=0.22,
            zorder=1,
            solid_capstyle="butt",
        )
    panel.plot([found["low"], found["high"]], [place] * 2, lw=1.8, color=colour, zorder=2, solid_capstyle="butt")
    panel.plot(found["estimate"], place, "o", ms=6, color=colour, mec="white", mew=0.7, zorder=3)


def differences(comparison: Comparison) -> Figure | None:
    """Each arm minus the reference, with 95% intervals of the paired difference: the question in one picture.

    None where no arm but the controls was compared.
    """
    pairs = comparison.pairs
    roles = comparison.arms.drop_duplicates("arm").set_index("arm")["role"]
    table = pairs[pairs["primary"] & pairs["reference"].map(roles).eq("reference")]
    if table.empty:
        return None
    colours = arm_colours(comparison.arms)
    order, tasks = arms_in_order(comparison.arms), list(table["task"].unique())
    rows = list(table[["task", "arm"]].drop_duplicates().itertuples(index=False, name=None))
    rows.sort(key=lambda row: (tasks.index(row[0]), order.index(row[1])), reverse=True)
    borders = [place - 0.5 for place in range(1, len(rows)) if rows[place][0] != rows[place - 1][0]]
    figure, panels = new_figure(1, len(SHOWN), 1.15 + 0.42 * len(rows), sharey=True)
    for panel, metric in zip(panels[0], SHOWN, strict=True):
        found = table[table["metric"] == metric].set_index(["task", "arm"])
        extent = np.nanmax(np.abs(found[["low", "high"]].to_numpy(dtype=float)), initial=0.01) * 1.12
        better = (0, extent) if METRICS[metric].higher_is_better else (-extent, 0)
        panel.axvspan(*better, color="#eaf4ee", zorder=0)
        panel.axvline(0, color=SOFT, lw=1)
        for place, (task, arm) in enumerate(rows):
            one = found.loc[[(task, arm)]].iloc[0]
            panel.plot([one["low"], one["high"]], [place] * 2, lw=1.8, color=colours[arm], solid_capstyle="butt")
            panel.plot(one["difference"], place, "o", ms=6, color=colours[arm], mec="white", mew=0.7)
        for border in borders:
            panel.axhline(border, color=FAINT, lw=0.8)
        panel.set_xlim(-extent, extent)
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.set_yticks(range(len(rows)), [f"{task}\n{arm}" for task, arm in rows], color=INK)
        panel.grid(axis="y", visible=False)
        panel.xaxis.set_major_locator(ticks(4, symmetric=True))
        panel.set_title(METRICS[metric].label)
    reference = ", ".join(sorted(set(table["reference"])))
    note(
        figure,
        f"Arm minus {reference}: paired difference, 95% interval over groups of patients. Shaded: better than"
        f" {reference}.",
    )
    return figure


def folds(comparison: Comparison) -> Figure:
    """The reference and each arm with an encoder of its own on the same held-out folds, one line per fold."""
    arms = comparison.arms[comparison.arms["primary"]]
    roles = arms.drop_duplicates("arm").set_index("arm")["role"].to_dict()
    # The reference stands left, so that a rising line is an improvement where higher is better.
    reference = [arm for arm in arms_in_order(arms) if roles[arm] == "reference"]
    others = [arm for arm in arms_in_order(arms) if roles[arm] in ("pretrained", "other")]
    probes = arms.drop_duplicates(["task", "arm"]).set_index(["task", "arm"])["probe"].to_dict()
    tasks, metrics = list(arms["task"].unique()), ["balanced_accuracy", "auroc", "log_loss"]
    figure, panels = new_figure(len(tasks), len(metrics), 0.4 + 2.5 * len(tasks))
    for row, task in zip(panels, tasks, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            table = comparison.folds[(comparison.folds["task"] == task) & (comparison.folds["metric"] == metric)]
            wide = table[
                [probes.get((task, arm)) == probe for arm, probe in zip(table["arm"], table["probe"], strict=True)]
            ]
            values = wide.pivot(index="step", columns="arm", values="value")
            # With the reference beside each, no line joins two arms that are not compared.
            shown = [arm for other in others if other in values for arm in (*reference, other)]
            _fold_lines(panel, values[shown or reference], METRICS[metric].higher_is_better, arm_colours(arms))
            panel.set_ylabel(axis_label(metric).replace("→", "↑").replace("←", "↓"))
        row[0].set_title(f"{task} · {len(values)} held-out folds")
    note(figure, "A line is one held-out fold (mean over seeds); blue: better to the right, orange: worse. Bar: mean.")
    return figure


def _fold_lines(panel: Axes, values: pd.DataFrame, higher_is_better: bool, colours: dict[str, str]) -> None:
    table = values.to_numpy(dtype=float)
    for left in range(0, table.shape[1] - 1, 2):
        for line in table:
            gain = (line[left + 1] - line[left]) * (1 if higher_is_better else -1)
            colour = FAINT if gain == 0 or np.isnan(gain) else ARM_COLOURS[0] if gain > 0 else ARM_COLOURS[1]
            panel.plot([left, left + 1], line[left : left + 2], color=colour, lw=1.1, alpha=0.65, zorder=2)
    for place, arm in enumerate(values.columns):
        if place and place % 2 == 0:
            panel.axvline(place - 0.5, color=FAINT, lw=0.8)
        panel.plot(
            [place] * len(table), table[:, place], "o", ms=4.5, color=colours[arm], mec="white", mew=0.6, zorder=3
        )
        if not np.isnan(table[:, place]).all():
            panel.plot([place - 0.14, place + 0.14], [np.nanmean(table[:, place])] * 2, lw=3, color=INK, zorder=4)
    # Many names stand one above the other in turn, or they would run into one another.
    names = [("\n" if place % 2 and len(values.columns) > 2 else "") + arm for place, arm in enumerate(values.columns)]
    panel.set_xticks(range(len(names)), names, color=INK, fontsize=9)
    panel.set_xlim(-0.35, len(values.columns) - 0.65)
    panel.grid(axis="x", visible=False)
    panel.yaxis.set_major_locator(ticks(5))


def confusions(comparison: Comparison) -> Figure:
    """What each arm calls what: rows are the truth and add up to 100%; counts are means over an arm's seeds."""
    found = _judged(comparison)
    by_task: dict[str, list[tuple[str, str, str]]] = {}
    for one in found:
        by_task.setdefault(one[0], []).append(one)
    arms = max(len(of_task) for of_task in by_task.values())
    together = max(1, 4 // arms)  # tasks in one row
    rows, columns = -(-len(by_task) // together), arms * together
    figure, panels = new_figure(rows, columns, rows * (0.75 + 8.4 / columns))
    for at, of_task in enumerate(by_task.values()):
        first = at % together * arms
        row = panels[at // together][first : first + arms]
        for panel, (task, arm, probe) in zip(row, of_task, strict=False):
            _confusion(panel, _of(comparison.confusion, task, arm, probe))
            panel.set_title(f"{task}\n{arm}")
        hide(row[len(of_task) :])
    hide([panel for panel in panels[-1] if not panel.has_data()])
    note(figure, "Share of the true class; below it videos or patients, as a mean over the arm's seeds.")
    return figure


def _judged(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(task, arm, probe) of every arm that has an encoder, task by task, pretrained arms first."""
    arms = comparison.arms[comparison.arms["primary"] & ~comparison.arms["role"].isin(["control", "majority"])]
    rows = arms[["task", "arm", "probe"]].drop_duplicates().itertuples(index=False, name=None)
    tasks, order = list(arms["task"].unique()), arms_in_order(arms)
    return sorted(rows, key=lambda row: (tasks.index(row[0]), order.index(row[1])))


def _of(table: pd.DataFrame, task: str, arm: str, probe: str) -> pd.DataFrame:
    return table[(table["task"] == task) & (table["arm"] == arm) & (table["probe"] == probe)]


def _confusion(panel: Axes, table: pd.DataFrame) -> None:
    classes = list(dict.fromkeys(table["actual"]))
    counts = table["count"].to_numpy(dtype=float).reshape(len(classes), -1) / table["seeds"].iloc[0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(shares.shape):
        count = f"{counts[i, j]:.0f}" if float(counts[i, j]).is_integer() else f"{counts[i, j]:.1f}"
        colour = "white" if shares[i, j] > 0.55 else INK
        panel.text(j, i - 0.1, f"{shares[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=10)
        panel.text(j, i + 0.22, count, ha="center", va="center", color=colour, fontsize=7.5)
    crowded = sum(len(label) for label in classes) > 26
    panel.set_xticks(range(len(classes)), classes, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    panel.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    panel.set_xlabel("called")
    panel.set_ylabel("is")
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def roc_curves(comparison: Comparison, labels: Mapping[str, str]) -> Figure:
    """Mean within-fold ROC of every arm; one panel per class that is told from the rest.

    `labels` names what a task asks for (task -> label), so that a class "1" can be read.
    """
    found, table, colours = _judged(comparison), comparison.roc, arm_colours(comparison.arms)
    drawn = list(table[["task", "class"]].drop_duplicates().itertuples(index=False, name=None))
    columns = 4 if len(drawn) > 3 else 3
    rows = -(-len(drawn) // columns)
    figure, panels = new_figure(rows, columns, rows * (0.75 + 8.4 / columns), sharey=True)
    flat = [panel for row in panels for panel in row]
    for panel, (task, label) in zip(flat, drawn, strict=False):
        panel.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=(0, (4, 3)))
        for _, arm, probe in reversed([one for one in found if one[0] == task]):
            curve = _of(table, task, arm, probe)
            curve = curve[curve["class"] == label]
            x, y = (curve[name].to_numpy(dtype=float) for name in ("false_positive_rate", "true_positive_rate"))
            if len(curve):
                panel.plot(x, y, color=colours[arm], lw=1.8, label=f"{arm} {np.trapezoid(y, x):.2f}")
        panel.set_title(f"{task}\n")
        positive = f"positive: {labels[task]} = {label}"
        panel.text(0, 1.03, positive, transform=panel.transAxes, fontsize=8, color=INK).set_in_layout(False)
        panel.set_xlabel("false-positive rate")
        panel.set_aspect("equal")
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(-0.02, 1.02)
        panel.set_xticks([0, 0.5, 1])
        panel.legend(loc="lower right", title="area", title_fontsize=8, reverse=True)
    for row in panels:
        row[0].set_ylabel("true-positive rate")
    hide(flat[len(drawn) :])
    return figure


def training(history: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Pretraining, step by step: columns arm, seed, step and any of loss, learning_rate, ema, effective_rank.

    An arm has its colour of the other figures (grey if it was not compared), a seed its line style.
    """
    present = [name for name in TRAINING if name in history and history[name].notna().any()]
    constant = [name for name in SCHEDULES if name in present and history[name].nunique() == 1]
    shown = [name for name in present if name not in constant] or present
    columns = 2 if len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    arms, seeds = sorted(history["arm"].unique()), sorted(history["seed"].unique())
    figure, panels = new_figure(rows, columns, 0.9 + 2.1 * rows)
    flat = [panel for row in panels for panel in row]
    styles = {seed: SEED_STYLES[i % len(SEED_STYLES)] for i, seed in enumerate(seeds)}
    colour = {arm: colours.get(arm, FAINT) for arm in arms}
    for panel, name in zip(flat, shown, strict=False):
        for (arm, seed), run in history.groupby(["arm", "seed"], sort=True):
            run = run[run[name].notna()].sort_values("step")
            marker = "o" if len(run) < 3 else ""
            panel.plot(run["step"], run[name], lw=1.5, ls=styles[seed], marker=marker, color=colour[arm])
        panel.set_title(TRAINING[name])
        panel.set_xlabel("step")
    keys = [Line2D([], [], color=colour[arm], lw=3, label=arm) for arm in arms]
    keys += [Line2D([], [], color=INK, lw=1.2, ls=styles[seed], label=f"seed {seed}") for seed in seeds]
    free = flat[len(shown) :]
    hide(free)
    values = [f"{TRAINING[name]} {history[name].dropna().iloc[0]:g}" for name in constant if name not in shown]
    title = f"constant throughout: {', '.join(values)}" if values else None
    if free:
        free[0].legend(handles=keys, loc="center", ncols=2, title=title, title_fontsize=8)
    else:
        figure.legend(handles=keys, loc="outside lower left", ncols=6, title=title, title_fontsize=8, alignment="left")
    return figure
