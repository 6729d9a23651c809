"""Segmentation: distances against every pair of border pixels, tables by hand, and what it refuses."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of
from hearts_drawn import ellipse
from scipy.spatial.distance import cdist

from echolung.core.errors import DataError, SettingsError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.kinds.segmentation import MEASURES, Segmentation, SegmentationTask, measures
from echolung.methods.arms import Arm

GROUPS = {"view": ["A4C", "A2C"], "image_quality": ["Good", "Poor"]}
TASK = SegmentationTask.parse(
    {"kind": "segmentation", "source": "h", "structures": ["left ventricle", "left atrium"], "groups": GROUPS}, "x"
)


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
    labelled = kind.labelled(TASK, manifest)
    assert labelled["y"].tolist() == [0, 2] * 10 + [1, 3] * 10
    for arm, level in (("random", 0.7), ("mae", 0.8), ("mean-mask", 0.3)):
        values = pd.DataFrame(random.uniform(level, level + 0.1, (40, 20)), columns=kind.columns(TASK))
        values.loc[:9, [name for name in values if name.endswith("atrium_ES")]] = np.nan  # not traced there
        values[[name for name in values if name.startswith(("hd95", "msd"))]] = np.nan  # no spacing
        method = "mean-mask" if arm == "mean-mask" else "light-decoder"
        heading = {"arm": arm, "arm_seed": 0, "method": method, "repeat": 0, "fold": np.arange(40) // 2 % 4}
        rows.append(values.assign(**heading, sample_id=names, y_true=labelled["y"], task="lv"))
        rows[-1]["patient_id"] = rows[-1]["split_group"] = manifest["patient_id"].to_numpy()
    table = pd.concat(rows, ignore_index=True).assign(seen_in_pretraining=False, split_digest="d")
    arms = {name: Arm(encoder=name, method="light-decoder", role=role) for name, role in
            (("random", "reference"), ("mae", "candidate"))}  # fmt: skip
    found = compare({"lv": table}, {"lv": TASK}, arms, CompareSettings(bootstrap=100, permutations=200))
    mine = table[table["arm"] == "mae"].set_index("sample_id")
    dice = mine[[name for name in mine if name.startswith("dice")]]
    of_patient = dice.mean(axis=1).groupby(mine["patient_id"]).mean()
    arm = found.arms[found.arms["arm"] == "mae"].set_index("metric")["estimate"]
    assert arm["dice_loss"] == pytest.approx(1 - of_patient.mean())
    assert np.isnan(arm["hd95"])
    assert found.pairs.set_index(["arm", "reference", "metric"])["p_value"]["mae", "random", "dice_loss"] < 0.01
    cells = found.more["structures"].query("arm == 'mae'").set_index(["structure", "of", "phase", "metric"])["estimate"]
    atrium = mine[["dice_left atrium_ED", "dice_left atrium_ES"]]
    assert cells["left atrium", "all", "ES", "dice"] == pytest.approx(atrium["dice_left atrium_ES"].iloc[10:].mean())
    poor = atrium[manifest["image_quality"].to_numpy() == "Poor"]
    assert cells["left atrium", "image_quality Poor", "all", "dice"] == pytest.approx(poor.mean(axis=1).mean())
    places = itertools.product(TASK.structures, ["ED", "ES"], MEASURES)
    assert kind.columns(TASK)[4:] == [f"{measure}_{structure}_{phase}" for structure, phase, measure in places]


def test_what_cannot_be_scored_is_refused() -> None:
    manifest = manifest_of(["h/a", "h/b"], "ab", view=["A4C", "PLAX"], image_quality="Good")
    with pytest.raises(DataError, match="1 videos have a 'view' other than A4C, A2C: h/b"):
        Segmentation().labelled(TASK, manifest)
    with pytest.raises(SettingsError, match="each of these once"):
        SegmentationTask.parse({"kind": "segmentation", "source": "h", "structures": ["septum"]}, "x")
    values = np.full((3, 20), 0.5)
    values[1], values[2, 4] = np.nan, 1.2
    assert Segmentation().wrong(TASK, values).tolist() == [False, True, True]
