"""A task takes exactly the rows it names, and says which rows stop it."""

import pandas as pd
import pytest

from echolung.core.errors import DataError, SettingsError
from echolung.kinds.task import Task, excluded, labelled


def pathology(**changes: object) -> Task:
    values = {
        "source": "pocus",
        "label": "diagnosis",
        "kind": "multiclass",
        "classes": ["covid", "pneumonia", "regular"],
        "exclude": ["viral"],
        "unit": "video",
    }
    return Task.parse(values | changes, "tasks.pocus-pathology")


@pytest.fixture
def manifest() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": [f"pocus/{name}" for name in "abcdef"] + ["blues/a", "blues/b", "blues/c"],
            "source": ["pocus"] * 6 + ["blues"] * 3,
            "patient_id": ["p1", "p1", "p2", "p2", "p3", "p4", "q1", "q1", "q2"],
            "collection": ["x", "y", "x", "x", "x", "y", "z", "z", "z"],
            "diagnosis": ["covid", "covid", "pneumonia", "regular", "viral", "regular", None, None, None],
            "covid": [None] * 6 + [1.0, 1.0, 0.0],
        }
    )


def test_class_index_follows_the_order_of_the_classes(manifest: pd.DataFrame) -> None:
    rows = labelled(pathology(), manifest)
    assert rows["sample_id"].tolist() == ["pocus/a", "pocus/b", "pocus/c", "pocus/d", "pocus/f"]
    assert rows["y"].tolist() == [0, 0, 1, 2, 2]
    assert rows["label"].tolist() == ["covid", "covid", "pneumonia", "regular", "regular"]
    assert str(rows["y"].dtype) == "int64"
    reversed_order = labelled(pathology(classes=["regular", "pneumonia", "covid"]), manifest)
    assert reversed_order["y"].tolist() == [2, 2, 1, 0, 0]


def test_excluded_classes_are_counted_not_lost(manifest: pd.DataFrame) -> None:
    assert excluded(pathology(), manifest) == {"viral": 1}
    assert len(labelled(pathology(), manifest)) + 1 == (manifest["source"] == "pocus").sum()


@pytest.mark.parametrize("stored", [[1.0, 1.0, 0.0], [1, 1, 0], ["1", "1 ", "0"], [True, True, False]])
def test_a_number_is_the_same_class_however_it_is_stored(manifest: pd.DataFrame, stored: list) -> None:
    blues = manifest[manifest["source"] == "blues"].assign(covid=stored)
    task = pathology(source="blues", label="covid", kind="binary", classes=[0, 1], exclude=[], unit="patient")
    assert labelled(task, blues)["y"].tolist() == [1, 1, 0]


def test_where_keeps_only_matching_rows(manifest: pd.DataFrame) -> None:
    task = pathology(where={"collection": "x"})
    assert labelled(task, manifest)["sample_id"].tolist() == ["pocus/a", "pocus/c", "pocus/d"]
    with pytest.raises(DataError, match=r"collection = 'nowhere' \(it has: x, y\)"):
        labelled(pathology(where={"collection": "nowhere"}), manifest)
    with pytest.raises(DataError, match=r"no column 'colection'.*Did you mean 'collection'"):
        labelled(pathology(where={"colection": "x"}), manifest)


def test_missing_label_names_its_rows(manifest: pd.DataFrame) -> None:
    manifest.loc[[1, 3], "diagnosis"] = None
    with pytest.raises(DataError, match="2 videos have no 'diagnosis': pocus/b, pocus/d"):
        labelled(pathology(), manifest)


def test_label_out_of_range_names_its_rows(manifest: pd.DataFrame) -> None:
    manifest.loc[5, "diagnosis"] = "normal"
    with pytest.raises(DataError, match=r"other than covid, pneumonia, regular: pocus/f \(normal\)"):
        labelled(pathology(), manifest)
    with pytest.raises(DataError, match=r"pocus/e \(viral\), pocus/f \(normal\)"):
        labelled(pathology(exclude=[]), manifest)


def test_a_class_without_videos_is_an_error(manifest: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="diagnosis = covid"):
        labelled(pathology(), manifest[manifest["diagnosis"] != "covid"])


def test_a_patient_with_two_labels_may_not_be_the_unit_of_decision(manifest: pd.DataFrame) -> None:
    assert labelled(pathology(), manifest)["patient_id"].tolist().count("p2") == 2
    with pytest.raises(DataError, match="1 patients have more than one value of 'diagnosis': p2"):
        labelled(pathology(unit="patient"), manifest)


def test_wrong_source_label_or_repeated_id(manifest: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"no video of source 'pocsu'"):
        labelled(pathology(source="pocsu"), manifest)
    with pytest.raises(DataError, match=r"no column 'diagnose'.*Did you mean 'diagnosis'"):
        labelled(pathology(label="diagnose"), manifest)
    with pytest.raises(DataError, match="more than one row: pocus/a"):
        labelled(pathology(), pd.concat([manifest, manifest.iloc[:1]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "regression"}, "'regression' is not supported yet"),
        ({"kind": "ordinal"}, "'ordinal' is not supported yet"),
        ({"kind": "nominal"}, "kind"),
        ({"kind": "binary"}, "2 classes, not 3"),
        ({"classes": ["covid"]}, "at least 2 classes"),
        ({"exclude": ["covid"]}, "named twice"),
        ({"unit": "frame"}, "unit"),
        ({"clases": []}, "did you mean 'classes'"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        pathology(**changes)
