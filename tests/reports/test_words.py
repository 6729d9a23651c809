"""What the answers, tables and facts of a study say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import folds_of, manifest_of, save_source
from synthetic import ARMS, PROBED, RANDOM, STRENGTHS, TABLES, TASKS, compared, predictions

from echolung.core.drawing import COLOURS, styled
from echolung.evaluation.comparison import Comparison
from echolung.models.encoders import ENCODERS
from echolung.models.weights import initialise
from echolung.reports import study
from echolung.reports.answer import against_controls, answers, collapsed, few_seeds
from echolung.reports.figures import training
from echolung.reports.samples import samples
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


NONE_SHOWN = "o difference was shown between random and jepa"


@pytest.mark.parametrize(
    ("task", "outcome", "baseline", "columns", "text"),
    [
        ("lung", "better", "better", {}, "jepa (log-loss −0.25, p = 0.012) predicted better than random."),
        ("lung", "worse", "better", {}, "jepa (log-loss −0.25, p = 0.012) predicted worse than random."),
        ("lung", "undecided", "better", {}, f"N{NONE_SHOWN} (p = 0.012)."),
        ("lung", "undecided", "better", {"n_seen": 9}, f"N{NONE_SHOWN} † (p = 0.012)."),
        ("blues", "undecided", "worse", {}, f"Exploratory: n{NONE_SHOWN} (p = 0.012); not shown to beat majority."),
    ],
)
def test_an_answer_says_what_the_verdicts_say(comparison, task, outcome, baseline, columns, text) -> None:
    found = decided(comparison, outcome, "random", **{"difference": -0.25, "p_value": 0.001, "p_holm": 0.012} | columns)
    answer = answers(decided(found, baseline, "majority"), TASKS)[task]
    assert (answer.outcome, answer.text) == (outcome, text)


def test_candidates_that_differ_are_named() -> None:
    table = predictions("lung", 3, {"jepa": (1, 4.0), "random": (3, 0.2), "majority": (1, 0.0)})
    wrong = predictions("lung", 3, {"jepa": (1, -4.0)}).replace({"jepa": "jepa-2"})
    found = compared({"lung": pd.concat([table, wrong])}, LUNG, {**ARMS, "jepa-2": PROBED})
    answer = answers(found, LUNG, numbers=False)["lung"]
    both = "jepa predicted better than random; jepa-2 predicted worse than random"
    assert (answer.outcome, answer.text) == ("mixed", f"{both}; jepa-2 was not shown to beat majority.")
    assert few_seeds(found).startswith("Fewer than 3 training seeds: jepa (1) and jepa-2 (1).")


def test_a_candidate_is_compared_with_each_control(comparison: Comparison) -> None:
    found = decided(comparison, "worse", "hand-made", p_value=0.034)
    assert against_controls(found) == ["jepa against hand-made: worse on lung (p = 0.034) and blues (p = 0.034)."]
    found.verdicts.loc[found.verdicts["task"] == "blues", "outcome"] = "undecided"
    assert against_controls(found) == [
        "jepa against hand-made: worse on lung (p = 0.034); no difference shown on blues."
    ]


@pytest.mark.parametrize(("rank", "most", "said"), [(5.0, 80, False), (4.9, 80, True), (1.0, 64, False)])
def test_collapse_is_below_half_of_a_reference_of_the_same_width(comparison, rank, most, said) -> None:
    rows = [("pocus", "jepa", rank, most), ("pocus", "random", 10.0, 80)]
    ranks = pd.DataFrame(rows, columns=["source", "arm", "mean", "most"])
    assert ("jepa on pocus (4.9, reference 10.0)" in collapsed(ranks, comparison)) == said
    assert collapsed(ranks[:0], comparison) == ""


def test_the_terminal_shows_one_answer_per_task_and_one_table(comparison: Comparison) -> None:
    lines = table_text(comparison, TASKS).splitlines()
    for row in [row for table in task_tables(comparison, TASKS) for row in table.rows if not row.difference]:
        assert any(line.startswith(f"  {row.label} ") and row.cells[0] in line for line in lines)
    assert "log-loss − random" in "\n".join(lines)
    assert max(map(len, lines)) <= 100
    assert len(lines) < 20
    assert not pd.Series([line for line in lines if len(line) > 30]).duplicated().any()


def test_the_terminal_fits_long_names_and_several_references() -> None:
    name = "jepa-" + "long-" * 12
    table = predictions("lung", 3, {arm: STRENGTHS[arm] for arm in ("jepa", "random", "majority")})
    table = pd.concat([table.replace({"arm": {"jepa": name}}), table[table["arm"] == "random"].assign(arm="imported")])
    found = compared({"lung": table}, LUNG, {name: PROBED, "random": RANDOM, "imported": RANDOM})
    lines = table_text(found, LUNG).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[1] for line in lines if line.startswith("    − ")] == ["random", "imported"]


def test_a_p_value_says_whether_it_was_corrected(comparison: Comparison) -> None:
    tested = comparison.pairs[(comparison.pairs["test"] != "") & comparison.pairs["primary"]]
    tables = [*task_tables(comparison, TASKS, "main"), *task_tables(comparison, TASKS, "pairs")]
    cells = [row.cells[-1] for table in tables for row in table.rows if row.difference]
    assert sum(cell.endswith("*") for cell in cells) == tested["p_holm"].isna().sum() > 0
    assert sum(not cell.endswith("*") for cell in cells) == tested["p_holm"].notna().sum() > 0
    assert chance({"p_value": 0.0001, "p_holm": NAN}) == "p < 0.001*"
    assert chance({"p_value": 0.0001, "p_holm": 0.02}) == "p = 0.020"
    markdown = table_markdown(comparison, TASKS)
    assert all(cell in markdown for cell in cells)
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {7}


def test_encoders_and_histories_are_read_from_their_folders(tmp_path: Path) -> None:
    shape = {"width": 12, "depth": 1, "heads": 1, "image_size": 32, "patch": 16, "frames": 2, "tubelet": 2}
    settings = ENCODERS["video-vit"].Settings.parse({"kind": "video-vit", "clip_fps": 8, **shape}, "the test")
    initialise(settings, [0, 1], tmp_path / "random")
    folders = sorted((tmp_path / "random").glob("seed*"))
    (found,) = study.encoders({"random": folders}).to_dict("records")
    assert (found["arm"], found["seed"], found["pretrained on"]) == ("random", "0, 1", "nothing")
    assert re.match("video-vit: .*width 12", found["encoder"])
    assert study.encoders({}).empty
    assert study.read_history(folders).empty
    for folder in folders:
        (folder / "history.csv").write_text("step,loss\n0,1.0\n1,0.5\n")
    table = study.read_history([*folders, folders[0]])  # which two arms share
    assert table[["encoder", "seed", "step"]].to_numpy().tolist() == [["random", s, t] for s in (0, 1) for t in (0, 1)]


def test_ranks_are_of_a_source_and_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        "seed0": SimpleNamespace(shape=(4, 1, 2, 6), effective_rank=3.0),
        "seed1": SimpleNamespace(shape=(4, 1, 2, 6), effective_rank=4.0),
    }
    monkeypatch.setattr(study.Features, "open", lambda folder: SimpleNamespace(record=records[folder.name]))
    (found,) = study.effective_ranks(Path("embed/pocus/jepa") / seed for seed in records).to_dict("records")
    assert found == {"source": "pocus", "arm": "jepa", "seeds": 2, "mean": 3.5, "low": 3.0, "high": 4.0, "most": 4}


def test_the_facts_of_a_study_with_and_without_pretraining() -> None:
    pretrain = {"objectives": {"mae": {"mask_ratio": 0.9}}, "training": {"steps": 9, "betas": [0.9]}}
    parameters = {"split": {"outer": 5, "inner": 3, "repeats": 2}, "arms": {"a": {"method": ["hand-made"]}}}
    parameters["pretrain"] = {**pretrain, "encoders": {"a": {"objective": "mae"}}}
    found = study.facts(parameters, {"echolung_version": "1"})
    assert (found["Pretraining"], found["Objective mae"], found["Methods"]) == (
        "steps 9",
        "mask ratio 0.9",
        "hand-made",
    )
    parameters["pretrain"] |= {"encoders": {}}
    assert study.facts(parameters, {"echolung_version": "1"})["Pretraining"] == "none"
    for changed in ("", "+changed"):
        commands = dict(study.commands({"git_revision": f"0123456789abc{changed}"}))
        assert ("uncommitted" in commands["git checkout 0123456789"]) == bool(changed)


def test_training_curves_show_what_varies_in_at_most_six_panels() -> None:
    step = np.arange(5)
    history = pd.concat(
        pd.DataFrame({"encoder": name, "seed": seed, "step": step, "loss": 1 / (step + seed + 1), "eta_seconds": step})
        for name in ("a", "b")
        for seed in (0, 1, 2)
    ).assign(ema=0.998, **{f"diagnostic_{n}": np.tile(step, 6) for n in range(9)}, effective_rank=np.tile(step, 6))
    with styled():
        figure = training(history, {"a": COLOURS[0], "b": COLOURS[1]})
        assert figure is not None
        figure.draw_without_rendering()  # lays out
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["loss", "effective rank", *(f"diagnostic {n}" for n in range(4))]
    lines = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert (len(lines), {colour for colour, _ in lines}) == (6, set(COLOURS[:2]))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "seed 0", "seed 1", "seed 2"]
    assert legend.get_title().get_text() == "Constant: ema 0.998"
    assert not any(legend.get_window_extent().overlaps(panel.get_tightbbox()) for panel in figure.axes)


def test_samples_are_one_scored_video_per_class_of_what_may_be_shown(tmp_path: Path) -> None:
    names = [f"pocus/{k}" for k in range(12)]
    manifest = manifest_of(names, range(12)).assign(split_group=names)
    folds = folds_of(manifest, np.arange(12) % 2)
    folds.loc[folds["sample_id"] == "pocus/0", "fold"] = -1
    video = np.arange(20, dtype=np.uint8).reshape(20, 1, 1)
    save_source(tmp_path / "pocus", manifest, dict.fromkeys(names, video))
    found = samples(TASKS, {"lung": folds, "blues": folds}, {"pocus"}, tmp_path, frames=3)
    assert [sample.caption for sample in found] == ["class 0 · pocus/10", "class 1 · pocus/1"]
    assert found[0].frames.ravel().tolist() == [0, 10, 19]
