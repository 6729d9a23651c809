"""Regression against scikit-learn and scipy on the same table, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of
from scipy import stats
from sklearn import metrics as sklearn_metrics

from echolung.core.drawing import WIDTH
from echolung.core.errors import DataError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison
from echolung.kinds.classification import Classification, ClassificationTask
from echolung.kinds.regression import Regression, RegressionTask
from echolung.kinds.regression_figures import bland_altman
from echolung.methods.arms import Arm

TASK = RegressionTask(kind="regression", source="hearts", label="ef", unit="patient")
FEW = CompareSettings(bootstrap=200, permutations=200)
ARMS = {
    "random": Arm(encoder="random", method="linear", role="reference"),
    "mae": Arm(encoder="mae", method="linear", role="candidate"),
}


def table(patients: int = 40, folds: int = 4) -> pd.DataFrame:
    """Two videos a patient; the candidate errs half as much, and answers 5 too high."""
    random, patient, frames = np.random.default_rng(0), np.repeat(np.arange(patients), 2), []
    y = random.uniform(25, 70, patients)[patient]
    for arm, noise, bias in (("random", 10.0, 0.0), ("mae", 5.0, 5.0), ("constant", 0.0, 0.0)):
        told = y + bias + random.normal(0, noise, len(y)) if noise else 48.0 + patient % folds
        rows = pd.DataFrame({"prediction": told, "low": told - 8, "high": told + 8, "fold": patient % folds})
        rows["sample_id"] = [f"hearts/v{number}" for number in range(len(y))]
        rows["patient_id"] = rows["split_group"] = [f"hearts/p{one}" for one in patient]
        method = "constant" if arm == "constant" else "linear"
        frames.append(rows.assign(arm=arm, method=method, arm_seed=0, repeat=0, y_true=y))
    return pd.concat(frames, ignore_index=True).assign(task="ef", seen_in_pretraining=False, split_digest="d")


def estimates(found: Comparison, arm: str) -> pd.Series:
    return found.arms[found.arms["arm"] == arm].set_index("metric")["estimate"]


def test_metrics_are_those_of_scikit_learn_on_the_patients_mean_answers() -> None:
    rows = table()
    found = compare({"ef": rows}, {"ef": TASK}, ARMS, FEW)
    units = rows.groupby(["arm", "patient_id"])[["prediction", "low", "high", "y_true", "fold"]].mean()
    for arm in ("random", "mae"):
        y, told, fold = (units.loc[arm, name].to_numpy() for name in ("y_true", "prediction", "fold"))
        folds = [fold == one for one in np.unique(fold)]
        areas = [sklearn_metrics.roc_auc_score(y[f] < cut, -told[f]) for cut in TASK.cutoffs for f in folds]
        expected = {
            "mae": np.abs(told - y).mean(),
            "rmse": sklearn_metrics.root_mean_squared_error(y, told),
            "r2": sklearn_metrics.r2_score(y, told),
            "pearson": np.mean([stats.pearsonr(y[f], told[f])[0] for f in folds]),
            "auroc": np.mean(areas),
            "coverage": (np.abs(told - y) <= 8).mean(),
            "width": 16.0,
        }
        assert estimates(found, arm).to_dict() == pytest.approx(expected)
        agreement = found.more["agreement"].query("arm == @arm").set_index("metric")
        limits = (told - y).mean() + 1.96 * (told - y).std() * np.array([-1, 1])
        assert agreement.loc[["lower limit", "upper limit"], "estimate"].tolist() == pytest.approx(limits)
        assert (agreement["low"] <= agreement["estimate"]).all() and (agreement["estimate"] <= agreement["high"]).all()
        cutoffs = found.more["cutoffs"].query("arm == @arm")
        assert cutoffs["metric"].tolist() == ["AUROC of ef < 50", "AUROC of ef < 40"]
        assert cutoffs["estimate"].tolist() == pytest.approx([np.mean(areas[:4]), np.mean(areas[4:])])
    constant = estimates(found, "constant")
    assert np.isnan(constant["pearson"]) and constant["auroc"] == 0.5, "it orders nobody, in no fold"
    pairs = found.pairs.set_index(["arm", "reference", "metric"])
    assert pairs.loc[("mae", "constant", "mae"), "p_value"] < 0.01
    rows.loc[rows["arm"] == "mae", ["low", "high"]] = [-np.inf, np.inf]
    mine = estimates(compare({"ef": rows}, {"ef": TASK}, ARMS, FEW), "mae")
    assert mine["coverage"] == 1 and np.isnan(mine["width"]), "an interval without ends has no width"
    figure = bland_altman(found, {"random": "0.5", "mae": "C0", "constant": "0.7"})
    assert figure is not None and figure.get_size_inches()[0] == pytest.approx(WIDTH)
    shown = [panel for panel in figure.axes if panel.has_data()]
    assert len(shown[0].lines[0].get_xdata()) == 40


def test_labels_are_numbers_in_even_groups_and_those_that_are_not_are_named() -> None:
    names = [f"hearts/{number:02d}" for number in range(16)]
    manifest = manifest_of(names, np.repeat(np.arange(8), 2), ef=np.repeat(np.linspace(20, 70, 8), 2))
    rows = Regression().labelled(TASK, manifest)
    assert rows["y"].tolist() == manifest["ef"].tolist()
    assert rows["stratum"].value_counts().to_dict() == dict.fromkeys(range(4), 4)
    gap = manifest.assign(ef=manifest["ef"].where(manifest.index > 1))
    with pytest.raises(DataError, match="2 videos have no 'ef': hearts/00, hearts/01"):
        Regression().labelled(TASK, gap)
    leaving = TASK.model_copy(update={"unlabelled": "leave out"})
    assert not leaving.labels_all and TASK.labels_all
    assert list(Regression().labelled(leaving, gap)["sample_id"]) == names[2:]
    sides = {"kind": "classification", "source": "hearts", "label": "ef", "below": 50, "classes": ["normal", "weak"]}
    parted = ClassificationTask.parse(sides | {"unit": "patient", "unlabelled": "leave out"}, "the test")
    assert list(Classification().labelled(parted, gap)["label"]) == ["weak"] * 8 + ["normal"] * 6
    odd = manifest.assign(ef=["fair", *manifest["ef"].astype(str)[1:]])
    with pytest.raises(DataError, match=r"no finite number: hearts/00 \(fair\)"):
        Regression().labelled(TASK, odd)
    with pytest.raises(DataError, match="16 videos have no 'ef'"):
        Regression().labelled(leaving, manifest.assign(ef=np.nan))
    told = np.array([[50, 40, 60], [np.nan, 40, 60], [50, 55, 60], [50, -np.inf, np.inf]])
    assert Regression().wrong(TASK, told).tolist() == [False, True, True, False]
