"""What the answers and tables of a study say."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import folds_of, manifest_of, save_source
from synthetic import ARMS, PROBED, TABLES, TASKS, compared, predictions

from echolung.evaluation.comparison import Comparison
from echolung.reports.answer import against_controls, answers, few_seeds
from echolung.reports.study import samples
from echolung.reports.tables import chance, table_markdown, table_text, task_tables

LUNG, NAN = {"lung": TASKS["lung"]}, float("nan")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared(TABLES, TASKS)


def decided(comparison: Comparison, outcome: str, reference: str, **columns: object) -> Comparison:
    """With this outcome, and these columns, for every pair that has the reference."""
    verdicts, pairs = comparison.verdicts.copy(), comparison.pairs.copy()
    verdicts.loc[verdicts["reference"] == reference, "outcome"] = outcome
    for name, value in columns.items():
        pairs.loc[pairs["reference"] == reference, name] = value
    return dataclasses.replace(comparison, verdicts=verdicts, pairs=pairs)


NOTHING = "No difference was shown between random and jepa"
EXPLORED = "Exploratory: Brier score minus that of random"


def test_an_answer_says_what_the_verdicts_say(comparison) -> None:
    for task, outcome, baseline, columns, text in [
        ("lung", "better", "better", {}, "jepa (Brier score −0.25, p = 0.012) predicted better than random."),
        ("lung", "worse", "better", {}, "jepa (Brier score −0.25, p = 0.012) predicted worse than random."),
        ("lung", "undecided", "better", {}, f"{NOTHING} (p = 0.012)."),
        ("lung", "undecided", "better", {"n_seen": 9}, f"{NOTHING} † (p = 0.012)."),
        ("blues", "undecided", "worse", {"low": -0.3, "high": -0.2}, f"{EXPLORED}: jepa −0.25 [−0.30, −0.20]."),
    ]:
        values = {"difference": -0.25, "p_value": 0.001, "p_holm": 0.012} | columns
        found = decided(decided(comparison, outcome, "random", **values), baseline, "majority")
        assert answers(found, TASKS)[task] == text


def test_candidates_that_differ_are_named() -> None:
    strengths, arms = {"jepa": (1, 4.0), "jepa-2": (1, -4.0), "random": (3, 0.2), "majority": (1, 0.0)}, ARMS.copy()
    arms["jepa-2"] = PROBED
    found = compared({"lung": predictions("lung", 3, strengths, arms)}, LUNG, arms)
    both = "jepa predicted better than random; jepa-2 predicted worse than random"
    text = re.sub(r" \(Brier score [^)]*\)", "", answers(found, LUNG)["lung"])
    assert text == f"{both}; jepa-2 was not shown to beat majority."
    assert few_seeds(found).startswith("Fewer than 3 training seeds: jepa (1) and jepa-2 (1).")


def test_a_candidate_is_compared_with_each_control(comparison: Comparison) -> None:
    found = decided(comparison, "worse", "hand-made", difference=0.25, low=0.1, high=0.4, p_value=0.034)
    assert against_controls(found, TASKS) == [
        "lung: jepa (Brier score +0.25, p = 0.034) predicted worse than hand-made.",
        "blues: Brier score minus that of hand-made: jepa +0.25 [+0.10, +0.40].",
    ]


def test_the_terminal_shows_one_answer_per_task_and_one_table(comparison: Comparison) -> None:
    lines = table_text(comparison, TASKS).splitlines()
    for row in [row for table in task_tables(comparison, TASKS) for row in table.rows if " − " not in row[0]]:
        assert any(line.startswith(f"  {row[0]} ") and row[2] in line for line in lines)
    assert "Brier score − random" in "\n".join(lines)
    assert max(map(len, lines)) <= 100 and len(lines) < 20
    assert not pd.Series([line for line in lines if len(line) > 30]).duplicated().any()


def test_a_p_value_says_whether_it_was_corrected(comparison: Comparison) -> None:
    tested = comparison.pairs[(comparison.pairs["test"] != "") & comparison.pairs["primary"]]
    tables = [*task_tables(comparison, TASKS, "main"), *task_tables(comparison, TASKS, "pairs")]
    cells = [row[-1] for table in tables for row in table.rows if " − " in row[0]]
    tested = tested[tested["task"] == "lung"]  # the other task is exploratory
    assert sum(cell.endswith("*") for cell in cells) == tested["p_holm"].isna().sum() > 0
    assert sum("p " in cell and not cell.endswith("*") for cell in cells) == tested["p_holm"].notna().sum() > 0
    assert chance({"p_value": 0.0001, "p_holm": NAN}) == "p < 0.001*"
    assert chance({"p_value": 0.0001, "p_holm": 0.02}) == "p = 0.020"
    markdown = table_markdown(comparison, TASKS)
    assert all(cell in markdown for cell in cells)
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {7}


def test_samples_are_one_scored_video_per_class_of_what_may_be_shown(tmp_path: Path) -> None:
    names = [f"pocus/{k}" for k in range(12)]
    manifest = manifest_of(names, range(12)).assign(split_group=names)
    folds = folds_of(manifest, np.arange(12) % 2)
    folds.loc[folds["sample_id"] == "pocus/0", "fold"] = -1
    video = np.arange(20, dtype=np.uint8).reshape(20, 1, 1)
    save_source(tmp_path / "pocus", manifest, dict.fromkeys(names, video))
    found = samples(TASKS, {"lung": folds, "blues": folds}, {"pocus"}, tmp_path, frames=3)
    assert [caption for caption, _ in found] == ["class 0 · pocus/10", "class 1 · pocus/1"]
    assert found[0][1].ravel().tolist() == [0, 10, 19]
