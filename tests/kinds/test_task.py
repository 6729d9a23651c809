"""A task takes exactly the rows it names, and says which rows stop it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from echolung.core.errors import DataError, SettingsError
from echolung.kinds.classification import Classification, ClassificationTask

KIND = Classification()


def pathology(**changes: object) -> ClassificationTask:
    values = {"kind": "classification", "source": "pocus", "label": "diagnosis", "unit": "video", "exclude": ["viral"]}
    values["classes"] = ["covid", "pneumonia", "regular"]
    return ClassificationTask.parse(values | changes, "tasks.pocus-pathology")


@pytest.fixture
def manifest() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": [f"pocus/{name}" for name in "abcdef"] + ["blues/a", "blues/b", "blues/c"],
            "source": ["pocus"] * 6 + ["blues"] * 3,
            "patient_id": ["p1", "p1", "p2", "p2", "p3", "p4", "q1", "q1", "q2"],
            "collection": ["x", "y", "x", "x", "x", "y", "z", "z", "z"],
            "lying": ["no", "yes", "No", "FALSE", "n", "yes", None, None, None],
            "diagnosis": ["covid", "covid", "pneumonia", "regular", "viral", "regular", None, None, None],
            "covid": [None] * 6 + [1.0, 1.0, 0.0],
        }
    )


def test_classes_are_numbered_in_the_order_of_the_parameters(manifest: pd.DataFrame) -> None:
    rows = KIND.labelled(pathology(), manifest)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/b", "pocus/c", "pocus/d", "pocus/f"], "without viral"
    assert rows["y"].tolist() == rows["stratum"].tolist() == [0, 0, 1, 2, 2]
    assert rows["label"].tolist() == ["covid", "covid", "pneumonia", "regular", "regular"]
    assert (str(rows["y"].dtype), str(rows["stratum"].dtype)) == ("float64", "int64")
    turned = KIND.labelled(pathology(classes=["regular", "pneumonia", "covid"]), manifest)
    assert turned["y"].tolist() == [2, 2, 1, 0, 0]


@pytest.mark.parametrize("stored", [[1.0, 1.0, 0.0], [1, 1, 0], ["1", "1 ", "0"], [True, True, False]])
def test_a_number_is_the_same_class_however_it_is_stored(manifest: pd.DataFrame, stored: list[object]) -> None:
    blues = manifest[manifest["source"] == "blues"].assign(covid=stored)
    task = pathology(source="blues", label="covid", classes=[0, 1], exclude=[], unit="patient")
    assert KIND.labelled(task, blues)["y"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("[no, yes]", ["no", "yes", "No"]),  # YAML reads truth values
        ("[no, yes]", ["False", "TRUE", "false"]),
        ("[off, on]", ["off", "on", "OFF"]),
        ("[false, true]", ["no", "Y", "n"]),
        ("['no', 'yes']", ["no", "yes", "no"]),
        ("['No', 'Yes']", ["No", "Yes", "No"]),
    ],
)
def test_yes_and_no_mean_the_same_in_yaml_and_in_a_table(written: str, stored: list[str]) -> None:
    task = pathology(classes=yaml.safe_load(written), exclude=[])
    table = pd.DataFrame({"sample_id": list("abc"), "source": "pocus", "patient_id": list("abc"), "diagnosis": stored})
    rows = KIND.labelled(task, table)
    assert rows["y"].tolist() == [0, 1, 0]
    assert rows["label"].tolist() == [task.classes[k] for k in (0, 1, 0)]


def test_where_keeps_only_matching_rows(manifest: pd.DataFrame) -> None:
    rows = KIND.labelled(pathology(where={"collection": "x"}), manifest)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/c", "pocus/d"]
    rows = KIND.labelled(pathology(where=yaml.safe_load("{lying: no}")), manifest)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/c", "pocus/d"]
    with pytest.raises(DataError, match=r"collection = 'nowhere' \(it has: x, y\)"):
        KIND.labelled(pathology(where={"collection": "nowhere"}), manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "pocsu"}, "no video of source 'pocsu'"),
        ({"train": "blues"}, "2 videos have no 'diagnosis': blues/a"),
        ({"label": "diagnose"}, "no column 'diagnose'.*Did you mean 'diagnosis'"),
        ({"where": {"colection": "x"}}, "no column 'colection'.*Did you mean 'collection'"),
        ({"exclude": []}, r"other than covid, pneumonia, regular: pocus/e \(viral\)"),
        ({"classes": ["covid", "healthy"], "exclude": ["pneumonia", "regular", "viral"]}, "diagnosis = healthy"),
        ({"unit": "patient"}, "1 patients have more than one value of 'diagnosis': p2"),
    ],
)
def test_rows_that_cannot_be_used_are_named(manifest: pd.DataFrame, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        KIND.labelled(pathology(**changes), manifest[manifest["sample_id"] != "blues/b"])


def test_missing_labels_and_repeated_ids_are_named(manifest: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="more than one row: pocus/a"):
        KIND.labelled(pathology(), pd.concat([manifest, manifest.iloc[:1]]))
    manifest.loc[[1, 3], "diagnosis"] = [None, " "]
    with pytest.raises(DataError, match="2 videos have no 'diagnosis': pocus/b, pocus/d"):
        KIND.labelled(pathology(), manifest)


def test_external_validation_takes_both_sources_and_every_class_in_each(manifest: pd.DataFrame) -> None:
    both = manifest.assign(diagnosis=manifest["diagnosis"].fillna("covid"))
    assert (pathology().split, pathology(folds="official").split) == ("cv", "official")
    with pytest.raises(DataError, match="no video of source 'blues' has diagnosis = pneumonia or regular"):
        KIND.labelled(pathology(train="blues"), both)
    both.loc[[7, 8], "diagnosis"] = ["pneumonia", "regular"]
    task = pathology(train="blues")
    assert (task.split, task.sources) == ("external", ("pocus", "blues"))
    assert KIND.labelled(task, both)["source"].value_counts().to_dict() == {"pocus": 5, "blues": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["covid"]}, "at least 2"),
        ({"exclude": ["covid"]}, "named twice"),
        ({"unit": "frame"}, "unit"),
        ({"clases": []}, "did you mean 'classes'"),
        ({"train": "blues", "folds": "official"}, "either `train` or `folds: official`"),
        ({"train": "pocus"}, "`train` names the source that is scored"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        pathology(**changes)


def test_predictions_are_checked_and_answered_in_the_names_of_the_classes() -> None:
    task = pathology()
    p = np.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.4], [-0.1, 0.6, 0.5], [np.nan, 0.5, 0.5], [1, 0, 5e-4]])
    assert KIND.wrong(task, p).tolist() == [False, True, True, True, False]
    answer = KIND.answer(task, p[[0, 4]])
    assert answer["predicted"].tolist() == ["pneumonia", "covid"]
    assert answer["p_regular"].tolist() == [0.3, 5e-4]
    assert list(answer) == list(KIND.answer_columns(task))
    assert KIND.bar(task) == {"balanced_accuracy": 1 / 3}
