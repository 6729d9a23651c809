"""Figures of regression: Bland-Altman."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from echolung.core.drawing import FAINT, hide, new_figure, note, subtitle
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds.kind import Captioned

ACROSS = 4


def bland_altman(comparison: Comparison, colours: Mapping[str, str]) -> Figure | None:
    """A panel per task and arm: the error of each unit against the mean of prediction and label."""
    points, agreement = judged_only(comparison, "points"), judged_only(comparison, "agreement")
    drawn = [
        (task, arm, points[(points["task"] == task) & (points["arm"] == arm)])
        for task in points["task"].unique()
        for arm in comparison.order
    ]
    drawn = [(task, arm, mine) for task, arm, mine in drawn if len(mine)]
    if not drawn:
        return None
    rows = -(-len(drawn) // ACROSS)
    figure, panels = new_figure(rows, ACROSS, 0.75 + 2.3 * rows, sharey=True)
    flat = [panel for row in panels for panel in row]
    for panel, (task, arm, mine) in zip(flat, drawn, strict=False):
        error = mine["predicted"] - mine["true"]
        panel.plot((mine["predicted"] + mine["true"]) / 2, error, ".", ms=4, color=colours[arm], alpha=0.7)
        here = agreement[(agreement["task"] == task) & (agreement["arm"] == arm)].set_index("metric")["estimate"]
        for name, style in (("bias", "-"), ("lower limit", "--"), ("upper limit", "--")):
            panel.axhline(here[name], color=colours[arm], lw=1.2, ls=style)
        panel.axhline(0, color=FAINT, lw=0.8)
        panel.set_title(f"{task}\n")
        subtitle(panel, f"{arm}: {here['bias']:+.1f} [{here['lower limit']:+.1f}, {here['upper limit']:+.1f}]")
        panel.set_xlabel("mean of both")
    for row in panels:
        row[0].set_ylabel("predicted − true")
    hide(flat[len(drawn) :])
    note(figure, "Full line: bias. Dashed: 95% limits of agreement, bias ± 1.96 SD. Mean over an arm's seeds.")
    return figure


FIGURES: Mapping[str, Captioned] = {
    "points": Captioned(
        bland_altman,
        "Bland-Altman",
        "The error of every patient or video against the mean of prediction and label. A slope means that large values"
        " are told too small: every prediction that shrinks to the mean has one.",
    ),
}
