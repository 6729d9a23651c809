"""Controls against hand counts and planted signals, in the shape that every arm has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from echolung.data.splits import SplitSettings, folds_digest, make_folds
from echolung.evaluation.predictions import task_predictions
from echolung.kinds.task import Task
from echolung.methods.controls import control_predictions, source_table
from echolung.methods.handmade import handmade_features

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


def of(folds: pd.DataFrame, fold: int, task: Task = TASK) -> pd.DataFrame:
    rows = control_predictions(folds, "t", task, {}).predictions
    return rows[rows["fold"] == fold]


def cohort(videos: int = 60) -> pd.DataFrame:
    """Two videos of each of 30 patients, half of them with the label."""
    patient = np.arange(videos) // 2
    names = [f"s/p{number}" for number in patient]
    rows = pd.DataFrame({"sample_id": [f"s/{i}" for i in range(videos)], "patient_id": names, "split_group": names})
    rows["y"] = patient % 2
    rows["label"] = np.where(rows["y"] == 1, "yes", "no")
    return make_folds(rows, SplitSettings(outer=3, inner=2, repeats=2))


def test_majority_is_the_frequency_of_training_videos(folds) -> None:
    rows = of(folds, 0)
    assert list(rows["sample_id"]) == ["s/6", "s/7"]
    assert rows["p_0"].tolist() == pytest.approx([2 / 6, 2 / 6])
    assert rows["p_1"].tolist() == pytest.approx([4 / 6, 4 / 6])


def test_majority_counts_each_patient_once_where_the_patient_is_the_unit(folds) -> None:
    rows = of(folds, 0, TASK.model_copy(update={"unit": "patient"}))
    assert rows["p_1"].tolist() == pytest.approx([2 / 4, 2 / 4])


def test_a_class_that_training_lacks_has_probability_zero(folds) -> None:
    rows = of(folds, 1)
    assert set(zip(rows["p_0"], rows["p_1"], strict=True)) == {(1.0, 0.0)}


def test_a_planted_feature_is_found_and_noise_falls_back_to_the_frequencies() -> None:
    folds = cohort()
    random = np.random.default_rng(0)
    truth = folds.drop_duplicates("sample_id").set_index("sample_id")["y"]
    noise = random.normal(size=len(truth))
    tables = {
        "planted": pd.DataFrame({"x": truth + 0.1 * noise, "z": noise}, index=truth.index),
        "noise": pd.DataFrame(random.normal(size=(len(truth), 20)), index=truth.index),
    }
    rows = control_predictions(folds, "t", TASK, tables).predictions
    right = np.where(rows["y_true"] == 1, rows["p_1"], rows["p_0"])
    loss = pd.Series(-np.log(right)).groupby(rows["arm"].to_numpy()).mean()
    assert loss["planted"] < 0.1
    # Twenty columns of noise on forty videos would lose 1 and more without a penalty that the inner folds choose.
    assert loss["noise"] < loss["majority"] + 0.1


def test_controls_keep_the_predictions_contract() -> None:
    folds = cohort()
    table = pd.DataFrame({"x": np.arange(60.0)}, index=pd.Index(folds["sample_id"].unique()))
    found = control_predictions(folds, "t", TASK, {"source-only": table})
    assert found.fits.empty
    assert set(found.predictions["split_digest"]) == {folds_digest(folds)}
    checked = task_predictions(found.predictions, "t", TASK)
    assert sorted(checked.probabilities) == [("majority", "none"), ("source-only", "none")]
    assert set(checked.seen.values()) == {0}


def test_labels_of_the_outer_fold_reach_nothing() -> None:
    folds = cohort()
    poisoned = folds.assign(y=folds["y"].where((folds["fold"] != 0) | (folds["repeat"] != 0), 1 - folds["y"]))
    table = pd.DataFrame({"x": np.arange(60.0) % 7}, index=pd.Index(folds["sample_id"].unique()))
    honest, other = (
        control_predictions(split, "t", TASK, {"any": table}).predictions.query("repeat == 0 and fold == 0")
        for split in (folds, poisoned)
    )
    assert (honest["y_true"] != other["y_true"]).all()
    assert honest["p_1"].equals(other["p_1"])


def test_the_source_is_what_the_file_tells_without_a_look_at_its_frames() -> None:
    manifest = pd.DataFrame(
        {
            "sample_id": ["s/a", "s/b"],
            "path": ["/x/a.MP4", "/x/b.mov"],
            "codec": ["h264", "h264"],
            "height": [128, 256],
            "width": [128, 64],
            "fps": [25.0, 30.0],
            "frames": [32, 64],
            "diagnosis": ["covid", "regular"],
        }
    )
    table = source_table(manifest)
    assert table.loc["s/a"].to_dict() == {
        **{"log_height": 7.0, "log_width": 7.0, "fps": 25.0, "log_frames": 5.0},
        **{"container_.mov": 0.0, "container_.mp4": 1.0, "codec_h264": 1.0},
    }


def picture(values: np.ndarray, frames: int = 6) -> np.ndarray:
    """A still film of one picture, letterboxed as the clip store does it."""
    boxed = np.zeros((frames, 64, 64), np.uint8)
    boxed[:, 8:56] = values
    return boxed


def test_hand_made_features_see_what_they_are_named_for() -> None:
    depth, across = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    lines = picture((128 + 100 * np.cos(2 * np.pi * depth / 12)).astype(np.uint8))  # A-lines, 12 rows apart
    streaks = picture(np.where(across % 16 < 3, 220, 40).astype(np.uint8))  # B-lines, from top to bottom
    flat = picture(np.full((48, 64), 90, np.uint8))
    of_lines, of_streaks, of_flat = map(handmade_features, (lines, streaks, flat))
    assert of_lines["repetition"] > 0.5
    assert of_lines["repetition_lag"] == pytest.approx(12 / 48)
    assert of_flat["repetition"] == 0
    assert of_streaks["band_7_columns"] > 10 * of_lines["band_7_columns"]
    assert of_streaks["edges_ratio"] < 0 < of_lines["edges_ratio"]
    assert of_flat["mean"] == pytest.approx(90 / 255)  # the letterbox is not part of the picture
    moving = lines.copy()
    moving[1::2] = np.roll(moving[1::2], 3, axis=2)
    assert of_lines["motion"] == 0
    moving[1::2, 8:56] = np.roll(moving[1::2, 8:56], 6, axis=1)
    assert handmade_features(moving)["motion"] > 0.1


NARROW = np.pad(np.full((5, 3, 32), 90, np.uint8), ((0, 0), (14, 15), (0, 0)))  # fewer rows than there are bands


@pytest.mark.parametrize(
    "frames", [np.zeros((5, 32, 32), np.uint8), np.full((1, 32, 32), 255, np.uint8), NARROW, NARROW.swapaxes(1, 2)]
)
def test_hand_made_features_are_finite_whatever_the_frames(frames) -> None:
    found = handmade_features(frames)
    assert np.isfinite(list(found.values())).all()
    assert found.keys() == handmade_features(np.random.default_rng(0).integers(0, 255, (9, 32, 32), np.uint8)).keys()
