"""Regression against scikit-learn, segmentation against every pair of border pixels and tables by hand; refusals."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of
from hearts_drawn import ellipse
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn import metrics as sklearn_metrics
from synthetic import PATIENT, predictions

from echolung.core.drawing import WIDTH
from echolung.core.errors import DataError, SettingsError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison
from echolung.kinds.classification import Classification, ClassificationTask
from echolung.kinds.figures import bland_altman
from echolung.kinds.regression import Regression, RegressionTask
from echolung.kinds.segmentation import MEASURES, Segmentation, SegmentationTask, measures
from echolung.methods.arms import Arm

TASK = RegressionTask(kind="regression", source="hearts", label="ef", unit="patient")
GROUPS = {"view": ["A4C", "A2C"], "image_quality": ["Good", "Poor"]}
MASKS = SegmentationTask.parse(
    {"kind": "segmentation", "source": "h", "structures": ["left ventricle", "left atrium"], "groups": GROUPS}, "x"
)
FEW = CompareSettings(bootstrap=200, permutations=200)
ARMS = {
    "random": Arm(encoder="random", method=("linear", "light-decoder"), role="reference"),
    "mae": Arm(encoder="mae", method=("linear", "light-decoder"), role="candidate"),
}


def table() -> pd.DataFrame:
    """Two videos a patient; the candidate errs half as much, and answers 5 too high."""
    random, strengths = np.random.default_rng(0), dict.fromkeys(("random", "mae", "constant"), (1, 0))
    rows = predictions("ef", 1, strengths, ARMS, folds=4)
    rows = rows[rows["method"] != "light-decoder"].drop(columns="p_0").reset_index(drop=True)
    rows["y_true"] = np.tile(random.uniform(25, 70, 40)[PATIENT], 3)
    noise = rows["arm"].map({"random": 10.0, "mae": 5.0}) * random.normal(size=len(rows))
    rows["prediction"] = (rows["y_true"] + noise + 5 * (rows["arm"] == "mae")).fillna(48.0 + rows["fold"])
    return rows.assign(low=rows["prediction"] - 8, high=rows["prediction"] + 8)


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


def border(mask: np.ndarray) -> np.ndarray:
    """Pixels with a side neighbour outside, one by one."""
    padded = np.pad(mask, 1)
    near = [padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx] for dy, dx in
            ((0, 1), (1, 0), (0, -1), (-1, 0))]  # fmt: skip
    return np.argwhere(mask & ~np.logical_and.reduce(near))


def test_measures_are_those_of_all_pairs_of_border_pixels() -> None:
    truth, told = ellipse(40, 12, 7), ellipse(40, 10, 9, 2.0, 1.0)
    apart = cdist(border(told), border(truth))
    there, back = apart.min(axis=1), apart.min(axis=0)
    both, either = (truth & told).sum(), (truth | told).sum()
    expected = (2 * both / (truth.sum() + told.sum()), both / either)
    expected += (0.5 * max(np.percentile(there, 95), np.percentile(back, 95)), 0.5 * np.append(there, back).mean())
    assert measures(told, truth, 0.5) == pytest.approx(expected)
    nothing = np.zeros_like(truth)
    assert measures(nothing, truth, 0.5) == pytest.approx((0, 0, 0.5 * 40 * 2**0.5, 0.5 * 40 * 2**0.5))
    assert measures(nothing, nothing, 0.5) == (1, 1, 0, 0)
    assert np.isnan(measures(told, truth, float("nan"))[2:]).all()


def test_a_comparison_reads_the_measures_and_tells_structures_phases_and_groups_apart() -> None:
    kind, random, rows = Segmentation(), np.random.default_rng(0), []
    names = [f"h/{patient}{view}" for patient in range(20) for view in GROUPS["view"]]
    manifest = manifest_of(names, np.repeat(np.arange(20), 2), view=GROUPS["view"] * 20)
    manifest["image_quality"] = np.repeat(["Good", "Poor"], 20)
    labelled = kind.labelled(MASKS, manifest)
    assert labelled["y"].tolist() == [0, 2] * 10 + [1, 3] * 10
    for arm, level in (("random", 0.7), ("mae", 0.8), ("mean-mask", 0.3)):
        values = pd.DataFrame(random.uniform(level, level + 0.1, (40, 20)), columns=kind.columns(MASKS))
        values.loc[:9, [name for name in values if name.endswith("atrium_ES")]] = np.nan  # not traced there
        values[[name for name in values if name.startswith(("hd95", "msd"))]] = np.nan  # no spacing
        method = "mean-mask" if arm == "mean-mask" else "light-decoder"
        heading = {"arm": arm, "arm_seed": 0, "method": method, "repeat": 0, "fold": np.arange(40) // 2 % 4}
        rows.append(values.assign(**heading, sample_id=names, y_true=labelled["y"], task="lv"))
        rows[-1]["patient_id"] = rows[-1]["split_group"] = manifest["patient_id"].to_numpy()
    table = pd.concat(rows, ignore_index=True).assign(seen_in_pretraining=False, split_digest="d")
    found = compare({"lv": table}, {"lv": MASKS}, ARMS, FEW)
    mine = table[table["arm"] == "mae"].set_index("sample_id")
    dice = mine[[name for name in mine if name.startswith("dice")]]
    of_patient = dice.mean(axis=1).groupby(mine["patient_id"]).mean()
    arm = estimates(found, "mae")
    assert arm["dice_loss"] == pytest.approx(1 - of_patient.mean())
    assert np.isnan(arm["hd95"])
    assert found.pairs.set_index(["arm", "reference", "metric"])["p_value"]["mae", "random", "dice_loss"] < 0.01
    cells = found.more["structures"].query("arm == 'mae'").set_index(["structure", "of", "phase", "metric"])["estimate"]
    atrium = mine[["dice_left atrium_ED", "dice_left atrium_ES"]]
    assert cells["left atrium", "all", "ES", "dice"] == pytest.approx(atrium["dice_left atrium_ES"].iloc[10:].mean())
    poor = atrium[manifest["image_quality"].to_numpy() == "Poor"]
    assert cells["left atrium", "image_quality Poor", "all", "dice"] == pytest.approx(poor.mean(axis=1).mean())
    places = itertools.product(MASKS.structures, ["ED", "ES"], MEASURES)
    assert kind.columns(MASKS)[4:] == [f"{measure}_{structure}_{phase}" for structure, phase, measure in places]


def test_what_cannot_be_scored_is_refused() -> None:
    manifest = manifest_of(["h/a", "h/b"], "ab", view=["A4C", "PLAX"], image_quality="Good")
    with pytest.raises(DataError, match="1 videos have a 'view' other than A4C, A2C: h/b"):
        Segmentation().labelled(MASKS, manifest)
    with pytest.raises(SettingsError, match="each of these once"):
        SegmentationTask.parse({"kind": "segmentation", "source": "h", "structures": ["septum"]}, "x")
    values = np.full((3, 20), 0.5)
    values[1], values[2, 4] = np.nan, 1.2
    assert Segmentation().wrong(MASKS, values).tolist() == [False, True, True]
