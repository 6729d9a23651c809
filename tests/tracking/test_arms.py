"""From the comparison's tables to runs: which number has which name."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from echolung.evaluation.comparison import Comparison
from echolung.tracking.arms import arm_results
from echolung.tracking.experiments import ArmResult, Dataset

NAN = math.nan


def table(columns: str, *rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame([("lung", *row) for row in rows], columns=["task", *columns.split()])


COMPARISON = Comparison(
    arms=table(
        "arm method role primary metric estimate low high unit n_patients n_groups n_videos",
        ("random", "attentive", "reference", True, "auroc", 0.6, 0.5, 0.7, "video", 20, 15, 40),
        ("jepa", "attentive", "candidate", True, "auroc", 0.8, 0.7, 0.9, "video", 20, 15, 40),
        ("jepa", "attentive", "candidate", True, "brier", 0.3, 0.2, 0.4, "video", 20, 15, 40),
        ("jepa", "linear", "candidate", False, "auroc", 0.75, 0.65, NAN, "video", 20, 15, 40),
        ("hand-made", "hand-made", "control", True, "auroc", 0.7, 0.6, 0.8, "video", 20, 15, 40),
        ("majority", "majority", "baseline", True, "auroc", 0.5, NAN, NAN, "video", 20, 15, 40),
    ),
    pairs=table(
        "arm reference method metric difference low high p_value p_holm",
        ("jepa", "random", "attentive", "log_loss", -0.2, -0.3, -0.1, 0.01, 0.02),
        ("jepa", "random", "attentive", "auroc", 0.2, 0.1, 0.3, NAN, NAN),
        ("jepa", "random", "linear", "log_loss", -0.1, -0.2, 0.1, 0.2, NAN),
    ),
    verdicts=table("arm reference method outcome text", ("jepa", "random", "attentive", "better", "Better by 0.2.")),
    folds=table(
        "arm method step repeat fold metric value",
        ("jepa", "attentive", 1, 0, 1, "auroc", NAN),
        ("jepa", "attentive", 0, 0, 0, "auroc", 0.81),
        ("jepa", "attentive", 0, 0, 0, "brier", 0.3),
        ("jepa", "linear", 0, 0, 0, "auroc", 0.7),
    ),
    secondary=table("arm"),
)
ENCODERS = pd.DataFrame({"arm": ["jepa", "random", "random"], "seed": [0, 0, 1], "objective": ["jepa", "none", "none"]})


@pytest.fixture(scope="module")
def results() -> dict[str, ArmResult]:
    data = Dataset(pd.DataFrame({"sample_id": ["a"]}), Path("/folds.csv"), "lung", "d1", "evaluation")
    found = arm_results(COMPARISON, "lung", ENCODERS, data)
    assert [result.arm for result in found] == ["jepa", "random", "hand-made", "majority"]
    return {result.arm: result for result in found}


def test_plain_names_are_of_the_primary_method(results: dict[str, ArmResult]) -> None:
    found = results["jepa"].metrics
    assert (found["auroc"], found["auroc_low"], found["auroc_high"]) == (0.8, 0.7, 0.9)
    assert found["more/brier"] == 0.3
    assert (found["linear/auroc"], found["linear/auroc_high"]) == (0.75, None)
    assert results["majority"].metrics == {"auroc": 0.5, "auroc_low": None, "auroc_high": None}


def test_differences_have_the_other_arms_name(results: dict[str, ArmResult]) -> None:
    found = {name: value for name, value in results["jepa"].metrics.items() if name.startswith("minus_")}
    assert found == {
        "minus_random/log_loss": -0.2,
        "minus_random/log_loss_low": -0.3,
        "minus_random/log_loss_high": -0.1,
        "minus_random/log_loss_p_uncorrected": 0.01,
        "minus_random/log_loss_p_holm": 0.02,
        "minus_random/auroc": 0.2,
        "minus_random/auroc_low": 0.1,
        "minus_random/auroc_high": 0.3,
    }
    assert results["jepa"].tags == {"verdict_against_random": "Better by 0.2."}


def test_a_run_says_which_arm_it_is(results: dict[str, ArmResult]) -> None:
    inits = {"jepa": "pretrained", "random": "random", "hand-made": "control", "majority": "baseline"}
    assert {arm: result.init for arm, result in results.items()} == inits
    sizes = {"method": "attentive", "unit": "video", "patients": 20, "groups": 15, "videos": 40}
    assert results["random"].parameters == {**sizes, "seed": "0, 1", "objective": "none"}
    assert results["jepa"].data_digest == "d1"
