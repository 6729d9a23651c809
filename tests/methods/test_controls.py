"""Controls against counts by hand, scikit-learn's pipelines and planted pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import classes_of, manifest_of, outer_fold_of, recordings_of
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from echolung.embedding.recordings import Recordings
from echolung.methods.controls import HandMade, Majority, SourceOnly
from echolung.methods.handmade import handmade_features
from echolung.methods.tabular import LogisticSettings, Tabular

SETTINGS = LogisticSettings()


class Numbers(Tabular):
    """A regression on numbers that the manifest holds."""

    @classmethod
    def table(cls, recordings: Recordings, sample_ids: list[str]) -> pd.DataFrame:
        return recordings.manifest(sample_ids)[["age", "weight_kg"]].astype(float)


@pytest.mark.parametrize(
    ("unit", "y", "expected"),
    [("video", [1, 1, 1, 0, 0, 1], 4 / 6), ("patient", [1, 1, 1, 0, 0, 1], 2 / 4), ("video", [0] * 6, 0.0)],
)
def test_majority_is_the_class_frequency_of_the_unit(unit: str, y: list[int], expected: float, tmp_path: Path) -> None:
    rows = {"sample_id": list("abcdef"), "patient_id": list("ppprst"), "y": np.array(y, float), "inner": 0}
    nothing = Recordings([])
    Majority.fit(None, classes_of("ab", unit), nothing, pd.DataFrame(rows), 0, tmp_path).save(tmp_path)
    p = Majority.load(tmp_path).predict(nothing, ["x", "y"])
    assert p.tolist() == [pytest.approx([1 - expected, expected])] * 2


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("unit", ["video", "patient"])
def test_a_regression_is_a_calibrated_pipeline_of_scikit_learn(classes: int, unit: str, tmp_path: Path) -> None:
    """Of a number that tells the class and one that does not."""
    random, patient = np.random.default_rng(0), np.repeat(np.arange(30), np.resize([1, 2, 3], 30))
    truth, names = patient // 3 % classes, [f"s/{number}" for number in range(len(patient))]
    age, weight = truth + random.normal(size=len(truth)), random.normal(size=len(truth))
    recordings = recordings_of(manifest_of(names, patient, age=age, weight_kg=weight))
    training, _, test = outer_fold_of(recordings.parts[0].manifest, truth)
    x, y = Numbers.table(recordings, training["sample_id"]).to_numpy(), training["y"].to_numpy(int)
    of_patient = pd.factorize(training["patient_id"])[0]
    even = 1 / np.bincount(of_patient)[of_patient] if unit == "patient" else np.ones(len(y))

    def pipeline(penalty: float, rows: np.ndarray) -> Pipeline:
        weights = even[rows] * (len(y) / even[rows].sum())  # a total of V, whatever is held out
        scaler = StandardScaler().fit(x[rows], sample_weight=weights)
        # With two classes scikit-learn has one row of coefficients w, we have -w/2 and w/2: half the penalty.
        model = LogisticRegression(C=penalty * (2 if classes == 2 else 1), max_iter=5000, tol=1e-8)
        return make_pipeline(scaler, model.fit(scaler.transform(x[rows]), y[rows], sample_weight=weights))

    def loss(p: np.ndarray, rows: np.ndarray) -> float:
        table = pd.DataFrame(p).assign(y=y[rows])
        units = table.groupby(of_patient[rows]).mean() if unit == "patient" else table
        return log_loss(units["y"], units.drop(columns="y"), labels=range(classes))

    held_out = [(training["inner"] == fold).to_numpy() for fold in (0, 1)]
    losses = [
        np.mean([loss(pipeline(penalty, ~rows).predict_proba(x[rows]), rows) for rows in held_out])
        for penalty in SETTINGS.penalties
    ]
    fitted = Numbers.fit(SETTINGS, classes_of("abc"[:classes], unit), recordings, training, 0, tmp_path)
    search, best = fitted.search(), SETTINGS.penalties[int(np.argmin(losses))]
    np.testing.assert_allclose(search["log_loss"], losses, rtol=1e-4)
    assert search.loc[search["chosen"], "penalty"].tolist() == [best]

    prior = np.log(np.bincount(y, even) / even.sum())

    def sharpened(p: np.ndarray, factor: float) -> np.ndarray:
        return softmax(prior + factor * (np.log(p) - prior), axis=-1)

    out = np.zeros((len(y), classes))
    for rows in held_out:
        out[rows] = pipeline(best, ~rows).predict_proba(x[rows])
    everything = np.ones(len(y), bool)
    factors = np.linspace(0, 4, 401)
    wanted = factors[np.argmin([loss(sharpened(out, factor), everything) for factor in factors])]
    assert search["sharpness"].max() == pytest.approx(wanted, abs=0.02)
    p = fitted.predict(recordings, test)
    of_test = pipeline(best, everything).predict_proba(Numbers.table(recordings, test).to_numpy())
    np.testing.assert_allclose(p, sharpened(of_test, search["sharpness"].max()), rtol=0, atol=1e-4)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(Numbers.load(tmp_path).predict(recordings, test), p)


def test_source_only_reads_the_file_and_not_the_picture(tmp_path: Path) -> None:
    paths = ["/x/a.MP4", "/x/b.mov", "/x/c.mov", "/x/d.mov"]
    manifest = manifest_of([f"s/{name}" for name in "abcd"], "abcd", height=128, frames=32, path=paths)
    recordings = recordings_of(manifest)
    expected = {"log_height": 7.0, "log_width": 6.0, "fps": 25.0, "log_frames": 5.0}
    expected |= {"container_.mov": 0.0, "container_.mp4": 1.0, "codec_h264": 1.0}
    assert SourceOnly.table(recordings, ["s/b", "s/a"]).loc["s/a"].to_dict() == expected
    training = manifest[["sample_id", "patient_id"]].assign(y=[0, 1, 0, 1], inner=[0, 0, 1, 1])
    fitted = SourceOnly.fit(SETTINGS, classes_of(), recordings, training, 0, tmp_path)
    new = recordings_of(manifest_of(["s/e"], "e", path="/x/e.avi", codec="vp9"))
    assert np.isfinite(fitted.predict(new, ["s/e"])).all(), "containers that training lacks"


def test_hand_made_features_see_what_they_are_named_for() -> None:
    depth, across = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    lines = 128 + 100 * np.cos(2 * np.pi * depth / 12)  # A-lines, 12 rows apart
    streaks = np.where(across % 16 < 3, 220, 40)  # B-lines, from top to bottom
    pictures = {"lines": lines, "streaks": streaks, "flat": np.full((48, 64), 90)}
    shown = {
        name: np.pad(np.tile(one.astype(np.uint8), (6, 1, 1)), ((0, 0), (8, 8), (0, 0)))
        for name, one in pictures.items()
    }
    shown["moving"] = shown["lines"].copy()
    shown["moving"][1::2, 8:56] = np.roll(shown["lines"][1::2, 8:56], 6, axis=1)
    found = HandMade.table(recordings_of(manifest_of(list(shown), "abcd"), frames=shown), list(shown))
    assert found["repetition"]["lines"] > 0.5 > found["repetition"]["flat"] == 0
    assert found["repetition_lag"]["lines"] == pytest.approx(12 / 48)
    assert found["band_7_columns"]["streaks"] > 10 * found["band_7_columns"]["lines"]
    assert found["edges_ratio"]["streaks"] < 0 < found["edges_ratio"]["lines"]
    assert found["mean"]["flat"] == pytest.approx(90 / 255)  # the letterbox is not part of the picture
    assert found["motion"]["moving"] > 0.1 > found["motion"]["lines"] == 0
    narrow = np.pad(np.full((5, 3, 32), 90, np.uint8), ((0, 0), (14, 15), (0, 0)))  # fewer rows than there are bands
    for odd in (np.zeros((5, 32, 32), np.uint8), np.full((1, 32, 32), 255, np.uint8), narrow, narrow.swapaxes(1, 2)):
        features = handmade_features(odd)
        assert list(features) == list(found) and np.isfinite(list(features.values())).all()
