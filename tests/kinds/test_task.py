"""A task takes exactly the rows it names, and says which rows stop it."""

import numpy as np
import pandas as pd
import pytest
import yaml

from echolung.core.errors import DataError, SettingsError
from echolung.kinds.anomaly import Anomaly, AnomalyTask
from echolung.kinds.classification import Classification, ClassificationTask

KIND = Classification()
MANIFEST = pd.DataFrame(
    {
        "sample_id": [f"pocus/{name}" for name in "abcdef"] + ["blues/a", "blues/b", "blues/c"],
        "source": ["pocus"] * 6 + ["blues"] * 3,
        "patient_id": ["p1", "p1", "p2", "p2", "p3", "p4", "q1", "q1", "q2"],
        "collection": ["x", "y", "x", "x", "x", "y", "z", "z", "z"],
        "lying": ["no", "yes", "No", "FALSE", "n", "yes", None, None, None],
        "diagnosis": ["covid", "covid", "pneumonia", "regular", "viral", "regular", None, None, "covid"],
    }
)


def pathology(**changes: object) -> ClassificationTask:
    values = {"kind": "classification", "source": "pocus", "label": "diagnosis", "unit": "video", "exclude": ["viral"]}
    return ClassificationTask.parse(values | {"classes": ["covid", "pneumonia", "regular"]} | changes, "tasks.x")


def test_classes_are_numbered_in_the_order_of_the_parameters() -> None:
    rows = KIND.labelled(pathology(), MANIFEST)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/b", "pocus/c", "pocus/d", "pocus/f"], "without viral"
    assert rows["y"].tolist() == rows["stratum"].tolist() == [0, 0, 1, 2, 2]
    assert rows["label"].tolist() == ["covid", "covid", "pneumonia", "regular", "regular"]
    assert (str(rows["y"].dtype), str(rows["stratum"].dtype)) == ("float64", "int64")
    turned = KIND.labelled(pathology(classes=["regular", "pneumonia", "covid"]), MANIFEST)
    assert turned["y"].tolist() == [2, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("[0, 1]", [0, 1, 0]),
        ("[0, 1]", ["0", "1 ", "0"]),
        ("[0, 1]", [False, True, False]),
        ("[no, yes]", ["no", "yes", "No"]),  # YAML reads truth values
        ("[no, yes]", ["False", "TRUE", "false"]),
        ("[false, true]", ["no", "Y", "n"]),
        ("['no', 'yes']", ["no", "yes", "no"]),
    ],
)
def test_a_class_is_the_same_in_yaml_and_in_a_table_however_it_is_written(written: str, stored: list[object]) -> None:
    task = pathology(classes=yaml.safe_load(written), exclude=[])
    table = pd.DataFrame({"sample_id": list("abc"), "source": "pocus", "patient_id": list("abc"), "diagnosis": stored})
    rows = KIND.labelled(task, table)
    assert rows["y"].tolist() == [0, 1, 0]
    assert rows["label"].tolist() == [task.classes[k] for k in (0, 1, 0)]


@pytest.mark.parametrize("where", ["{collection: x}", "{lying: no}"])
def test_where_keeps_only_matching_rows(where: str) -> None:
    rows = KIND.labelled(pathology(where=yaml.safe_load(where)), MANIFEST)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/c", "pocus/d"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "blues"}, "2 videos have no 'diagnosis': blues/a, blues/b"),
        ({"train": "blues", "where": {"patient_id": "q2"}}, "no video of source 'pocus' has"),
        ({"label": "diagnose"}, "no column 'diagnose'.*did you mean 'diagnosis'"),
        ({"where": {"colection": "x"}}, "no column 'colection'.*did you mean 'collection'"),
        ({"where": {"collection": "nowhere"}}, r"collection = 'nowhere' \(it has: x, y\)"),
        ({"exclude": []}, r"other than covid, pneumonia, regular: pocus/e \(viral\)"),
        ({"classes": ["covid", "healthy"], "exclude": ["pneumonia", "regular", "viral"]}, "diagnosis = healthy"),
        ({"unit": "patient"}, "1 patients have more than one value of 'diagnosis': p2"),
    ],
)
def test_rows_that_cannot_be_used_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        KIND.labelled(pathology(**changes), MANIFEST)


def test_external_validation_takes_both_sources_and_every_class_in_each() -> None:
    task, both = pathology(train="blues"), MANIFEST.assign(diagnosis=MANIFEST["diagnosis"].fillna("pneumonia"))
    assert (task.split, task.sources, pathology().split) == ("external", ("pocus", "blues"), "cv")
    with pytest.raises(DataError, match="no video of source 'blues' has diagnosis = regular"):
        KIND.labelled(task, both)
    both.loc[7, "diagnosis"] = "regular"
    assert KIND.labelled(task, both)["source"].value_counts().to_dict() == {"pocus": 5, "blues": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["covid"]}, "at least 2"),
        ({"exclude": ["covid"]}, "named twice"),
        ({"below": 50}, "`below` parts two classes"),
        ({"unit": "frame"}, "unit"),
        ({"clases": []}, "did you mean 'classes'"),
        ({"train": "blues", "folds": "official"}, "either `train` or `folds: official`"),
        ({"train": "pocus"}, "`train` names the source that is scored"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        pathology(**changes)


def test_a_number_is_parted_in_two_classes() -> None:
    table = MANIFEST.assign(ef=[50.0, 49.9, 12, 70, 55, 30, None, None, None])
    task = pathology(label="ef", below=50, classes=["normal", "abnormal"], exclude=[])
    rows = KIND.labelled(task, table)
    assert rows["y"].tolist() == [0, 1, 1, 0, 0, 1] and rows["label"].tolist()[:2] == ["normal", "abnormal"]
    with pytest.raises(DataError, match=r"1 videos have a 'ef' other than normal, abnormal: pocus/c \(low\)"):
        KIND.labelled(task, table.assign(ef=["50", "49.9", "low", "70", "55", "30", None, None, None]))
    unlike = AnomalyTask(kind="anomaly", source="pocus", label="ef", below=50, normal="normal", unit="video")
    assert Anomaly().labelled(unlike, table)["y"].tolist() == rows["y"].tolist()
    with pytest.raises(DataError, match="'ef' that is no number: low"):
        Anomaly().labelled(unlike, table.assign(ef=["50", "49.9", "low", "70", "55", "30", None, None, None]))


def test_predictions_are_checked_and_answered_in_the_names_of_the_classes() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.4], [-0.1, 0.6, 0.5], [np.nan, 0.5, 0.5], [1, 0, 5e-4]])
    assert KIND.wrong(pathology(), p).tolist() == [False, True, True, True, False]
    answer = KIND.answer(pathology(), p[[0, 4]])
    assert answer["predicted"].tolist() == ["pneumonia", "covid"]
    assert answer["p_regular"].tolist() == [0.3, 5e-4]
    told = {"predicted": "string", "p_covid": "double", "p_pneumonia": "double", "p_regular": "double"}
    assert KIND.answer_columns(pathology()) == told and list(answer) == list(told)
    assert KIND.bar(pathology()) == {"balanced_accuracy": 1 / 3}
