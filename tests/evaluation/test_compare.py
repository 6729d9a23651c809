"""A comparison against scikit-learn on the same table, its invariances, its words, and the faults it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from sklearn import metrics as sklearn_metrics
from synthetic import ARMS

from echolung.core.errors import DataError, SettingsError
from echolung.evaluation import comparison as module
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.evaluation.verdicts import PairFacts, verdict
from echolung.kinds.classification import Classification
from echolung.methods.arms import Arm

LUNG = synthetic.LUNG.model_copy(update={"classes": ["covid", "NA", "no"]})
BLUES = synthetic.BLUES.model_copy(update={"main": True})
TASKS = {"lung": LUNG, "blues": BLUES}
QUICK = CompareSettings(bootstrap=200, permutations=200)
STRENGTHS = {"random": (3, 0.5), "jepa": (1, 2.0), "majority": (1, 0.0)}


def predictions(task: str, strengths=STRENGTHS, arms=ARMS, patients: int = 24, **folds: int) -> pd.DataFrame:
    """Of 1 to 3 videos per patient."""
    patient, classes = np.repeat(np.arange(patients), np.resize([1, 3, 2, 2], patients)), len(TASKS[task].classes)
    return synthetic.predictions(task, classes, strengths, arms, patient, **{"repeats": 2, "folds": 4} | folds)


TABLES = {name: predictions(name) for name in TASKS}


def compared(tables: dict[str, pd.DataFrame] = TABLES, arms: dict[str, Arm] = ARMS, **tasks: object) -> Comparison:
    return compare(tables, {name: task for name, task in (TASKS | tasks).items() if name in tables}, arms, QUICK)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared()


def only(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    return table


def estimate(found: Comparison, task: str, arm: str, metric: str, method: str = "attentive") -> float:
    return only(found.arms, task=task, arm=arm, method=method, metric=metric)["estimate"].item()


def sentence(found: Comparison, task: str, arm: str, reference: str) -> tuple[str, str]:
    row = only(found.verdicts, task=task, arm=arm, reference=reference).iloc[0]
    return row["outcome"], row["text"]


def test_decisions_are_taken_on_the_mean_over_repeats_and_losses_weigh_patients_alike(comparison: Comparison) -> None:
    columns, by_seed = ["p_0", "p_1", "p_2"], []
    for seed in range(3):
        mine = only(TABLES["lung"], arm="random", method="attentive", arm_seed=seed)
        mean = mine.groupby("sample_id")[[*columns, "y_true"]].mean()
        predicted = mean[columns].to_numpy().argmax(axis=1)
        by_seed.append(sklearn_metrics.balanced_accuracy_score(mean["y_true"], predicted))
    found = only(comparison.arms, task="lung", arm="random", method="attentive", metric="balanced_accuracy")
    assert found[["estimate", "seed_low"]].to_numpy()[0] == pytest.approx((np.mean(by_seed), min(by_seed)))
    assert only(comparison.more["confusion"], task="lung", arm="random", method="linear")["count"].sum() == 3 * 48
    mine = only(TABLES["lung"], arm="jepa", method="attentive")
    losses = pd.Series(-np.log(mine[columns].to_numpy()[np.arange(len(mine)), mine["y_true"].astype(int)]))
    expected = losses.groupby(mine["patient_id"].to_numpy()).mean().mean()
    assert estimate(comparison, "lung", "jepa", "log_loss") == pytest.approx(expected)
    folds = [fold for _, fold in mine.groupby(["repeat", "fold"])]
    areas = [sklearn_metrics.roc_auc_score(fold["y_true"] == k, fold[f"p_{k}"]) for fold in folds for k in range(3)]
    assert estimate(comparison, "lung", "jepa", "auroc") == pytest.approx(np.mean(areas))
    of_fold = losses.groupby([mine[name].to_numpy() for name in ("repeat", "fold", "patient_id")]).mean()
    by_fold = only(comparison.folds, task="lung", arm="jepa", method="attentive", metric="log_loss")["value"]
    assert by_fold.tolist() == pytest.approx(of_fold.groupby(level=[0, 1]).mean().tolist())


def test_patient_figures_use_the_mean_probability_of_the_patients_videos(comparison: Comparison) -> None:
    jepa = {"task": "blues", "arm": "jepa", "method": "attentive"}
    units = only(TABLES["blues"], **jepa).groupby(["repeat", "fold", "patient_id"])[["p_0", "p_1", "y_true"]].mean()
    folds = [fold for _, fold in units.groupby(level=["repeat", "fold"])]
    areas = [sklearn_metrics.roc_auc_score(fold["y_true"], fold["p_1"]) for fold in folds]
    assert estimate(comparison, "blues", "jepa", "auroc") == pytest.approx(np.mean(areas))
    loss = sklearn_metrics.log_loss(units["y_true"], units[["p_0", "p_1"]])
    assert estimate(comparison, "blues", "jepa", "log_loss") == pytest.approx(loss)
    by_fold = only(comparison.folds, **jepa, metric="auroc")
    assert by_fold["value"].tolist() == pytest.approx(areas)
    assert (by_fold["step"].tolist(), by_fold["n_patients"].tolist()) == ([*range(8)], [6, 6, 6, 6, 8, 8, 4, 4])
    curve = only(comparison.more["roc"], **jepa)
    under = sklearn_metrics.auc(curve["false_positive_rate"], curve["true_positive_rate"])
    assert under == pytest.approx(np.mean(areas), abs=0.01)


def test_differences_are_those_of_the_estimates_and_lie_in_their_intervals(comparison: Comparison) -> None:
    for pair in comparison.pairs.itertuples():
        arms = (pair.arm, pair.method), (pair.reference, pair.reference_method)
        mine, other = (estimate(comparison, pair.task, arm, pair.metric, method) for arm, method in arms)
        assert pair.difference == pytest.approx(mine - other)
        assert pair.low - 1e-9 <= pair.difference <= pair.high + 1e-9
        assert (pair.n_patients, pair.n_groups, pair.n_videos) == (24, 24, 48)
    assert estimate(comparison, "lung", "majority", "auroc", "majority") == 0.5


def test_a_fold_without_a_class_is_noted_and_one_fold_alone_has_no_test_between_folds() -> None:
    table = predictions("blues", {"random": (1, 0.5), "majority": (1, 0.0)}, patients=10, repeats=1)
    table["fold"] = np.where((table["y_true"] == 1) | (table["patient_id"] == "blues/p0"), 1, 0)
    notes = only(compared({"blues": table}).arms, metric="auroc")["note"]
    assert notes.str.startswith("1 of 2 fold-class pairs lack a class and are left out").all()
    assert notes.str.contains("of the resamples").all()  # those that do not draw the first patient
    found = compared({"lung": predictions("lung", repeats=1, folds=1)})  # an official test set, or another source
    assert (set(found.folds["step"]), sentence(found, "lung", "jepa", "random")[0]) == ({0}, "better")
    assert (len(found.secondary), {"test", "p_value"} <= set(found.secondary)) == (0, True)


def test_only_the_loss_is_tested_and_candidates_minus_references_are_the_family(comparison: Comparison) -> None:
    pairs = comparison.pairs
    assert (pairs["p_value"].notna() == (pairs["metric"] == "brier")).all()
    assert pairs["p_recipe"].isna().all(), "one seed is no sample of seeds"
    family = pairs[pairs["p_holm"].notna()]
    assert family[["task", "arm", "reference", "method"]].to_numpy().tolist() == [
        [task, "jepa", "random", "attentive"] for task in ("lung", "blues")
    ]
    assert family["p_holm"].min() == pytest.approx(min(1, 2 * family["p_value"].min()))
    outcome, text = sentence(comparison, "lung", "jepa", "random")
    assert outcome == "better" and text.startswith("jepa predicted better than random (mean of 3 seeds): Brier score")
    assert "after Holm; 24 patients, 48 videos" in text
    assert text.endswith("Pretraining seeds: 1. This is about these weights, not about pretraining in general.")
    assert "majority (the baseline, which ignores the video)" in sentence(comparison, "lung", "jepa", "majority")[1]
    tests = comparison.secondary.groupby("task")["test"].unique()
    assert set(tests["blues"]) - set(tests["lung"]) == {"DeLong, AUROC of patients pooled over folds"}
    found = compared(lung=LUNG.model_copy(update={"main": False}))
    assert found.pairs[found.pairs["p_holm"].notna()]["task"].tolist() == ["blues"]
    text = sentence(found, "lung", "jepa", "random")[1]
    assert text.startswith("Brier score of jepa minus random (mean of 3 seeds): −")
    assert text.endswith("(exploratory; 24 patients, 48 videos).") and "p " not in text


def test_roles_decide_who_is_compared_with_whom_and_the_first_method_judges() -> None:
    arms = ARMS | {
        "deeper": Arm(encoder="random", method="attentive", role="reference"),
        "mae": Arm(encoder="mae", method=("linear", "attentive"), role="candidate", against=("deeper",)),
    }
    found = compared({"lung": predictions("lung", dict.fromkeys(arms, (1, 0.5)) | STRENGTHS, arms)}, arms)
    assert found.pairs[found.pairs["primary"]].groupby("arm")["reference"].agg(set).to_dict() == {
        "jepa": {"random", "deeper", "hand-made", "majority"},
        "mae": {"deeper", "hand-made", "majority"},
        "hand-made": {"random", "deeper", "majority"},
        "random": {"majority"},
        "deeper": {"majority"},
    }
    pairs = found.pairs.drop_duplicates(["arm", "reference", "method"]).set_index(["arm", "method", "reference"])
    assert pairs["reference_method"]["jepa", "linear", "random"] == "linear", "a method that both have"
    assert pairs["reference_method"]["mae", "linear", "deeper"] == "attentive", "else the first of the other"
    family = found.pairs[found.pairs["p_holm"].notna()][["arm", "reference"]].to_numpy().tolist()
    assert sorted(family) == [["jepa", "deeper"], ["jepa", "random"], ["mae", "deeper"]]
    assert found.order == ["jepa", "mae", "random", "deeper", "hand-made", "majority"], "as in the study, by role"
    judged = judged_only(found, "folds").drop_duplicates("arm").set_index("arm")["method"].to_dict()
    assert judged == {name: arm.method[0] for name, arm in arms.items()} | {"majority": "majority"}
    assert len(judged_only(found, "confusion")) == 6 * 9


def test_an_encoder_that_saw_the_videos_is_marked_and_left_out_of_the_family() -> None:
    lung = TABLES["lung"]
    seen = (lung["arm"] == "jepa") & lung["sample_id"].str.endswith(("000", "001"))
    found = compared(TABLES | {"lung": lung.assign(seen_in_pretraining=seen)})
    counts = found.arms.groupby(["task", "arm"])["n_seen"].max()
    assert counts["lung", "jepa"] == counts.sum() == 2
    assert only(found.verdicts, reference="random")["confirmatory"].tolist() == [False, True]
    assert "Not counted as evidence: 2 of the 48 videos" in sentence(found, "lung", "jepa", "random")[1]
    tested = found.pairs[found.pairs["p_holm"].notna()]
    assert tested["p_holm"].tolist() == tested["p_value"].tolist(), "a family of one"


def test_equal_arms_are_undecided_and_three_seeds_speak_of_the_recipe() -> None:
    lung = predictions("lung", {"random": (3, 0.5), "majority": (1, 0.0)})
    found = compared({"lung": pd.concat([lung, only(lung, arm="random").assign(arm="jepa")])})
    tested = only(found.pairs, arm="jepa", reference="random", metric="brier").iloc[0]
    assert (tested["p_value"], abs(tested["difference"]) < 1e-12) == (1.0, True)
    assert tested["p_recipe"] == tested["p_recipe_holm"] == pytest.approx(1)
    outcome, text = sentence(found, "lung", "jepa", "random")
    shown = "No difference was shown between jepa (mean of 3 seeds) and random (mean of 3 seeds)"
    assert outcome == "undecided" and text.startswith(shown)
    assert text.endswith("No difference was shown for the recipe (3 and 3 seeds as a sample: p = 1.00 after Holm).")
    found = compared({"lung": predictions("lung", STRENGTHS | {"jepa": (3, 2.0)})})
    tested = only(found.pairs, arm="jepa", reference="random", metric="brier").iloc[0]
    assert tested["p_value"] < 0.05 and tested["p_recipe"] < 0.05
    assert "So did the recipe, on this task (3 and 3 seeds" in sentence(found, "lung", "jepa", "random")[1]
    facts = PairFacts("Brier score", "reference", True, True, 3, 3)
    _, text = verdict(facts, pd.Series({**tested, "p_holm": 0.2}))
    assert "No difference was shown for the recipe" in text, "no claim beyond what these encoders show"


def test_the_order_of_rows_and_other_methods_change_nothing(comparison: Comparison) -> None:
    again = compared({name: table.sample(frac=1, random_state=3) for name, table in TABLES.items()})
    pd.testing.assert_frame_equal(again.arms, comparison.arms)
    pd.testing.assert_frame_equal(again.pairs, comparison.pairs)
    alone = compared({name: table[table["method"] != "linear"] for name, table in TABLES.items()})
    pd.testing.assert_frame_equal(alone.pairs, comparison.pairs.query("method != 'linear'").reset_index(drop=True))


def test_tables_survive_the_disk(comparison: Comparison, tmp_path: Path) -> None:
    more = comparison.more | {"agreement": pd.DataFrame({"task": ["lung"], "bias": [0.5], "yes": [True], "NA": ["1"]})}
    wanted = {"mine": {"area": {"task": "lung", "arm": "jepa", "metric": "auroc"}}}
    module.write_comparison(Comparison(**vars(comparison) | {"more": more}), tmp_path, wanted)
    again = module.read_comparison(tmp_path)
    for (name, read), written in zip(vars(again).items(), vars(comparison).values(), strict=True):
        for one in more if name == "more" else [""]:
            pd.testing.assert_frame_equal(read[one] if one else read, more[one] if one else written, check_dtype=False)
    assert set(again.more["confusion"]["actual"]) == {"covid", "NA", "no", "0", "1"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics.pop("mine") == {"area": metrics["lung"]["jepa"]["auroc"]}
    assert metrics == module.nested_metrics(comparison)
    for cells, problem in (({"arm": "jepa"}, "fits [0-9]+ rows, not one"), ({"arms": "jepa"}, "no column arms")):
        with pytest.raises(SettingsError, match=problem):
            module.headlines(comparison, {"mine": {"area": cells}})
    area = estimate(comparison, "lung", "jepa", "auroc")
    assert metrics["lung"]["jepa"]["auroc"] == pytest.approx(area, abs=1e-6)
    assert set(again.of_tasks(["lung"]).more["roc"]["task"]) == {"lung"}
    plots = Classification().plots(again)
    assert list(plots["roc/lung-NA"]) == ["false_positive_rate", "jepa", "random", "majority"]
    assert len(plots["confusion/lung-random"]) == 3 * 48
    with pytest.raises(DataError, match=r"types\.json does not exist.*dvc repro"):
        module.read_comparison(tmp_path / "nowhere")


def test_patients_who_share_videos_are_no_more_evidence_than_one() -> None:
    """Every patient is there twice: as one split group, the copy changes no interval and no p-value."""
    mine = TABLES["blues"]
    copies = mine.assign(sample_id=mine["sample_id"] + " copy", patient_id=mine["patient_id"] + " copy")
    unknown = copies.assign(split_group=copies["patient_id"])
    tables = (mine, pd.concat([mine, copies]), pd.concat([mine, unknown]))
    once, known, wrong = (compared({"blues": table}) for table in tables)
    assert {*known.pairs[["n_patients", "n_groups"]].itertuples(index=False, name=None)} == {(48, 24)}
    assert known.verdicts["text"].str.contains("48 patients (24 independent groups), 96 videos", regex=False).all()
    for table, columns in (("arms", ["estimate"]), ("pairs", ["difference", "p_value"]), ("classes", ["estimate"])):
        copied, alone = (one.more[table] if table == "classes" else getattr(one, table) for one in (known, once))
        numbers = [*columns, "low", "high"]
        np.testing.assert_allclose(copied[numbers].to_numpy(float), alone[numbers].to_numpy(float), rtol=0, atol=1e-9)
    pair = {"arm": "jepa", "reference": "random", "method": "attentive", "metric": "brier"}
    narrow, wide = (only(one.pairs, **pair).eval("high - low").item() for one in (wrong, known))
    assert narrow < 0.85 * wide
    delong = [one.secondary["test"].str.startswith("DeLong").any() for one in (once, known)]
    assert delong == [True, False], "it takes patients to be independent"


TABLE = TABLES["lung"]
JEPA = (TABLE["arm"] == "jepa") & (TABLE["method"] == "attentive")
FIRST = JEPA & (TABLE["repeat"] == 1) & (TABLE["sample_id"] == "lung/v000")
LAST = (TABLE["repeat"] == 1) & (TABLE["fold"] == 2)


def changed(column: str, where: pd.Series, new: object) -> pd.DataFrame:
    return TABLE.assign(**{column: TABLE[column].mask(where, new)})


FAULTS = {
    "lacks videos, .* in a repeat of jepa seed 0 attentive": TABLE[~(JEPA & LAST)],
    "has them twice, in a repeat of jepa seed 0 attentive": pd.concat([TABLE, TABLE[FIRST]]),
    "in a repeat of jepa seed 0 attentive, jepa seed 0 linear, majority": TABLE[~LAST],
    "different splits: .*jepa, .* on d1; jepa on d2": changed("split_digest", JEPA, "d2"),
    "1 predictions of 'lung'.*sum to 1.*lung/v000": changed("p_0", FIRST, 0.999),
    r"invalid .*: jepa seed 0 lung/v000": changed("p_1", FIRST, np.nan),
    "no predictions of task 'lung'": TABLE[:0],
    "nothing to compare it with": only(TABLE, arm="majority"),
    r"unknown arm mae \(attentive\)": changed("arm", JEPA, "mae"),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message: str) -> None:
    with pytest.raises(DataError, match=message):
        compared({"lung": FAULTS[message]})
