"""Sides of a cut from drawn hearts whose masks are exact: probabilities follow the ejection fraction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import folds_of
from hearts_drawn import DARK, hearts
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from echolung.core.errors import SettingsError
from echolung.core.runtime import write_json
from echolung.kinds.classification import ClassificationTask
from echolung.methods import ejection_fraction
from echolung.methods.ejection_class import EjectionClass, curve
from echolung.methods.ejection_fraction import EjectionSettings
from echolung.methods.fitting import outer_fold

SIDES = ["normal", "weak"]
TASK = ClassificationTask(kind="classification", source="hearts", label="ef", below=55, classes=SIDES, unit="patient")


class Exact:
    """A segmenter that knows where the ventricle is."""

    def maps(self, recordings: Any, sample_id: str, frames: np.ndarray) -> np.ndarray:
        shown = recordings.frames(sample_id)[frames]
        return ((shown > 0) & (shown < DARK)).astype(np.uint8)

    def save(self, directory: Path) -> None:
        write_json(directory / "exact.json", {})

    fit = classmethod(lambda cls, *_: cls())
    load = classmethod(lambda cls, *_: cls())


def test_the_probability_of_weak_falls_with_the_fraction_and_passes_a_half_near_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ejection_fraction, "Segmentation", Exact)
    recordings = hearts(tmp_path, 48, views=("A4C", "A2C"))
    manifest = recordings.parts[0].manifest
    weak = (manifest["ef"].astype(float) < 55).to_numpy()
    training, test = outer_fold(folds_of(manifest, weak.astype(int)), 0, 0)
    one = EjectionClass.fit(EjectionSettings(), TASK, recordings, training, 0, tmp_path)
    names = list(test["sample_id"])
    p, percent = one.predict(recordings, names), one.percent(recordings, names)
    assert p.sum(axis=1) == pytest.approx(1) and (p > 0).all()
    assert (np.diff(p[np.argsort(percent), 1]) <= 0).all() and np.ptp(p[:, 1]) > 0.5
    far = np.abs(percent - 55) > 5
    assert far.sum() > 10 and ((p[far, 1] > 0.5) == (test["y"].to_numpy()[far] == 1)).all()
    one.save(tmp_path)
    np.testing.assert_array_equal(EjectionClass.load(tmp_path).predict(recordings, names), p)
    for changes in ({"below": None}, {"below": None, "classes": ["low", "normal", "high"]}):
        with pytest.raises(SettingsError, match="on which side of a cut a number lies") as caught:
            EjectionClass.fit(EjectionSettings(), TASK.model_copy(update=changes), recordings, training, 0, tmp_path)
        assert "`below`" in caught.value.remedy


def test_the_curve_is_the_likeliest_that_does_not_fall() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=400)
    y = (random.random(400) < expit(0.5 + 1.5 * x)).astype(float)
    free = LogisticRegression(C=1e9).fit(x[:, None], y)
    assert curve(x, y) == pytest.approx([free.intercept_[0], free.coef_[0, 0]], abs=0.05)
    assert curve(x, 1 - y)[1] == 0
    odds, slope = curve(np.array([-2.0, -1, 1, 2]), np.array([0.0, 0, 1, 1]))
    assert 0 < slope < 5 and odds == pytest.approx(0, abs=1e-3), "parted patients leave doubt"
    assert expit(curve(x, np.zeros(400))[0]) < 0.01
