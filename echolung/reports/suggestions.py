"""The contact sheet of `echolung suggest`: frames to annotate, what an ensemble draws there and where it disagrees."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from echolung.core.drawing import COLOURS, hide, new_figure, note

COLUMNS = 3


def sheet(shown: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Of each frame its title, its pixels uint8 (S, S) and the probabilities (M, C, S, S), with members M = 0 or more.
    Two pictures each: outlines where the mean probability is one half, and its standard deviation over members."""
    rows = -(-len(shown) // COLUMNS)
    figure, panels = new_figure(rows, 2 * COLUMNS, 0.5 + 1.75 * rows)
    for (title, frame, p), (left, right) in zip(shown, panels.reshape(-1, 2), strict=False):
        for panel in (left, right):
            panel.imshow(frame, cmap="gray", vmin=0, vmax=255)
        left.set_title(title, fontsize=8, fontweight="normal").set_in_layout(False)
        if len(p):
            for colour, one in [*zip(COLOURS[1:], p.mean(axis=0), strict=False)][::-1]:  # the first structure on top
                if one.min() < 0.5 < one.max():
                    left.contour(one, [0.5], colors=[colour], linewidths=0.9)
            apart = p.std(axis=0).max(axis=0)
            right.imshow(apart, cmap="inferno", vmin=0, vmax=0.5, alpha=np.clip(4 * apart, 0, 0.9))
    hide(panels.flat)
    if any(len(p) for _, _, p in shown):
        note(figure, "Left: what the ensemble draws. Right: where its members disagree, from 0 to a deviation of 0.5.")
    return figure
