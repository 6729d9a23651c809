"""Controls against hand counts, in the shape that every arm has."""

from __future__ import annotations

import pandas as pd
import pytest

from echolung.data.splits import folds_digest, write_folds
from echolung.data.tasks import Task
from echolung.errors import DataError
from echolung.evaluation.controls import CONTROLS, control_predictions, control_trial
from echolung.evaluation.predictions import task_predictions
from echolung.evaluation.probe import collect

TASK = Task(source="s", label="l", kind="binary", classes=["no", "yes"], unit="video")


@pytest.fixture
def folds() -> pd.DataFrame:
    """Fold 0 is held out from: patient a (3 videos, yes), b (1, no), c (1, no), d (1, yes); fold 1: e (2, no)."""
    patients = ["a", "a", "a", "b", "c", "d", "e", "e"]
    return pd.DataFrame(
        {
            "sample_id": [f"s/{index}" for index in range(8)],
            "patient_id": patients,
            "split_group": patients,
            "y": [1, 1, 1, 0, 0, 1, 0, 0],
            "label": ["yes", "yes", "yes", "no", "no", "yes", "no", "no"],
            "repeat": 0,
            "fold": [1, 1, 1, 1, 1, 1, 0, 0],
            "inner_0": [0, 0, 0, 1, 2, 2, -1, -1],
            "inner_1": [-1, -1, -1, -1, -1, -1, 0, 1],
        }
    )


def test_majority_is_the_frequency_of_training_videos(folds) -> None:
    rows = control_predictions("majority", folds, 0, 0, "t", TASK).predictions
    assert list(rows["sample_id"]) == ["s/6", "s/7"]
    assert rows["p_0"].tolist() == pytest.approx([2 / 6, 2 / 6])
    assert rows["p_1"].tolist() == pytest.approx([4 / 6, 4 / 6])


def test_majority_counts_each_patient_once_where_the_patient_is_the_unit(folds) -> None:
    rows = control_predictions("majority", folds, 0, 0, "t", TASK.model_copy(update={"unit": "patient"})).predictions
    assert rows["p_1"].tolist() == pytest.approx([2 / 4, 2 / 4])


def test_a_class_that_training_lacks_has_probability_zero(folds) -> None:
    rows = control_predictions("majority", folds, 0, 1, "t", TASK).predictions
    assert set(zip(rows["p_0"], rows["p_1"], strict=True)) == {(1.0, 0.0)}


def test_controls_keep_the_predictions_contract(folds, tmp_path) -> None:
    write_folds(tmp_path / "t.csv", folds)
    configuration = {"folds": str(tmp_path / "t.csv"), "name": "t", "task": TASK.model_dump(), "repeat": 0}
    results = [control_trial(configuration | {"control": name, "fold": fold}) for name in CONTROLS for fold in (0, 1)]
    found = collect(results)
    assert found.fits.empty
    assert set(found.predictions["split_digest"]) == {folds_digest(folds)}
    checked = task_predictions(found.predictions, "t", TASK)
    assert list(checked.probabilities) == [("majority", "none")]
    assert checked.seeds["majority", "none"] == [0]


def test_labels_of_the_outer_fold_reach_nothing(folds) -> None:
    poisoned = folds.assign(y=folds["y"].where(folds["fold"] != 0, 1 - folds["y"]))
    honest = control_predictions("majority", folds, 0, 0, "t", TASK).predictions
    other = control_predictions("majority", poisoned, 0, 0, "t", TASK).predictions
    assert (honest["y_true"] != other["y_true"]).all()
    assert honest["p_1"].equals(other["p_1"])


def test_a_fold_that_the_split_lacks_is_an_error(folds) -> None:
    with pytest.raises(DataError, match="no outer fold 2"):
        control_predictions("majority", folds, 0, 2, "t", TASK)
