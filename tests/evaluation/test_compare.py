"""A comparison against scikit-learn on the same table, its invariances, its words, and the faults it must refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from echolung.core.errors import DataError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, nested_metrics, read_comparison, write_comparison
from echolung.kinds.task import Task

LUNG = Task(source="pocus", label="diagnosis", kind="multiclass", classes=["covid", "NA", "none"], unit="video")
BLUES = Task(source="blues", label="covid", kind="binary", classes=["0", "1"], unit="patient")
QUICK = CompareSettings(bootstrap=200, permutations=200)


def predictions(
    task: str, classes: int, arms: dict[tuple[str, str], tuple[int, float]], patients: int = 24, repeats: int = 2
) -> pd.DataFrame:
    """Rows of `arms` {(arm, probe): (seeds, strength)}: 1-3 videos per patient, 4 folds, every class in every fold."""
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(patients), np.resize([1, 3, 2, 2], patients))
    y = patient % classes
    frames = []
    for (arm, probe), (seeds, strength) in arms.items():
        for seed in range(seeds):
            for repeat in range(repeats):
                scores = random.normal(0, 1, (len(y), classes)) + strength * np.eye(classes)[y]
                if probe == "none":
                    scores = np.zeros_like(scores)
                p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                frame = pd.DataFrame(p, columns=[f"p_{k}" for k in range(classes)])
                group = patient // classes
                frame["fold"] = group // 2 % 4 if repeat else group % 4
                frames.append(frame.assign(arm=arm, arm_seed=seed, probe=probe, repeat=repeat))
    table = pd.concat(frames, ignore_index=True)
    times = len(table) // len(y)
    return table.assign(
        task=task,
        sample_id=[f"{task}/v{i:03d}" for i in range(len(y))] * times,
        patient_id=[f"{task}/p{i}" for i in patient] * times,
        split_group=[f"{task}/p{i}" for i in patient] * times,
        y_true=np.tile(y, times),
        seen_in_pretraining=False,
        split_digest="d1",
    )


ARMS = {
    ("random", "attentive"): (3, 0.5),
    ("random", "linear"): (3, 0.5),
    ("jepa", "attentive"): (1, 2.0),
    ("jepa", "linear"): (1, 2.0),
    ("majority", "none"): (1, 0.0),
}
TABLE = pd.concat([predictions("lung", 3, ARMS), predictions("blues", 2, ARMS)], ignore_index=True)
TASKS = {"lung": LUNG, "blues": BLUES}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(TABLE, TASKS, QUICK)


def value(table: pd.DataFrame, column: str, **where: str) -> float:
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return float(table[column].iloc[0])


def rows(task: str, arm: str, probe: str = "attentive", seed: int = 0) -> pd.DataFrame:
    mine = TABLE[(TABLE["task"] == task) & (TABLE["arm"] == arm) & (TABLE["probe"] == probe)]
    return mine[mine["arm_seed"] == seed]


# --- what the figures are --------------------------------------------------------------------------------------------


def test_video_decisions_are_taken_on_the_mean_over_repeats(comparison: Comparison) -> None:
    by_seed = []
    for seed in range(3):
        mean = rows("lung", "random", seed=seed).groupby("sample_id")[["p_0", "p_1", "p_2", "y_true"]].mean()
        predicted = mean[["p_0", "p_1", "p_2"]].to_numpy().argmax(axis=1)
        by_seed.append(sklearn_metrics.balanced_accuracy_score(mean["y_true"], predicted))
    where = {"task": "lung", "arm": "random", "probe": "attentive", "metric": "balanced_accuracy"}
    assert value(comparison.arms, "estimate", **where) == pytest.approx(np.mean(by_seed))
    assert value(comparison.arms, "seed_low", **where) == pytest.approx(min(by_seed))
    assert value(comparison.arms, "seed_high", **where) == pytest.approx(max(by_seed))


def test_patient_figures_use_the_mean_probability_of_the_patients_videos(comparison: Comparison) -> None:
    units = rows("blues", "jepa").groupby(["repeat", "fold", "patient_id"])[["p_0", "p_1", "y_true"]].mean()
    area = [
        sklearn_metrics.roc_auc_score(fold["y_true"], fold["p_1"])
        for _, fold in units.groupby(level=["repeat", "fold"])
    ]
    where = {"task": "blues", "arm": "jepa", "probe": "attentive"}
    assert value(comparison.arms, "estimate", **where, metric="auroc") == pytest.approx(np.mean(area))
    loss = sklearn_metrics.log_loss(units["y_true"], units[["p_0", "p_1"]])
    assert value(comparison.arms, "estimate", **where, metric="log_loss") == pytest.approx(loss)


def test_in_the_log_loss_every_patient_weighs_the_same(comparison: Comparison) -> None:
    mine = rows("lung", "jepa")
    losses = -np.log(mine[["p_0", "p_1", "p_2"]].to_numpy()[np.arange(len(mine)), mine["y_true"]])
    expected = pd.Series(losses).groupby(mine["patient_id"].to_numpy()).mean().mean()
    where = {"task": "lung", "arm": "jepa", "probe": "attentive", "metric": "log_loss"}
    assert value(comparison.arms, "estimate", **where) == pytest.approx(expected)


def test_differences_are_those_of_the_estimates_and_lie_in_their_intervals(comparison: Comparison) -> None:
    for pair in comparison.pairs.itertuples():
        arms = [
            value(comparison.arms, "estimate", task=pair.task, arm=arm, probe=probe, metric=pair.metric)
            for arm, probe in ((pair.arm, pair.probe), (pair.reference, pair.reference_probe))
        ]
        assert pair.difference == pytest.approx(arms[0] - arms[1])
        assert pair.low - 1e-9 <= pair.difference <= pair.high + 1e-9


def test_sizes_stand_behind_every_figure(comparison: Comparison) -> None:
    for table in (comparison.arms, comparison.pairs):
        assert set(table["n_patients"]) == {24}
        assert set(table["n_groups"]) == {24}
        assert set(table["n_videos"]) == {48}


def test_majority_ranks_nothing_however_many_videos_a_patient_has(comparison: Comparison) -> None:
    for task in TASKS:
        assert value(comparison.arms, "estimate", task=task, arm="majority", metric="auroc") == 0.5


def test_fold_values_are_numbered_and_average_to_the_auroc(comparison: Comparison) -> None:
    folds = comparison.folds
    mine = folds[(folds["task"] == "blues") & (folds["arm"] == "random") & (folds["probe"] == "attentive")]
    areas = mine[mine["metric"] == "auroc"]
    assert areas["step"].tolist() == list(range(8))
    assert areas["n_patients"].tolist() == [6, 6, 6, 6, 8, 8, 4, 4]
    where = {"task": "blues", "arm": "random", "probe": "attentive", "metric": "auroc"}
    assert areas["value"].mean() == pytest.approx(value(comparison.arms, "estimate", **where))


def test_confusion_counts_every_unit_once_per_seed(comparison: Comparison) -> None:
    counts = comparison.confusion.groupby(["task", "arm", "probe"])["count"].sum()
    assert counts["lung", "random", "attentive"] == 3 * 48
    assert counts["blues", "jepa", "attentive"] == 24
    sensitivity = value(
        comparison.classes,
        "estimate",
        task="blues",
        arm="jepa",
        probe="attentive",
        metric="sensitivity",
        **{"class": "1"},
    )
    cell = {"task": "blues", "arm": "jepa", "probe": "attentive", "actual": "1", "predicted": "1"}
    assert sensitivity == pytest.approx(value(comparison.confusion, "count", **cell) / 12)


def test_the_area_under_the_shown_roc_is_the_auroc(comparison: Comparison) -> None:
    curve = comparison.roc
    curve = curve[(curve["task"] == "blues") & (curve["arm"] == "jepa") & (curve["probe"] == "attentive")]
    area = sklearn_metrics.auc(curve["false_positive_rate"], curve["true_positive_rate"])
    where = {"task": "blues", "arm": "jepa", "probe": "attentive", "metric": "auroc"}
    assert area == pytest.approx(value(comparison.arms, "estimate", **where), abs=0.01)


# --- what is tested and said -----------------------------------------------------------------------------------------


def test_only_the_log_loss_is_tested_and_only_pretrained_minus_reference_is_the_family(comparison: Comparison) -> None:
    pairs = comparison.pairs
    assert (pairs["p_value"].notna() == (pairs["metric"] == "log_loss")).all()
    family = pairs[pairs["p_holm"].notna()]
    assert set(family[["arm", "reference", "probe"]].itertuples(index=False, name=None)) == {
        ("jepa", "random", "attentive")
    }
    assert sorted(family["task"]) == ["blues", "lung"]
    lowest = family["p_value"].min()
    assert family["p_holm"].min() == pytest.approx(min(1, 2 * lowest))
    only = compare(TABLE, TASKS, QUICK.model_copy(update={"main_tasks": ["blues"]})).pairs
    assert only[only["p_holm"].notna()]["task"].tolist() == ["blues"]


def test_equal_arms_are_not_called_equal() -> None:
    random = TABLE[(TABLE["arm"] == "random") & (TABLE["probe"] == "attentive") & (TABLE["task"] == "lung")]
    found = compare(pd.concat([random, random.assign(arm="jepa")]), {"lung": LUNG}, QUICK)
    assert found.pairs["difference"].abs().max() < 1e-12
    tested = found.pairs[found.pairs["metric"] == "log_loss"].iloc[0]
    assert tested["p_value"] == 1.0
    assert found.verdicts["outcome"].tolist() == ["undecided"]
    assert "not evidence that they are equal" in found.verdicts["text"].iloc[0]


def sentence(found: Comparison, task: str, arm: str, reference: str) -> tuple[str, str]:
    table = found.verdicts
    row = table[(table["task"] == task) & (table["arm"] == arm) & (table["reference"] == reference)].iloc[0]
    return row["outcome"], row["text"]


def test_one_pretraining_seed_speaks_of_this_encoder_only(comparison: Comparison) -> None:
    outcome, text = sentence(comparison, "lung", "jepa", "random")
    assert outcome == "better"
    assert "the mean of these 3 random draws" in text
    assert "these fitted models on new patients" in text
    assert "one pretraining seed cannot say what pretraining does in general" in text
    assert "24 patients, 48 videos" in text
    assert "exploratory" not in text
    assert "not corrected" not in text
    assert "not corrected; 24 patients" in sentence(comparison, "lung", "jepa", "majority")[1]


def test_three_pretraining_seeds_may_speak_of_the_recipe() -> None:
    arms = {("random", "attentive"): (3, 1.5), ("jepa", "attentive"): (3, 0.0)}
    found = compare(predictions("lung", 3, arms), {"lung": LUNG}, QUICK)
    outcome, text = sentence(found, "lung", "jepa", "random")
    assert outcome == "worse"
    assert "With 3 pretraining seeds this speaks of this pretraining recipe, on this task" in text


def test_every_arm_meets_the_majority(comparison: Comparison) -> None:
    assert sentence(comparison, "blues", "jepa", "majority")[0] == "better"
    assert "class frequencies" in sentence(comparison, "blues", "random", "majority")[1]


def test_an_arm_with_its_own_probe_meets_the_references_primary_probe() -> None:
    arms = {("random", "attentive"): (2, 0.5), ("handmade", "logistic"): (1, 1.0)}
    found = compare(predictions("lung", 3, arms), {"lung": LUNG}, QUICK)
    assert set(found.pairs["reference_probe"]) == {"attentive"}
    assert nested_metrics(found)["lung"]["handmade"]["auroc"] is not None
    assert sentence(found, "lung", "handmade", "random")[0] in ("better", "worse", "undecided")


def test_secondary_tests_stand_apart(comparison: Comparison) -> None:
    tests = comparison.secondary.groupby("task")["test"].unique()
    assert set(tests["lung"]) == {"Nadeau-Bengio, log-loss"}
    assert "DeLong, AUROC of patients pooled over folds" in set(tests["blues"])


# --- invariances -----------------------------------------------------------------------------------------------------


def test_the_order_of_rows_and_the_other_probe_change_nothing(comparison: Comparison) -> None:
    shuffled = TABLE.sample(frac=1, random_state=3)
    again = compare(shuffled, TASKS, QUICK)
    pd.testing.assert_frame_equal(again.arms, comparison.arms)
    pd.testing.assert_frame_equal(again.pairs, comparison.pairs)
    alone = compare(TABLE[TABLE["probe"] != "linear"], TASKS, QUICK)
    primary = comparison.pairs[comparison.pairs["probe"] != "linear"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.pairs, primary)


def test_tables_survive_the_disk(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path)
    again = read_comparison(tmp_path)
    for name in vars(comparison):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(comparison, name), check_dtype=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == nested_metrics(comparison)
    assert set(metrics["lung"]) == {"jepa", "random", "majority"}
    assert metrics["lung"]["jepa"]["auroc"] == pytest.approx(
        value(comparison.arms, "estimate", task="lung", arm="jepa", probe="attentive", metric="auroc"), abs=1e-6
    )
    comparison.arms.drop(columns="n_groups").to_csv(tmp_path / "arms.csv", index=False)
    with pytest.raises(DataError, match=r"arms\.csv was written by an earlier version"):
        read_comparison(tmp_path)
    write_comparison(comparison, tmp_path)
    (tmp_path / "pairs.csv").unlink()
    with pytest.raises(DataError, match=r"pairs\.csv"):
        read_comparison(tmp_path)


def test_a_fold_without_a_class_is_noted() -> None:
    arms = {("random", "attentive"): (1, 1.0), ("majority", "none"): (1, 0.0)}
    table = predictions("blues", 2, arms, patients=10, repeats=1)
    first = sorted(table["patient_id"].unique())[0]
    table["fold"] = np.where(table["y_true"] == 1, 1, 0)
    table.loc[table["patient_id"] == first, "fold"] = 1
    arms_of_it = compare(table, {"blues": BLUES}, QUICK).arms
    notes = arms_of_it[arms_of_it["metric"] == "auroc"]["note"]
    assert notes.str.startswith("1 of 2 fold-class pairs lack a class and are left out").all()
    assert notes.str.contains("of the resamples").all()  # those that drew the first patient not at all


def test_patients_who_share_videos_are_no_more_evidence_than_one() -> None:
    """Every patient of a task stands in it twice: known as a split group, the copy changes no interval and no p."""
    mine = TABLE[TABLE["task"] == "blues"]
    copies = mine.assign(sample_id=mine["sample_id"] + " copy", patient_id=mine["patient_id"] + " copy")
    once, known, unknown = (
        compare(table, {"blues": BLUES}, QUICK)
        for table in (
            mine,
            pd.concat([mine, copies]),
            pd.concat([mine, copies.assign(split_group=copies["patient_id"])]),
        )
    )
    assert (known.arms["n_patients"] == 2 * once.arms["n_patients"]).all()
    assert {tuple(row) for row in known.arms[["n_patients", "n_groups"]].to_numpy()} == {(48, 24)}
    assert {tuple(row) for row in known.pairs[["n_patients", "n_groups"]].to_numpy()} == {(48, 24)}
    assert known.verdicts["text"].str.contains("48 patients (24 independent groups), 96 videos", regex=False).all()
    assert unknown.verdicts["text"].str.contains("48 patients, 96 videos", regex=False).all()
    for name, columns in (
        ("arms", ["estimate", "low", "high"]),
        ("pairs", ["difference", "low", "high", "p_value"]),
        ("classes", ["estimate", "low", "high"]),
    ):
        found, expected = (getattr(one, name)[columns].to_numpy(dtype=float) for one in (known, once))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    where = {"arm": "jepa", "reference": "random", "probe": "attentive", "metric": "log_loss"}
    widths = [value(one.pairs, "high", **where) - value(one.pairs, "low", **where) for one in (known, unknown)]
    assert widths[1] < 0.85 * widths[0]
    assert once.secondary["test"].str.startswith("DeLong").any()
    assert not known.secondary["test"].str.startswith("DeLong").any()  # it takes patients to be independent


# --- faults ----------------------------------------------------------------------------------------------------------

LUNG_TABLE = TABLE[TABLE["task"] == "lung"].reset_index(drop=True)
JEPA = (LUNG_TABLE["arm"] == "jepa") & (LUNG_TABLE["probe"] == "attentive")
FIRST = JEPA & (LUNG_TABLE["repeat"] == 1) & (LUNG_TABLE["sample_id"] == "lung/v000")


def changed(column: str, where: pd.Series, new: object) -> pd.DataFrame:
    table = LUNG_TABLE.copy()
    table[column] = table[column].mask(where, new)
    return table


FAULTS: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "a missing fold": (
        lambda: LUNG_TABLE[~(JEPA & (LUNG_TABLE["repeat"] == 1) & (LUNG_TABLE["fold"] == 2))],
        r"jepa seed 0 probe attentive: repeat 1 fold 2 is missing \(12 videos\)",
    ),
    "a fold missing everywhere": (lambda: LUNG_TABLE[LUNG_TABLE["fold"] != 1], "repeat 0 fold 1"),
    "a missing repeat": (lambda: LUNG_TABLE[~(JEPA & (LUNG_TABLE["repeat"] == 1))], "fold 0, 1, 2, 3 is missing"),
    "a missing video": (lambda: LUNG_TABLE[~FIRST], r"is missing \(1 videos\)"),
    "another split": (lambda: changed("split_digest", JEPA, "d2"), "different splits: jepa, .* on d1; jepa on d2"),
    "a video twice": (lambda: pd.concat([LUNG_TABLE, LUNG_TABLE[FIRST]]), "twice: jepa seed 0 repeat 1 lung/v000"),
    "probabilities that do not sum to one": (lambda: changed("p_0", FIRST, 0.999), "1 rows of 'lung'.* lung/v000"),
    "a probability that is not a number": (lambda: changed("p_1", FIRST, np.nan), "jepa seed 0 lung/v000"),
    "another truth": (lambda: changed("y_true", FIRST, 2), "more than one y_true for lung/v000"),
    "a class out of range": (lambda: changed("y_true", FIRST, 3), r"outside 0\.\.2"),
    "a patient in two folds": (lambda: changed("fold", FIRST, 3), "more than one outer fold in a repeat"),
    "a patient in two groups": (lambda: changed("split_group", FIRST, "g"), "more than one split group for lung/p0"),
    "a group in two folds": (
        lambda: LUNG_TABLE.assign(split_group=LUNG_TABLE["patient_id"].replace("lung/p3", "lung/p0")),
        r"more than one outer fold in a repeat for .*lung/p0",
    ),
    "a missing column": (lambda: LUNG_TABLE.drop(columns="p_2"), "no column p_2"),
    "an empty cell": (lambda: changed("patient_id", FIRST, None), "empty cells in patient_id"),
    "no rows": (lambda: LUNG_TABLE[:0], "no predictions of task 'lung'"),
    "nothing to compare": (lambda: LUNG_TABLE[LUNG_TABLE["arm"] == "random"], "nothing to compare it with"),
    "no reference arm": (lambda: LUNG_TABLE[LUNG_TABLE["arm"] != "random"], "reference arm 'random'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str) -> None:
    plant, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        compare(plant(), {"lung": LUNG}, QUICK)


def test_unknown_and_absent_tasks_are_named() -> None:
    with pytest.raises(DataError, match="unknown task lung"):
        compare(LUNG_TABLE, {"blues": BLUES}, QUICK)
    with pytest.raises(DataError, match="no predictions of task 'blues'"):
        compare(LUNG_TABLE, TASKS, QUICK)
    with pytest.raises(DataError, match="main_tasks names unknown task nonsense"):
        compare(LUNG_TABLE, {"lung": LUNG}, QUICK.model_copy(update={"main_tasks": ["nonsense"]}))


def test_a_patient_of_two_classes_is_refused_only_where_the_patient_decides() -> None:
    mixed = LUNG_TABLE.copy()
    patient = mixed.groupby("patient_id")["sample_id"].transform("nunique")
    last = mixed[patient == 3]["sample_id"].iloc[0]
    mixed.loc[mixed["sample_id"] == last, "y_true"] = (mixed["y_true"] + 1) % 3
    assert len(compare(mixed, {"lung": LUNG}, QUICK).arms)
    with pytest.raises(DataError, match="decides per patient, but lung/p"):
        compare(mixed, {"lung": LUNG.model_copy(update={"unit": "patient"})}, QUICK)


# --- videos seen in pretraining, controls ----------------------------------------------------------------------------


def test_an_encoder_that_watched_what_it_is_scored_on_is_marked_and_left_out_of_the_family() -> None:
    watched = (TABLE["arm"] == "jepa") & (TABLE["task"] == "lung") & TABLE["sample_id"].str.endswith(("000", "001"))
    found = compare(TABLE.assign(seen_in_pretraining=watched), TASKS, QUICK)
    seen = found.arms.groupby(["task", "arm"])["n_seen"].max().to_dict()
    assert seen[("lung", "jepa")] == 2
    assert sum(seen.values()) == 2
    tested = found.pairs[(found.pairs["metric"] == "log_loss") & (found.pairs["reference"] == "random")]
    tested = tested[tested["primary"]].set_index("task")
    assert np.isnan(tested.loc["lung", "p_holm"])
    assert tested.loc["blues", "p_holm"] == tested.loc["blues", "p_value"]  # a family of one
    verdicts = found.verdicts[found.verdicts["reference"] == "random"].set_index("task")
    assert "Not counted as evidence: 2 of the" in verdicts.loc["lung", "text"]
    assert "Not counted" not in verdicts.loc["blues", "text"]
    assert verdicts["confirmatory"].to_dict() == {"lung": False, "blues": True}


def test_pretrained_arms_meet_the_controls_and_others_do_not() -> None:
    arms = ARMS | {("hand-made", "none"): (1, 0.0)}
    found = compare(predictions("lung", 3, arms), {"lung": TASKS["lung"]}, QUICK)
    met = found.pairs[found.pairs["primary"]].groupby("arm")["reference"].agg(set).to_dict()
    assert met["jepa"] == {"random", "majority", "hand-made"}
    assert met["random"] == {"majority"}
    assert met["hand-made"] == {"random", "majority"}
    assert set(found.arms.loc[found.arms["arm"] == "hand-made", "role"]) == {"control"}
    assert found.pairs["p_holm"].notna().sum() == 1


def test_outside_the_main_tasks_a_difference_explores() -> None:
    found = compare(TABLE, TASKS, QUICK.model_copy(update={"main_tasks": ["blues"]}))
    verdicts = found.verdicts[found.verdicts["reference"] == "random"].set_index("task")
    assert verdicts["confirmatory"].to_dict() == {"lung": False, "blues": True}
    assert "exploratory and not corrected" in verdicts.loc["lung", "text"]
    assert "exploratory" not in verdicts.loc["blues", "text"]
