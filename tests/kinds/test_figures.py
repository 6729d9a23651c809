"""Figures of classification stay legible however many arms a study has."""

import io

import pandas as pd
import pytest

from echolung.evaluation.comparison import Comparison
from echolung.kinds.classification_figures import ACROSS, confusions, roc_curves
from echolung.reports.figures import arm_colours


def comparison(tasks: int, arms: int, name: str, cells: pd.DataFrame) -> Comparison:
    """The same cells for every task and arm."""
    keys = [(f"task{task}", f"a-long-name-{arm}", "linear", "x") for task in range(tasks) for arm in range(arms)]
    rows = pd.DataFrame(keys, columns=["task", "arm", "method", "class"])
    table, empty = rows.assign(role="candidate", primary=True), pd.DataFrame()
    return Comparison(table, empty, empty, empty, empty, more={name: rows.merge(cells, how="cross")})


@pytest.mark.parametrize(
    ("tasks", "arms", "lines"), [(1, 7, [4, 3]), (3, 7, [4, 3] * 3), (3, 2, [4, 2]), (2, 4, [4, 4]), (1, 1, [1])]
)
def test_no_more_matrices_than_fit_beside_one_another(tasks: int, arms: int, lines: list[int]) -> None:
    cells = pd.DataFrame([(a, p, 5, 1) for a in "xy" for p in "xy"], columns=["actual", "predicted", "count", "seeds"])
    figure = confusions(comparison(tasks, arms, "confusion", cells), {})
    assert figure is not None
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in shown] == [
        f"task{task}\na-long-name-{arm}" for task in range(tasks) for arm in range(arms)
    ]
    places = pd.Series([panel.get_subplotspec().rowspan.start for panel in shown])
    assert places.value_counts(sort=False).tolist() == lines and max(lines) <= ACROSS


@pytest.mark.parametrize(("tasks", "arms"), [(7, 9), (3, 2), (1, 9)])
def test_curves_keep_their_room_beside_a_long_legend_and_arms_their_colours(tasks: int, arms: int) -> None:
    points = pd.DataFrame({"false_positive_rate": [0.0, 0.5, 1.0], "true_positive_rate": [0.0, 0.7, 1.0]})
    made = comparison(tasks, arms, "roc", points)
    colours = arm_colours(made)
    assert len(set(colours.values())) == arms
    figure = roc_curves(made, colours)
    assert figure is not None
    figure.savefig(io.BytesIO(), format="png")  # lays it out
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert len(shown) == tasks
    width, height = figure.get_size_inches()
    for panel in shown:
        box = panel.get_position()
        assert min(box.width * width, box.height * height) > 1.5, "inches"
