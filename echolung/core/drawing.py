"""One look for every figure: legible at a README's width, colours that colour-blind readers tell apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from echolung.evaluation.comparison import arms_in_order

INK, SOFT, FAINT, RULE = "#1b2733", "#5b6875", "#9aa5b1", "#e3e8ee"
REFERENCE, MAJORITY = "#7a8590", "#b9c1ca"
ARM_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # Okabe & Ito 2008
WIDTH = 8.8
"""Inches; at 130 dots per inch about what a README shows."""

RC = {
    "figure.dpi": 130,
    "savefig.dpi": 130,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name with dollar signs is a name
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style; whatever the caller's matplotlib settings are, they come back."""
    with matplotlib.rc_context(RC):
        yield


def new_figure(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[list[Axes]]]:
    """A figure of the common width with rows x columns panels."""
    # Not pyplot: it would keep every figure alive, and look for a display.
    spacing = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06, hspace=0.02, wspace=0.02)
    figure = Figure(figsize=(WIDTH, height), layout=spacing)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, [list(row) for row in panels]


def ticks(most: int, symmetric: bool = False) -> MaxNLocator:
    """At most so many ticks, at round numbers."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], symmetric=symmetric)


def arm_colours(arms: pd.DataFrame) -> dict[str, str]:
    """A colour per arm, the same in every figure: greys for what is compared with, colours for the rest."""
    roles = arms.drop_duplicates("arm").set_index("arm")["role"].to_dict()
    greys = {"reference": REFERENCE, "majority": MAJORITY}
    coloured = [arm for arm in arms_in_order(arms) if roles[arm] not in greys]
    chosen = {arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(coloured)}
    return {arm: greys.get(str(roles[arm])) or chosen[arm] for arm in arms_in_order(arms)}


def note(figure: Figure, text: str) -> None:
    """A line of small print under the panels."""
    figure.supxlabel(text, fontsize=8, color=SOFT, x=0.01, ha="left")


def hide(panels: Sequence[Axes]) -> None:
    """Blank panels of a grid that has more places than content."""
    for panel in panels:
        panel.set_axis_off()
