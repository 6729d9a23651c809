"""The style of every figure: readable at the width of a README, with a colour-blind safe palette."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

INK, SOFT, FAINT = "#1b2733", "#5b6875", "#9aa5b1"
GREYS = ["#7a8590", "#4d5863", "#a3adb8"]  # for reference arms
PALE = "#c3cad2"  # for the baseline
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # Okabe & Ito 2008
HUES = [*COLOURS, "#882255", "#999933", "#332288"]  # of arms; three are from Tol 2021
WIDTH = 8.8  # inches

STYLE = Path(__file__).with_name("figures.mplstyle")


def new_figure(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure of the common width with rows x columns panels."""
    # Not pyplot, which keeps every figure alive and looks for a display.
    spacing = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06, hspace=0.02, wspace=0.02)
    figure = Figure(figsize=(WIDTH, height), layout=spacing)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def ticks(most: int, symmetric: bool = False) -> MaxNLocator:
    """At most so many ticks, on round numbers."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], symmetric=symmetric)


def note(figure: Figure, text: str) -> None:
    """Small print below the panels."""
    figure.supxlabel(text, fontsize=8, color=SOFT, x=0.01, ha="left")


def subtitle(panel: Axes, text: str) -> None:
    """A line below the title, which ends in a line break; it may be wider than the panel."""
    panel.text(0, 1.03, text, transform=panel.transAxes, fontsize=8).set_in_layout(False)


def hide(panels: Iterable[Axes]) -> None:
    """Leave these panels of a grid empty."""
    for panel in panels:
        panel.set_axis_off()
