"""Ejection fractions where masks are exact: beats, both views, the offset, who is trained on, which side of a cut."""

from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pytest
from drawn import folds_of, manifest_of, outer_fold_of, recordings_of
from hearts_drawn import DARK, SIDE, ellipse, hearts
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from echolung.core.errors import SettingsError
from echolung.data.masks import STRUCTURES
from echolung.embedding.recordings import Recordings
from echolung.hearts.volumes import discs
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.regression import RegressionTask
from echolung.methods import ejection_fraction as module
from echolung.methods.ejection_fraction import EjectionClass, EjectionFraction, EjectionSettings, fraction
from echolung.methods.fitting import refit_rows
from echolung.methods.method import Drawing, Maps
from echolung.phantom.heart import draw_heart

HEARTS = {"source": "hearts", "label": "ef", "unit": "patient"}
TASK = RegressionTask(kind="regression", **HEARTS)
SIDES = ClassificationTask(kind="classification", below=55, classes=["normal", "weak"], **HEARTS)


class Exact:
    """A segmenter that knows where the ventricle is; `rows` are those that it was fitted on."""

    rows = pd.DataFrame()

    def maps(self, recordings: Recordings, sample_id: str, frames: np.ndarray) -> np.ndarray:
        shown = recordings.frames(sample_id)[frames]
        return ((shown > 0) & (shown < DARK)).astype(np.uint8)

    def save(self, directory: Path) -> None:
        pass

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls()

    @classmethod
    def fit(cls, settings: object, task: object, recordings: object, rows: pd.DataFrame, *rest: object) -> Self:
        cls.rows = rows
        return cls()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Segmentation", Exact)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("frames", "views"), [(2, ("A4C", "A2C")), (2, ("A4C",)), (50, ("A4C",))])
def test_fraction_and_offset_are_those_of_the_ellipsoids(frames: int, views: tuple[str, ...], tmp_path: Path) -> None:
    recordings = hearts(tmp_path, 24, frames, views)
    manifest = recordings.parts[0].manifest
    training, test, asked = outer_fold_of(manifest, manifest["ef"].to_numpy(float), number=True)
    for method, bias in ((EjectionFraction, 0.0), (module.RawEjectionFraction, -3.0)):
        one = method.fit(EjectionSettings(), TASK, recordings, training, 0, tmp_path)
        told = one.predict(recordings, asked)
        error = told[:, 0] - test["y"].to_numpy()
        # Discs of ventricles of 24 to 36 pixels are cut at whole pixels.
        assert np.abs(error - bias).max() < 2.5 and error.mean() == pytest.approx(bias, abs=0.7)
        assert one.facts["common"] == 0, "ellipsoids that shrink alike have lengths of their own"
        assert (told[:, 1] <= told[:, 0]).all() and one.facts["offset"] == pytest.approx(bias + 3, abs=0.7)
        if len(views) == 2:
            assert (pd.Series(told[:, 0]).groupby(test["patient_id"].to_numpy()).nunique() == 1).all(), "one answer"
    assert set(Exact.rows["sample_id"]) == set(training["sample_id"])
    black, median = asked[:1], training.groupby("patient_id")["y"].mean().median()
    nothing = recordings_of(manifest_of(black, "x", view="A4C"), frames={black[0]: np.zeros((9, SIDE, SIDE))})
    assert one.predict(nothing, black)[0, 0] == pytest.approx(median)


@pytest.mark.parametrize("unit", ["ml", "% of the largest"])
def test_the_curve_marks_the_beats_of_a_drawn_heart(unit: str) -> None:
    heart = draw_heart(60, 60, 25.0, 96, 1, "a4c")
    beat = heart.heart.ventricle

    class Known(Exact):
        def explain(self, recordings: Recordings, sample_id: str) -> Maps:
            labels = heart.labels()[None]
            return Maps(labels.astype(float), False, "", Drawing(labels, STRUCTURES))

    pitch = heart.scanner.pixel_grid(96, 96)[2] if unit == "ml" else None
    facts = {"sample_id": "h", "pixel_mm": pitch, "height": 96, "width": 96, "pixel_aspect": 1.0}
    recordings = recordings_of(pd.DataFrame([facts]), frames={"h": heart.frames})
    facts = {"offset": 2.0, "half": 9.0, "fallback": 50.0, "common": 0.0}
    curve = EjectionFraction(Known(), module.Reading(), facts).explain(recordings, "h").curve
    assert curve.label.endswith(unit)
    for name, first in (("end-diastole", beat.end_diastole), ("end-systole", beat.end_systole)):
        away = (np.array(curve.marks[name]) - first + 3) % beat.frames_per_beat - 3
        assert len(away) >= 2 and np.abs(away).max() <= 1, f"{name}: within a frame of where it was drawn"
    told = [float(text.removeprefix("EF ").rstrip("%")) for text in curve.readings]
    assert told == pytest.approx([62] * len(curve.marks["end-systole"]), abs=6)
    expected = beat.volumes.max() if unit == "ml" else 100
    assert curve.lines["smoothed"].max() == pytest.approx(expected, rel=0.2)


def test_two_views_make_biplane_discs_whatever_their_pixels_and_a_common_length_reads_lower() -> None:
    """Half axes (20, 10, 8) shrink to (17, 8, 5); the second view has pixels half as large."""
    first, second = ([[*d, length] for d, length in (discs(ellipse(120, *size)) for size in sizes)] for sizes in (
        ((20, 10), (17, 8)), ((40, 16), (34, 10))))  # fmt: skip
    expected = 100 * (1 - 17 * 8 * 5 / (20 * 10 * 8))
    views = [np.array(first), np.array(second)]
    assert fraction(views) == pytest.approx(expected, abs=1.0)
    assert fraction(views[:1]) == pytest.approx(100 * (1 - 17 * 8 * 8 / (20 * 10 * 10)), abs=1.0)
    areas = 100 * (1 - (17 * 8 * 17 * 5 / 17) / (20 * 10 * 20 * 8 / 20))  # of ellipses, over the length
    assert fraction(views, formula="area-length") == pytest.approx(areas, abs=1.0)
    assert fraction(views, common=True) == pytest.approx(100 * (1 - 8 * 5 / (10 * 8)), abs=1.0)


@pytest.mark.usefixtures("exact")
def test_with_an_official_split_unlabelled_patients_are_drawn_too_and_test_patients_never(tmp_path: Path) -> None:
    recordings = hearts(tmp_path, 20)
    manifest = recordings.parts[0].manifest
    manifest["ef"] = manifest["ef"].where(np.arange(20) % 3 > 0)
    task = TASK.model_copy(update={"folds": "official", "unlabelled": "leave out"})
    labelled = manifest[manifest["ef"].notna() & (manifest["split_official"] != "TEST")]
    training = labelled[["sample_id", "patient_id"]].assign(y=labelled["ef"].astype(float))
    training["inner"] = np.where(labelled["split_official"] == "VAL", 0, -2)
    EjectionFraction.fit(EjectionSettings(), task, recordings, training, 0, tmp_path)
    rows = manifest.set_index("sample_id").loc[Exact.rows["sample_id"], "split_official"]
    assert set(rows.index) == set(manifest["sample_id"][manifest["split_official"] != "TEST"])
    assert ((rows == "VAL").to_numpy() == (Exact.rows["inner"] == 0).to_numpy()).all()


def test_a_champion_without_an_official_split_reads_every_patient(tmp_path: Path) -> None:
    recordings = hearts(tmp_path, 12)
    manifest = recordings.parts[0].manifest
    rows = refit_rows(TASK, folds_of(manifest, np.zeros(len(manifest), int)))
    assert EjectionFraction.reads(TASK, recordings, rows) == sorted(manifest["sample_id"])


@pytest.mark.usefixtures("exact")
def test_the_probability_of_weak_falls_with_the_fraction_and_passes_a_half_near_the_cut(tmp_path: Path) -> None:
    recordings = hearts(tmp_path, 48, views=("A4C", "A2C"))
    manifest = recordings.parts[0].manifest
    weak = (manifest["ef"].astype(float) < 55).to_numpy()
    training, test, names = outer_fold_of(manifest, weak.astype(int))
    one = EjectionClass.fit(EjectionSettings(), SIDES, recordings, training, 0, tmp_path)
    p, percent = one.predict(recordings, names), one.percent(recordings, names)
    assert p.sum(axis=1) == pytest.approx(1) and (p > 0).all()
    assert (np.diff(p[np.argsort(percent), 1]) <= 0).all() and np.ptp(p[:, 1]) > 0.5
    far = np.abs(percent - 55) > 5
    assert far.sum() > 10 and ((p[far, 1] > 0.5) == (test["y"].to_numpy()[far] == 1)).all()
    one.save(tmp_path)
    np.testing.assert_array_equal(EjectionClass.load(tmp_path).predict(recordings, names), p)
    for changes in ({"below": None}, {"below": None, "classes": ["low", "normal", "high"]}):
        with pytest.raises(SettingsError, match="on which side of a cut a number lies") as caught:
            EjectionClass.fit(EjectionSettings(), SIDES.model_copy(update=changes), recordings, training, 0, tmp_path)
        assert "`below`" in caught.value.remedy


def test_the_curve_is_the_likeliest_that_does_not_fall() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=400)
    y = (random.random(400) < expit(0.5 + 1.5 * x)).astype(float)
    free = LogisticRegression(C=1e9).fit(x[:, None], y)
    assert module.logistic_curve(x, y) == pytest.approx([free.intercept_[0], free.coef_[0, 0]], abs=0.05)
    assert module.logistic_curve(x, 1 - y)[1] == 0
    odds, slope = module.logistic_curve(np.array([-2.0, -1, 1, 2]), np.array([0.0, 0, 1, 1]))
    assert 0 < slope < 5 and odds == pytest.approx(0, abs=1e-3), "parted patients leave doubt"
    assert expit(module.logistic_curve(x, np.zeros(400))[0]) < 0.01
