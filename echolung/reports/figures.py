"""The figures of any kind of task: each function draws one and returns it; the caller saves it."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from echolung.core.drawing import FAINT, GREYS, HUES, INK, PALE, SOFT, WIDTH, hide, new_figure, note, subtitle, ticks
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds.kind import Kind
from echolung.reports.tables import basis

PANELS = 6  # most panels of training curves
FIRST = ("learning rate", "effective rank")  # drawn after the loss; the objective's diagnostics follow
COMPUTE = ("clips", "seconds", "clips per second", "eta seconds")  # they say nothing about learning
SEED_STYLES = ["-", "--", ":", "-."]


def arm_colours(comparison: Comparison) -> dict[str, str]:
    """A colour per arm, the same in every figure: greys for what is compared with, colours for the rest."""
    rest, of_role = cycle(HUES), {"reference": cycle(GREYS), "baseline": cycle([PALE])}
    return {arm: next(of_role.get(comparison.roles[arm], rest)) for arm in comparison.order}


def differences(comparison: Comparison, kind: Kind, colours: Mapping[str, str]) -> Figure | None:
    """Each arm minus the references (None without): paired differences with 95% intervals, and each held-out fold's."""
    pairs = comparison.pairs
    table = pairs[pairs["primary"] & pairs["reference"].map(comparison.roles).eq("reference")]
    if table.empty:
        return None
    references = table["reference"].unique()
    labels = table["arm"] if len(references) == 1 else table["arm"] + " − " + table["reference"]
    values = judged_only(comparison, "folds").pivot(index=["task", "metric", "step"], columns="arm", values="value")
    folds = [
        (values[arm] - values[reference]).loc[task, metric].to_numpy(dtype=float)
        for task, metric, arm, reference in table[["task", "metric", "arm", "reference"]].itertuples(index=False)
    ]
    table = table.assign(label=labels, estimate=table["difference"], folds=folds)
    figure, panels = _intervals(table, comparison, kind, colours)
    for metric, column in zip(kind.paired, panels.T, strict=True):
        shown = table[table["metric"] == metric]
        ends = np.concatenate([*shown["folds"], shown["low"], shown["high"]])
        extent = np.nanmax(np.abs(ends), initial=0.01) * 1.05
        for panel in column:
            better = (0, extent) if kind.metrics[metric].higher_is_better else (-extent, 0)
            panel.axvspan(*better, color="#eaf4ee", zorder=0)
            panel.axvline(0, color=SOFT, lw=1)
            panel.set_xlim(-extent, extent)
            panel.xaxis.set_major_locator(ticks(4, symmetric=True))
    what = f"an arm minus {references[0]}" if len(references) == 1 else "an arm minus a reference"
    note(figure, f"Mark: {what}, on the same patients. Line: 95% interval. Ticks below: single held-out folds.")
    return figure


def estimates(comparison: Comparison, kind: Kind, colours: Mapping[str, str]) -> Figure:
    """Every arm's metrics with 95% intervals."""
    table = comparison.arms[comparison.arms["primary"]]
    figure, panels = _intervals(table.assign(label=table["arm"]), comparison, kind, colours)
    for row, (task, mine) in zip(panels, table.groupby("task", sort=False), strict=True):
        row[0].set_title(f"{task}\n")
        subtitle(row[0], basis(mine))
    note(figure, "Mark: estimate (mean over an arm's seeds). Line: 95% interval. Band: range of single seeds.")
    return figure


def _intervals(
    table: pd.DataFrame, comparison: Comparison, kind: Kind, colours: Mapping[str, str]
) -> tuple[Figure, np.ndarray]:
    """A row of panels per task and a column per metric, which show each `label`'s estimate, low and high."""
    tasks, most = list(table["task"].unique()), table.groupby("task")["label"].nunique().max()
    figure, panels = new_figure(len(tasks), len(kind.paired), 0.75 + len(tasks) * (0.62 + 0.27 * most))
    table = table.sort_values("arm", key=lambda arms: -arms.map(comparison.order.index), kind="stable")
    for row, task in zip(panels, tasks, strict=True):
        for panel, metric in zip(row, kind.paired, strict=True):
            shown = table[(table["task"] == task) & (table["metric"] == metric)]
            for place, found in enumerate(shown.to_dict("records")):
                _estimate(panel, place, found, colours[found["arm"]])
            names = list(shown["label"]) if panel is row[0] else [""] * len(shown)
            panel.set_yticks(range(len(shown)), names, color=INK, fontsize=9)
            panel.set_ylim(-0.6, len(shown) - 0.4)
            panel.grid(axis="y", visible=False)
            panel.xaxis.set_major_locator(ticks(4))
            arrow, name = "→" if kind.metrics[metric].higher_is_better else "←", kind.metrics[metric].label
            panel.set_xlabel(f"{name}{chr(10) if len(name) > 18 else ' '}{arrow} better")
        row[0].set_title(task)
    return figure, panels


def _estimate(panel: Axes, place: int, found: Mapping[Any, Any], colour: str) -> None:
    if found.get("seeds", 1) > 1:
        seeds = [found["seed_low"], found["seed_high"]]
        panel.plot(seeds, [place] * 2, lw=9, color=colour, alpha=0.22, zorder=1, solid_capstyle="butt")
    panel.plot([found["low"], found["high"]], [place] * 2, lw=1.8, color=colour, zorder=2, solid_capstyle="butt")
    panel.plot(found["estimate"], place, "o", ms=6, color=colour, mec="white", mew=0.7, zorder=3)
    folds = found.get("folds", ())
    panel.plot(folds, [place - 0.28] * len(folds), "|", ms=5, color=colour, alpha=0.7)


def training(history: pd.DataFrame, colours: Mapping[str, str]) -> Figure | None:
    """Curves of the columns loss and whatever else varies; of an encoder a colour, of a seed a line style."""
    if history.empty:
        return None
    history = history.rename(columns=lambda name: name.replace("_", " "))
    numeric = history.select_dtypes("number").drop(columns=["seed", "step", *COMPUTE], errors="ignore")
    varying = [name for name in numeric if numeric[name].nunique() > 1 and name != "loss"]
    shown = ["loss", *sorted(varying, key=lambda name: name not in FIRST)][:PANELS]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    encoders, seeds = list(history["encoder"].unique()), sorted(history["seed"].unique())
    figure, panels = new_figure(rows, columns, 0.9 + 2.1 * rows)
    styles = {seed: SEED_STYLES[i % len(SEED_STYLES)] for i, seed in enumerate(seeds)}
    for panel, name in zip(panels.flat, shown, strict=False):
        for (encoder, seed), run in history.groupby(["encoder", "seed"], sort=True):
            run = run[run[name].notna()].sort_values("step")
            marker = "o" if len(run) < 3 else ""
            colour = colours.get(str(encoder), FAINT)
            panel.plot(run["step"], run[name], lw=1.5, ls=styles[seed], marker=marker, color=colour)
        panel.set_title(str(name))
        panel.set_xlabel("step")
    hide(panels.flat[len(shown) :])
    keys = [Line2D([], [], color=colours.get(encoder, FAINT), lw=3, label=encoder) for encoder in encoders]
    keys += [Line2D([], [], color=INK, lw=1.2, ls=styles[seed], label=f"seed {seed}") for seed in seeds]
    figure.legend(handles=keys, loc="outside lower left", ncols=6)
    return figure


def efficiency(searches: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> Figure | None:
    """Dice on the patients of the first inner fold against the number of training patients, where methods told it.
    `searches`: task -> what its fits chose from, with the columns arm, patients and dice."""
    told = {task: table for task, table in searches.items() if "patients" in table and table["patients"].notna().any()}
    found = {task: table.dropna(subset=["patients"]) for task, table in told.items()}
    if not found:
        return None
    figure, panels = new_figure(1, len(found), 3.4)
    for panel, (task, table) in zip(panels[0], found.items(), strict=True):
        for arm, mine in table.groupby("arm", sort=False):
            dice = mine.groupby("patients")["dice"].agg(["mean", "min", "max"])
            panel.plot(dice.index, dice["mean"], "o-", ms=4, lw=1.6, color=colours[str(arm)], label=arm)
            panel.fill_between(dice.index, dice["min"], dice["max"], color=colours[str(arm)], alpha=0.15, lw=0)
        panel.set_xscale("log", base=2)
        counts = sorted(table["patients"].astype(int).unique())
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_title(task)
        panel.set_xlabel("training patients")
    panels[0][0].set_ylabel("Dice on validation patients")
    handles = {str(arm): Line2D([], [], color=colours[str(arm)], lw=3) for one in found.values() for arm in one["arm"]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=6)
    return figure


def sample_frames(samples: Sequence[tuple[str, np.ndarray]]) -> Figure | None:
    """A contact sheet of captions and frames uint8 (n, H, W): one video per row, time from left to right."""
    if not samples:
        return None
    columns = max(len(frames) for _, frames in samples)
    figure, panels = new_figure(len(samples), columns, (0.22 + WIDTH / columns) * len(samples))
    figure.set_facecolor("#0b0f14")
    for row, (caption, frames) in zip(panels, samples, strict=True):
        hide(row)
        for panel, frame in zip(row, frames, strict=False):
            panel.imshow(frame, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        text = row[0].text(0, 1.04, caption, transform=row[0].transAxes, color="#dfe6ee", fontweight="bold")
        text.set_in_layout(False)  # it is wider than its panel
    figure.set_layout_engine("constrained", h_pad=0.16, w_pad=0.06)
    return figure
