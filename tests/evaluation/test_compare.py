"""A comparison against scikit-learn on the same table, its invariances, its words, and the faults it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from echolung.core.errors import DataError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, judged_only, nested_metrics, read_comparison, write_comparison
from echolung.kinds.classification import Classification, ClassificationTask
from echolung.methods.arms import Arm

LUNG = ClassificationTask(
    kind="classification", source="pocus", label="diagnosis", classes=["covid", "NA", "no"], unit="video"
)
BLUES = ClassificationTask(kind="classification", source="blues", label="covid", classes=["0", "1"], unit="patient")
TASKS = {"lung": LUNG, "blues": BLUES}
QUICK = CompareSettings(bootstrap=200, permutations=200)
READS = ("attentive", "linear")
ARMS = {
    "random": Arm(encoder="random", method=READS, role="reference"),
    "jepa": Arm(encoder="jepa", method=READS, role="candidate"),
    "hand-made": Arm(method="hand-made", role="control"),
}
STRENGTH = {"random": 0.5, "jepa": 2.0, "hand-made": 0.5}
FITS = [("random", method, seed) for method in READS for seed in range(3)] + [("jepa", method, 0) for method in READS]


def predictions(
    task: str, fits: list[tuple[str, str, int]] = FITS, patients: int = 24, repeats: int = 2, folds: int = 4
) -> pd.DataFrame:
    """Predictions of `fits` and the baseline: 1 to 3 videos per patient, every class in every fold."""
    random, classes = np.random.default_rng(0), len(TASKS[task].classes)
    patient = np.repeat(np.arange(patients), np.resize([1, 3, 2, 2], patients))
    y = patient % classes
    frames = []
    for arm, method, seed in [*fits, ("majority", "majority", 0)]:
        for repeat in range(repeats):
            scores = random.normal(0, 1, (len(y), classes)) + STRENGTH.get(arm, 1.5) * np.eye(classes)[y]
            scores *= arm != "majority"
            p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            frame = pd.DataFrame(p, columns=[f"p_{k}" for k in range(classes)])
            group = patient // classes
            frame["fold"] = (group // 2 if repeat else group) % folds
            frame["sample_id"] = [f"{task}/v{number:03d}" for number in range(len(y))]
            frame["patient_id"] = frame["split_group"] = [f"{task}/p{one}" for one in patient]
            frames.append(frame.assign(y_true=y.astype(float), arm=arm, arm_seed=seed, method=method, repeat=repeat))
    return pd.concat(frames, ignore_index=True).assign(task=task, seen_in_pretraining=False, split_digest="d1")


TABLES = {name: predictions(name) for name in TASKS}


def compared(
    tables: dict[str, pd.DataFrame] = TABLES, tasks: dict = TASKS, arms: dict = ARMS, settings: CompareSettings = QUICK
) -> Comparison:
    return compare(tables, tasks, arms, settings)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared()


def value(table: pd.DataFrame, column: str, **where: str) -> float:
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return float(table[column].iloc[0])


def rows(task: str, arm: str, seed: int = 0) -> pd.DataFrame:
    return TABLES[task].query(f"arm == '{arm}' and method == 'attentive' and arm_seed == {seed}")


# --- what the figures are --------------------------------------------------------------------------------------------


def test_video_decisions_are_taken_on_the_mean_over_repeats(comparison: Comparison) -> None:
    by_seed = []
    for seed in range(3):
        mean = rows("lung", "random", seed).groupby("sample_id")[["p_0", "p_1", "p_2", "y_true"]].mean()
        predicted = mean[["p_0", "p_1", "p_2"]].to_numpy().argmax(axis=1)
        by_seed.append(sklearn_metrics.balanced_accuracy_score(mean["y_true"], predicted))
    where = {"task": "lung", "arm": "random", "method": "attentive", "metric": "balanced_accuracy"}
    found = [value(comparison.arms, column, **where) for column in ("estimate", "seed_low", "seed_high")]
    assert found == pytest.approx([np.mean(by_seed), min(by_seed), max(by_seed)])
    total = comparison.more["confusion"].query("task == 'lung' and arm == 'random' and method == 'attentive'")
    assert total["count"].sum() == 3 * 48, "every video once per seed"


def test_patient_figures_use_the_mean_probability_of_the_patients_videos(comparison: Comparison) -> None:
    units = rows("blues", "jepa").groupby(["repeat", "fold", "patient_id"])[["p_0", "p_1", "y_true"]].mean()
    folds = [fold for _, fold in units.groupby(level=["repeat", "fold"])]
    areas = [sklearn_metrics.roc_auc_score(fold["y_true"], fold["p_1"]) for fold in folds]
    where = {"task": "blues", "arm": "jepa", "method": "attentive"}
    area = value(comparison.arms, "estimate", **where, metric="auroc")
    assert area == pytest.approx(np.mean(areas))
    loss = sklearn_metrics.log_loss(units["y_true"], units[["p_0", "p_1"]])
    assert value(comparison.arms, "estimate", **where, metric="log_loss") == pytest.approx(loss)
    by_fold = comparison.folds.query(
        "task == 'blues' and arm == 'jepa' and method == 'attentive' and metric == 'auroc'"
    )
    assert by_fold["value"].tolist() == pytest.approx(areas)
    assert by_fold["step"].tolist() == list(range(8))
    assert by_fold["n_patients"].tolist() == [6, 6, 6, 6, 8, 8, 4, 4]
    curve = comparison.more["roc"].query("task == 'blues' and arm == 'jepa' and method == 'attentive'")
    under = sklearn_metrics.auc(curve["false_positive_rate"], curve["true_positive_rate"])
    assert under == pytest.approx(area, abs=0.01)


def test_in_the_log_loss_every_patient_weighs_the_same(comparison: Comparison) -> None:
    mine = rows("lung", "jepa")
    losses = -np.log(mine[["p_0", "p_1", "p_2"]].to_numpy()[np.arange(len(mine)), mine["y_true"].astype(int)])
    expected = pd.Series(losses).groupby(mine["patient_id"].to_numpy()).mean().mean()
    where = {"task": "lung", "arm": "jepa", "method": "attentive", "metric": "log_loss"}
    assert value(comparison.arms, "estimate", **where) == pytest.approx(expected)


def test_differences_are_those_of_the_estimates_and_lie_in_their_intervals(comparison: Comparison) -> None:
    for pair in comparison.pairs.itertuples():
        arms = [
            value(comparison.arms, "estimate", task=pair.task, arm=arm, method=method, metric=pair.metric)
            for arm, method in ((pair.arm, pair.method), (pair.reference, pair.reference_method))
        ]
        assert pair.difference == pytest.approx(arms[0] - arms[1])
        assert pair.low - 1e-9 <= pair.difference <= pair.high + 1e-9
        assert (pair.n_patients, pair.n_groups, pair.n_videos) == (24, 24, 48)
    for name in TASKS:
        assert value(comparison.arms, "estimate", task=name, arm="majority", metric="auroc") == 0.5


def test_a_fold_without_a_class_is_noted() -> None:
    table = predictions("blues", [("random", "linear", 0)], patients=10, repeats=1)
    table["fold"] = np.where((table["y_true"] == 1) | (table["patient_id"] == "blues/p0"), 1, 0)
    arms = compared({"blues": table}, {"blues": BLUES}).arms
    notes = arms[arms["metric"] == "auroc"]["note"]
    assert notes.str.startswith("1 of 2 fold-class pairs lack a class and are left out").all()
    assert notes.str.contains("of the resamples").all()  # those that do not draw the first patient


# --- what is tested and said -----------------------------------------------------------------------------------------


def sentence(found: Comparison, task: str, arm: str, reference: str) -> tuple[str, str]:
    row = found.verdicts.query(f"task == '{task}' and arm == '{arm}' and reference == '{reference}'").iloc[0]
    return row["outcome"], row["text"]


def test_only_the_loss_is_tested_and_candidates_minus_references_are_the_family(comparison: Comparison) -> None:
    pairs = comparison.pairs
    assert (pairs["p_value"].notna() == (pairs["metric"] == "log_loss")).all()
    family = pairs[pairs["p_holm"].notna()]
    assert {*family[["arm", "reference", "method"]].itertuples(index=False, name=None)} == {
        ("jepa", "random", READS[0])
    }
    assert sorted(family["task"]) == ["blues", "lung"]
    assert family["p_holm"].min() == pytest.approx(min(1, 2 * family["p_value"].min()))
    exploratory = TASKS | {"lung": LUNG.model_copy(update={"main": False})}
    found = compared(tasks=exploratory)
    assert found.pairs[found.pairs["p_holm"].notna()]["task"].tolist() == ["blues"]
    outcome, text = sentence(comparison, "lung", "jepa", "random")
    assert outcome == "better"
    assert "than random (mean of 3 seeds)" in text and "after Holm; 24 patients, 48 videos" in text
    assert "With one pretraining seed this speaks of this encoder" in text
    assert "not corrected; 24 patients" in sentence(found, "lung", "jepa", "random")[1]
    assert "than majority (the baseline that looks at nothing)" in sentence(comparison, "lung", "jepa", "majority")[1]
    assert set(comparison.secondary.query("task == 'lung'")["test"]) == {"Nadeau-Bengio, log-loss"}
    assert set(comparison.secondary.query("task == 'blues'")["test"]) > {"Nadeau-Bengio, log-loss"}


def test_roles_decide_who_is_compared_with_whom() -> None:
    arms = ARMS | {
        "deeper": Arm(encoder="random", method="attentive", role="reference"),
        "mae": Arm(encoder="mae", method="linear", role="candidate", against=("deeper",)),
    }
    fits = [(arm, method, 0) for arm, one in arms.items() for method in one.method]
    found = compared({"lung": predictions("lung", fits)}, {"lung": LUNG}, arms)
    met = found.pairs[found.pairs["primary"]].groupby("arm")["reference"].agg(set).to_dict()
    assert met == {
        "jepa": {"random", "deeper", "hand-made", "majority"},
        "mae": {"deeper", "hand-made", "majority"},
        "hand-made": {"random", "deeper", "majority"},
        "random": {"majority"},
        "deeper": {"majority"},
    }
    methods = found.pairs.drop_duplicates(["arm", "reference", "method"]).set_index(["arm", "method", "reference"])
    assert methods["reference_method"]["jepa", "linear", "random"] == "linear", "a method that both have"
    assert methods["reference_method"]["mae", "linear", "deeper"] == "attentive", "else the first of the other"
    family = found.pairs[found.pairs["p_holm"].notna()]
    assert sorted(zip(family["arm"], family["reference"], strict=True)) == [
        ("jepa", "deeper"), ("jepa", "random"), ("mae", "deeper"),
    ]  # fmt: skip
    assert found.roles["majority"] == "baseline"
    assert found.order == ["jepa", "mae", "random", "deeper", "hand-made", "majority"], "as in the study, by role"


def test_the_first_method_that_suits_the_task_judges_an_arm() -> None:
    turned = ARMS | {"jepa": Arm(encoder="jepa", method=("linear", "attentive"), role="candidate")}
    found = compared(arms=turned)
    primary = found.arms[found.arms["primary"]].drop_duplicates(["arm", "method"])
    assert dict(zip(primary["arm"], primary["method"], strict=True)) == {
        "random": "attentive", "jepa": "linear", "majority": "majority",
    }  # fmt: skip
    assert set(judged_only(found, "folds")["method"]) == {"attentive", "linear", "majority"}
    assert len(judged_only(found, "confusion")) == 3 * (9 + 4)


def test_an_encoder_that_saw_the_videos_is_marked_and_left_out_of_the_family() -> None:
    lung = TABLES["lung"]
    seen = (lung["arm"] == "jepa") & lung["sample_id"].str.endswith(("000", "001"))
    found = compared(TABLES | {"lung": lung.assign(seen_in_pretraining=seen)})
    counts = found.arms.groupby(["task", "arm"])["n_seen"].max()
    assert counts["lung", "jepa"] == counts.sum() == 2
    assert found.verdicts.query("reference == 'random'").set_index("task")["confirmatory"].to_dict() == {
        "lung": False, "blues": True,
    }  # fmt: skip
    assert "Not counted as evidence: 2 of the 48 videos" in sentence(found, "lung", "jepa", "random")[1]
    tested = found.pairs.query("p_holm == p_holm")
    assert tested["p_holm"].tolist() == tested["p_value"].tolist(), "a family of one"


def test_equal_arms_are_undecided_and_three_seeds_speak_of_the_recipe() -> None:
    lung = predictions("lung", [("random", "attentive", seed) for seed in range(3)])
    same = lung[lung["arm"] == "random"].assign(arm="jepa")
    found = compared({"lung": pd.concat([lung, same])}, {"lung": LUNG})
    tested = found.pairs.query("arm == 'jepa' and reference == 'random' and metric == 'log_loss'").iloc[0]
    assert (tested["p_value"], abs(tested["difference"]) < 1e-12) == (1.0, True)
    outcome, text = sentence(found, "lung", "jepa", "random")
    assert outcome == "undecided" and text.startswith(
        "No difference was shown between jepa (mean of 3 seeds) and random"
    )
    assert "With 3 pretraining seeds this speaks of this recipe on this task" in text


def test_one_fold_alone_is_compared_without_tests_between_folds() -> None:
    """An official test set, or another source: one repeat, one fold, and patients to resample."""
    found = compared({"lung": predictions("lung", repeats=1, folds=1)}, {"lung": LUNG})
    assert set(found.folds["step"]) == {0}
    assert sentence(found, "lung", "jepa", "random")[0] == "better"
    assert (len(found.secondary), {"test", "p_value"} <= set(found.secondary)) == (0, True)


# --- invariances -----------------------------------------------------------------------------------------------------


def test_the_order_of_rows_and_other_methods_change_nothing(comparison: Comparison) -> None:
    again = compared({name: table.sample(frac=1, random_state=3) for name, table in TABLES.items()})
    pd.testing.assert_frame_equal(again.arms, comparison.arms)
    pd.testing.assert_frame_equal(again.pairs, comparison.pairs)
    alone = compared({name: table[table["method"] != "linear"] for name, table in TABLES.items()})
    primary = comparison.pairs[comparison.pairs["method"] != "linear"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.pairs, primary)


def test_tables_survive_the_disk(comparison: Comparison, tmp_path: Path) -> None:
    more = comparison.more | {"agreement": pd.DataFrame({"task": ["lung"], "bias": [0.5], "yes": [True], "NA": ["1"]})}
    write_comparison(Comparison(**vars(comparison) | {"more": more}), tmp_path)
    again = read_comparison(tmp_path)
    for name in ("arms", "pairs", "verdicts", "folds", "secondary"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(comparison, name), check_dtype=False)
    for name, table in more.items():
        pd.testing.assert_frame_equal(again.more[name], table, check_dtype=False)
    assert set(again.more["confusion"]["actual"]) == {"covid", "NA", "no", "0", "1"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == nested_metrics(comparison)
    area = value(comparison.arms, "estimate", task="lung", arm="jepa", method="attentive", metric="auroc")
    assert metrics["lung"]["jepa"]["auroc"] == pytest.approx(area, abs=1e-6)
    assert set(again.of_task("lung").more["roc"]["task"]) == {"lung"}
    plots = Classification().plots(again)
    assert list(plots["roc/lung-NA"]) == ["false_positive_rate", "jepa", "random", "majority"]
    assert len(plots["confusion/lung-random"]) == 3 * 48
    (tmp_path / "pairs.csv").unlink()
    with pytest.raises(DataError, match=r"pairs\.csv does not exist.*dvc repro compare"):
        read_comparison(tmp_path)


def test_patients_who_share_videos_are_no_more_evidence_than_one() -> None:
    """Every patient is there twice: as one split group, the copy changes no interval and no p-value."""
    mine = TABLES["blues"]
    copies = mine.assign(sample_id=mine["sample_id"] + " copy", patient_id=mine["patient_id"] + " copy")
    unknown = copies.assign(split_group=copies["patient_id"])
    tables = (mine, pd.concat([mine, copies]), pd.concat([mine, unknown]))
    once, known, wrong = (compared({"blues": table}, {"blues": BLUES}) for table in tables)
    assert {*known.pairs[["n_patients", "n_groups"]].itertuples(index=False, name=None)} == {(48, 24)}
    assert known.verdicts["text"].str.contains("48 patients (24 independent groups), 96 videos", regex=False).all()
    for name, columns in (
        ("arms", ["estimate", "low", "high"]),
        ("pairs", ["difference", "low", "high", "p_value"]),
        ("classes", ["estimate", "low", "high"]),
    ):
        found, expected = ((one.more if name == "classes" else vars(one))[name][columns] for one in (known, once))
        np.testing.assert_allclose(found.to_numpy(float), expected.to_numpy(float), rtol=0, atol=1e-9)
    where = {"arm": "jepa", "reference": "random", "method": "attentive", "metric": "log_loss"}
    widths = [value(one.pairs, "high", **where) - value(one.pairs, "low", **where) for one in (known, wrong)]
    assert widths[1] < 0.85 * widths[0]
    assert once.secondary["test"].str.startswith("DeLong").any()
    assert not known.secondary["test"].str.startswith("DeLong").any()  # it takes patients to be independent


# --- faults ----------------------------------------------------------------------------------------------------------

TABLE = TABLES["lung"]
JEPA = (TABLE["arm"] == "jepa") & (TABLE["method"] == "attentive")
FIRST = JEPA & (TABLE["repeat"] == 1) & (TABLE["sample_id"] == "lung/v000")


def changed(column: str, where: pd.Series, new: object) -> pd.DataFrame:
    return TABLE.assign(**{column: TABLE[column].mask(where, new)})


FAULTS: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "a missing fold": (
        lambda: TABLE[~(JEPA & (TABLE["repeat"] == 1) & (TABLE["fold"] == 2))],
        r"jepa seed 0 attentive: repeat 1 fold 2 is missing \(12 videos\)",
    ),
    "a fold missing everywhere": (lambda: TABLE[TABLE["fold"] != 1], "no predictions for repeat 0 fold 1"),
    "a missing repeat": (lambda: TABLE[~(JEPA & (TABLE["repeat"] == 1))], "fold 0, 1, 2, 3 is missing"),
    "a missing video": (lambda: TABLE[~FIRST], r"is missing \(1 videos\)"),
    "another split": (lambda: changed("split_digest", JEPA, "d2"), "different splits: jepa, .* on d1; jepa on d2"),
    "a video twice": (lambda: pd.concat([TABLE, TABLE[FIRST]]), "twice: jepa seed 0 repeat 1 lung/v000"),
    "no sum of one": (lambda: changed("p_0", FIRST, 0.999), r"1 predictions of 'lung'.*sum to 1.*lung/v000"),
    "not a number": (lambda: changed("p_1", FIRST, np.nan), "jepa seed 0 lung/v000"),
    "another truth": (lambda: changed("y_true", FIRST, 2), "more than one y_true for lung/v000"),
    "a patient in two folds": (lambda: changed("fold", FIRST, 3), "more than one outer fold in a repeat"),
    "a patient in two groups": (lambda: changed("split_group", FIRST, "g"), "more than one split group for lung/p0"),
    "a group in two folds": (
        lambda: TABLE.assign(split_group=TABLE["patient_id"].replace("lung/p3", "lung/p0")),
        r"more than one outer fold in a repeat for .*lung/p0",
    ),
    "a missing column": (lambda: TABLE.drop(columns="p_2"), "no column p_2"),
    "an empty cell": (lambda: changed("patient_id", FIRST, None), "empty cells in patient_id"),
    "no rows": (lambda: TABLE[:0], "no predictions of task 'lung'"),
    "one arm": (lambda: TABLE[TABLE["arm"] == "majority"], "nothing to compare it with"),
    "an unknown arm": (lambda: changed("arm", TABLE["arm"] == "jepa", "mae"), r"unknown arm mae \(attentive\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str) -> None:
    plant, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        compared({"lung": plant()}, {"lung": LUNG})


def test_a_task_without_predictions_and_a_patient_of_two_classes_are_named() -> None:
    with pytest.raises(DataError, match="no predictions of task 'blues'"):
        compared({"lung": TABLE})
    mixed = TABLE.assign(y_true=TABLE["y_true"].mask(TABLE["sample_id"] == "lung/v001", 2))
    assert len(compared({"lung": mixed}, {"lung": LUNG}).arms)
    with pytest.raises(DataError, match="decides per patient, but lung/p1 has"):
        compared({"lung": mixed}, {"lung": LUNG.model_copy(update={"unit": "patient"})})
