"""Figures of the kinds of task: confusion matrices and ROC curves of classes, Bland-Altman of numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echolung.core.drawing import FAINT, INK, hide, new_figure, note, subtitle
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds.kind import Captioned

ACROSS = 4  # most matrices beside one another: with more, their numbers overlap
INSIDE = 4  # entries of a legend that leave room for curves


def confusions(comparison: Comparison, colours: Mapping[str, str]) -> Figure | None:
    """A matrix per task and arm: rows are the truth and add up to 100%."""
    found = _by_task(comparison, "confusion")
    if not found:
        return None
    lines: list[list[tuple[str, str, pd.DataFrame]]] = [[]]
    for task, matrices in found.items():
        mine = [(task, arm, table) for arm, table in matrices.items()]
        if len(lines[-1]) + len(mine) > ACROSS:  # a task begins a line unless all of it fits into the last one
            lines += [mine[at : at + ACROSS] for at in range(0, len(mine), ACROSS)]
        else:
            lines[-1] += mine
    lines = [line for line in lines if line]
    columns = max(map(len, lines))
    figure, panels = new_figure(len(lines), columns, len(lines) * (0.75 + 8.4 / columns))
    for row, line in zip(panels, lines, strict=True):
        for panel, (task, arm, table) in zip(row, line, strict=False):
            _confusion(panel, table)
            panel.set_title(f"{task}\n{arm}")
    hide(panel for panel in panels.flat if not panel.has_data())
    note(figure, "Share of the true class, and the number of videos or patients (mean over an arm's seeds).")
    return figure


def _by_task(comparison: Comparison, name: str, every: bool = False) -> dict[str, dict[str, pd.DataFrame]]:
    """task -> arm -> its rows of a table, for candidates and references, or for `every` arm."""
    table, roles = judged_only(comparison, name), comparison.roles
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in table["task"].unique():
        for arm in comparison.order:
            rows = table[(table["task"] == task) & (table["arm"] == arm)]
            if len(rows) and (every or roles[arm] in ("candidate", "reference")):
                found.setdefault(task, {})[arm] = rows
    return found


def _confusion(panel: Axes, table: pd.DataFrame) -> None:
    classes = list(dict.fromkeys(table["actual"]))
    counts = table["count"].to_numpy(dtype=float).reshape(len(classes), -1) / table["seeds"].iloc[0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(shares.shape):
        count = f"{counts[i, j]:.0f}" if counts[i, j].is_integer() else f"{counts[i, j]:.1f}"
        colour = "white" if shares[i, j] > 0.55 else INK
        panel.text(j, i - 0.1, f"{shares[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=10)
        panel.text(j, i + 0.22, count, ha="center", va="center", color=colour, fontsize=7.5)
    crowded = sum(len(label) for label in classes) > 26
    panel.set_xticks(range(len(classes)), classes, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    panel.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


def roc_curves(comparison: Comparison, colours: Mapping[str, str]) -> Figure | None:
    """One panel per task and class against the rest."""
    found = _by_task(comparison, "roc")
    drawn = [(task, label) for task, arms in found.items() for label in pd.concat(arms.values())["class"].unique()]
    if not drawn:
        return None
    beside = max(map(len, found.values())) > INSIDE  # legends, which would cover the curves
    columns = 2 if beside else 4 if len(drawn) > 3 else 3
    rows = -(-len(drawn) // columns)
    figure, panels = new_figure(rows, columns, rows * (3.2 if beside else 0.75 + 8.4 / columns), sharey=True)
    for panel, (task, label) in zip(panels.flat, drawn, strict=False):
        panel.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=(0, (4, 3)))
        for arm, table in reversed(found[task].items()):
            curve = table[table["class"] == label]
            x, y = (curve[name].to_numpy(dtype=float) for name in ("false_positive_rate", "true_positive_rate"))
            if len(curve):
                panel.plot(x, y, color=colours[arm], lw=1.8, label=f"{arm} {np.trapezoid(y, x):.2f}")
        panel.set_title(f"{task}\n")
        subtitle(panel, f"positive: {label}")
        panel.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1])
        panel.set_xlabel("false-positive rate")
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {"loc": "lower right"}
        panel.legend(title="area", title_fontsize=8, reverse=True, **place)
    for panel in panels[:, 0]:
        panel.set_ylabel("true-positive rate")
    hide(panels.flat[len(drawn) :])
    return figure


def bland_altman(comparison: Comparison, colours: Mapping[str, str]) -> Figure | None:
    """A panel per task and arm: the error of each unit against the mean of prediction and label."""
    points, agreement = _by_task(comparison, "points", every=True), judged_only(comparison, "agreement")
    drawn = [(task, arm, mine) for task, arms in points.items() for arm, mine in arms.items()]
    if not drawn:
        return None
    rows = -(-len(drawn) // ACROSS)
    figure, panels = new_figure(rows, ACROSS, 0.75 + 2.3 * rows, sharey=True)
    for panel, (task, arm, mine) in zip(panels.flat, drawn, strict=False):
        error = mine["predicted"] - mine["true"]
        panel.plot((mine["predicted"] + mine["true"]) / 2, error, ".", ms=4, color=colours[arm], alpha=0.7)
        here = agreement[(agreement["task"] == task) & (agreement["arm"] == arm)].set_index("metric")["estimate"]
        for name, style in (("bias", "-"), ("lower limit", "--"), ("upper limit", "--")):
            panel.axhline(here[name], color=colours[arm], lw=1.2, ls=style)
        panel.axhline(0, color=FAINT, lw=0.8)
        panel.set_title(f"{task}\n")
        subtitle(panel, f"{arm}: {here['bias']:+.1f} [{here['lower limit']:+.1f}, {here['upper limit']:+.1f}]")
        panel.set_xlabel("mean of both")
    for panel in panels[:, 0]:
        panel.set_ylabel("predicted − true")
    hide(panels.flat[len(drawn) :])
    note(figure, "Full line: bias. Dashed: 95% limits of agreement, bias ± 1.96 SD. Mean over an arm's seeds.")
    return figure


CLASSIFICATION: Mapping[str, Captioned] = {
    "confusion": Captioned(
        confusions,
        "Confusion matrices",
        "The prediction is the class with the highest mean probability over repeats; no threshold is tuned. The"
        " diagonal is each class's sensitivity. Counts are means over an arm's seeds and may be fractions.",
    ),
    "roc": Captioned(
        roc_curves,
        "ROC curves",
        "One class against the rest. A curve is the mean of the curves within folds, because each fold has its own"
        " fitted model and scores of different models are not comparable. Its area may differ from the table's AUROC"
        " by up to 0.003, and that AUROC is a mean over classes where there are more than two.",
    ),
}

REGRESSION: Mapping[str, Captioned] = {
    "points": Captioned(
        bland_altman,
        "Bland-Altman",
        "The error of every patient or video against the mean of prediction and label. A slope means that large values"
        " are told too small: every prediction that shrinks to the mean has one.",
    ),
}
