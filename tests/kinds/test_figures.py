"""Figures of classification stay legible however many arms a study has."""

import pandas as pd
import pytest

from echolung.evaluation.comparison import Comparison
from echolung.kinds.classification_figures import ACROSS, confusions


def comparison(tasks: int, arms: int) -> Comparison:
    keys = [(f"task{task}", f"arm{arm}", "linear") for task in range(tasks) for arm in range(arms)]
    rows = pd.DataFrame(keys, columns=["task", "arm", "method"])
    cells = pd.DataFrame([(a, p, 5, 1) for a in "xy" for p in "xy"], columns=["actual", "predicted", "count", "seeds"])
    table = rows.assign(role="candidate", primary=True)
    empty = pd.DataFrame()
    return Comparison(table, empty, empty, empty, empty, more={"confusion": rows.merge(cells, how="cross")})


@pytest.mark.parametrize(
    ("tasks", "arms", "lines"), [(1, 7, [4, 3]), (3, 7, [4, 3] * 3), (3, 2, [4, 2]), (2, 4, [4, 4]), (1, 1, [1])]
)
def test_no_more_matrices_than_fit_beside_one_another(tasks: int, arms: int, lines: list[int]) -> None:
    figure = confusions(comparison(tasks, arms), {})
    assert figure is not None
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in shown] == [
        f"task{task}\narm{arm}" for task in range(tasks) for arm in range(arms)
    ]
    places = pd.Series([panel.get_subplotspec().rowspan.start for panel in shown])
    assert places.value_counts(sort=False).tolist() == lines
    assert max(lines) <= ACROSS
