"""Classification: a task takes exactly the rows it names, metrics are those of scikit-learn, figures stay legible."""

import io

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics as sklearn_metrics

from echolung.core.errors import DataError, SettingsError
from echolung.evaluation.comparison import Comparison
from echolung.kinds import metrics
from echolung.kinds.anomaly import Anomaly, AnomalyTask
from echolung.kinds.classification import Classification, ClassificationTask
from echolung.kinds.figures import ACROSS, confusions, roc_curves
from echolung.reports.figures import arm_colours

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
    for where in ("{collection: x}", "{lying: no}"):
        rows = KIND.labelled(pathology(where=yaml.safe_load(where)), MANIFEST)
        assert rows["sample_id"].tolist() == ["pocus/a", "pocus/c", "pocus/d"]


def test_a_class_is_the_same_in_yaml_and_in_a_table_however_it_is_written() -> None:
    for written, stored in [
        ("[0, 1]", [0, 1, 0]),
        ("[0, 1]", ["0", "1 ", "0"]),
        ("[0, 1]", [False, True, False]),
        ("[no, yes]", ["no", "yes", "No"]),  # YAML reads truth values
        ("[no, yes]", ["False", "TRUE", "false"]),
        ("[false, true]", ["no", "Y", "n"]),
        ("['no', 'yes']", ["no", "yes", "no"]),
    ]:
        task = pathology(classes=yaml.safe_load(written), exclude=[])
        table = pd.DataFrame({"sample_id": [*"abc"], "source": "pocus", "patient_id": [*"abc"], "diagnosis": stored})
        rows = KIND.labelled(task, table)
        assert rows["y"].tolist() == [0, 1, 0]
        assert rows["label"].tolist() == [task.classes[k] for k in (0, 1, 0)]


def test_rows_that_cannot_be_used_are_named() -> None:
    for changes, message in [
        ({"train": "blues"}, "2 videos have no 'diagnosis': blues/a, blues/b"),
        ({"train": "blues", "where": {"patient_id": "q2"}}, "no video of source 'pocus' has"),
        ({"label": "diagnose"}, "no column 'diagnose'.*did you mean 'diagnosis'"),
        ({"where": {"colection": "x"}}, "no column 'colection'.*did you mean 'collection'"),
        ({"where": {"collection": "nowhere"}}, r"collection = 'nowhere' \(it has: x, y\)"),
        ({"exclude": []}, r"other than covid, pneumonia, regular: pocus/e \(viral\)"),
        ({"classes": ["covid", "healthy"], "exclude": ["pneumonia", "regular", "viral"]}, "diagnosis = healthy"),
        ({"unit": "patient"}, "1 patients have more than one value of 'diagnosis': p2"),
    ]:
        with pytest.raises(DataError, match=message):
            KIND.labelled(pathology(**changes), MANIFEST)


def test_external_validation_takes_both_sources_and_every_class_in_each() -> None:
    task, both = pathology(train="blues"), MANIFEST.assign(diagnosis=MANIFEST["diagnosis"].fillna("pneumonia"))
    assert (task.split, task.sources, pathology().split) == ("external", ("pocus", "blues"), "cv")
    with pytest.raises(DataError, match="no video of source 'blues' has diagnosis = regular"):
        KIND.labelled(task, both)
    both.loc[7, "diagnosis"] = "regular"
    assert KIND.labelled(task, both)["source"].value_counts().to_dict() == {"pocus": 5, "blues": 3}


def test_a_task_that_makes_no_sense_is_refused() -> None:
    for changes, message in [
        ({"classes": ["covid"]}, "at least 2"),
        ({"exclude": ["covid"]}, "named twice"),
        ({"below": 50}, "`below` parts two classes"),
        ({"unit": "frame"}, "unit"),
        ({"clases": []}, "did you mean 'classes'"),
        ({"train": "blues", "folds": "official"}, "either `train` or `folds: official`"),
        ({"train": "pocus"}, "`train` names the source that is scored"),
    ]:
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


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_decisions_losses_and_rankings_match_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    y = np.append(np.arange(classes), generator.integers(0, classes, 90))
    # One decimal: ties between scores are common, as with the majority control.
    p = np.round(generator.dirichlet(np.ones(classes), len(y)) + 0.7 * np.eye(classes)[y], 1) + 0.01
    p /= p.sum(axis=1, keepdims=True)
    predicted, one_hot, once = p.argmax(axis=1), np.eye(classes)[y], np.ones((1, len(y)))
    confusion = metrics.confusion_matrix(y, predicted, classes, once)[0]
    assert (confusion == sklearn_metrics.confusion_matrix(y, predicted)).all()
    assert metrics.balanced_accuracy(confusion) == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, predicted))
    assert metrics.macro_f1(confusion) == pytest.approx(sklearn_metrics.f1_score(y, predicted, average="macro"))
    assert metrics.mcc(confusion) == pytest.approx(sklearn_metrics.matthews_corrcoef(y, predicted))
    assert metrics.sensitivity(confusion) == pytest.approx(sklearn_metrics.recall_score(y, predicted, average=None))
    for k, value in enumerate(metrics.specificity(confusion)):
        assert value == pytest.approx(sklearn_metrics.recall_score(y != k, predicted != k))
    assert metrics.log_losses(y, p).mean() == pytest.approx(sklearn_metrics.log_loss(y, p))
    brier = ((p - one_hot) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1)
    assert metrics.brier_scores(y, p).mean() == pytest.approx(brier)
    assert np.isfinite(metrics.log_losses(np.array([0]), np.array([[0.0, 1.0]]))).all(), "an impossible truth"
    for k in range(classes):
        area = metrics.auroc(y == k, p[:, k], once)[0]
        assert area == pytest.approx(sklearn_metrics.roc_auc_score(y == k, p[:, k]))
        precision = metrics.average_precision(y == k, p[:, k], once)[0]
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(y == k, p[:, k]))


def test_a_resample_may_lack_a_class() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert metrics.balanced_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)
    assert metrics.macro_f1(confusion) == pytest.approx((6 / 7 + 8 / 9) / 2)
    assert metrics.mcc(np.array([[5, 0], [5, 0]])) == 0.0


def comparison(tasks: int, arms: int, name: str, cells: pd.DataFrame) -> Comparison:
    """The same cells for every task and arm."""
    keys = [(f"task{task}", f"a-long-name-{arm}", "linear", "x") for task in range(tasks) for arm in range(arms)]
    rows = pd.DataFrame(keys, columns=["task", "arm", "method", "class"])
    table, empty = rows.assign(role="candidate", primary=True), pd.DataFrame()
    return Comparison(table, empty, empty, empty, empty, more={name: rows.merge(cells, how="cross")})


@pytest.mark.parametrize(
    ("tasks", "arms", "lines"), [(1, 7, [4, 3]), (3, 7, [4, 3] * 3), (3, 2, [4, 2]), (2, 4, [4, 4]), (1, 1, [1])]
)
def test_no_more_matrices_than_fit_beside_one_another(tasks: int, arms: int, lines: list[int]) -> None:
    cells = pd.DataFrame([(a, p, 5, 1) for a in "xy" for p in "xy"], columns=["actual", "predicted", "count", "seeds"])
    figure = confusions(comparison(tasks, arms, "confusion", cells), {})
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in shown] == [
        f"task{task}\na-long-name-{arm}" for task in range(tasks) for arm in range(arms)
    ]
    places = pd.Series([panel.get_subplotspec().rowspan.start for panel in shown])
    assert places.value_counts(sort=False).tolist() == lines and max(lines) <= ACROSS


@pytest.mark.parametrize(("tasks", "arms"), [(7, 9), (3, 2), (1, 9)])
def test_curves_keep_their_room_beside_a_long_legend_and_arms_their_colours(tasks: int, arms: int) -> None:
    points = pd.DataFrame({"false_positive_rate": [0.0, 0.5, 1.0], "true_positive_rate": [0.0, 0.7, 1.0]})
    made = comparison(tasks, arms, "roc", points)
    colours = arm_colours(made)
    assert len(set(colours.values())) == arms
    figure = roc_curves(made, colours)
    figure.savefig(io.BytesIO(), format="png")  # lays it out
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert len(shown) == tasks
    width, height = figure.get_size_inches()
    for panel in shown:
        box = panel.get_position()
        assert min(box.width * width, box.height * height) > 1.5, "inches"
