"""The batched regression against scikit-learn; linear probes on statistics of tokens, of classes and of a number."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import classes_of, manifest_of, outer_fold_of, recordings_of
from hearts_drawn import hearts
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from echolung.core.errors import DataError
from echolung.embedding.recordings import Recordings
from echolung.embedding.summary import summarise
from echolung.kinds.regression import RegressionTask
from echolung.methods import logistic
from echolung.methods.controls import Constant
from echolung.methods.logistic import TOLERANCE, solve
from echolung.methods.probes.linear import Linear, LinearSettings, TwoViews

CLASSES = classes_of()
NUMBER = RegressionTask(kind="regression", source="s", label="ef", unit="patient")
PENALTIES = (1e-4, 1e-2, 1.0)


@pytest.mark.parametrize(("rows", "features", "classes"), [(60, 12, 3), (40, 150, 2), (40, 150, 4)])
def test_every_fold_and_penalty_is_solved_as_by_scikit_learn(rows: int, features: int, classes: int) -> None:
    random, penalties = np.random.default_rng(rows), [*PENALTIES, 100.0]
    y = random.integers(classes, size=rows)
    x = random.normal(size=(rows, features)) * random.uniform(0.01, 30, features) + 5
    x += np.eye(classes)[y] @ random.normal(size=(classes, features)) * x.std(axis=0) * 0.3
    weights = random.uniform(0.5, 2, (3, rows)) * (random.integers(3, size=rows) != np.arange(3)[:, None])
    solved = solve(x, y, weights, penalties, classes)
    assert solved.gradient <= TOLERANCE
    for w, logits in zip(weights, solved.logits(x), strict=True):
        share = w / w.sum()
        z = (x - share @ x) / np.sqrt(share @ x**2 - (share @ x) ** 2)
        for penalty, found in zip(penalties, logits, strict=True):
            c = penalty * (2 if classes == 2 else 1)  # one row of coefficients there, two opposite ones here
            reference = LogisticRegression(C=c, tol=1e-9, max_iter=20000).fit(z[w > 0], y[w > 0], w[w > 0])
            np.testing.assert_allclose(softmax(found, axis=-1), reference.predict_proba(z), rtol=0, atol=5e-4)


def test_odd_features_end_and_what_is_not_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    y, once, flat = np.repeat([0, 1], 20), np.ones((1, 40)), np.full((40, 5), 3.0)
    x = np.column_stack([y * 1e6, np.random.default_rng(0).normal(size=40), np.full(40, 7.0)])
    solved = solve(x, y, once, [1e6], 2)
    assert solved.gradient <= TOLERANCE and not solved.coefficients[..., 2].any()
    assert (solved.logits(x)[0, 0].argmax(axis=-1) == y).all()
    assert softmax(solve(flat, y, once, [1.0], 2).logits(flat[:1]), axis=-1).ravel() == pytest.approx([0.5, 0.5])
    monkeypatch.setattr(logistic, "STEPS", 1)
    with pytest.raises(DataError, match="did not converge"):
        solve(x[:, 1:2], y, once, [1.0], 2)


def test_a_summary_holds_mean_deviation_and_change_of_the_frame_and_of_its_regions() -> None:
    tokens = torch.randn(2, 2 * 3 * 3, 4, generator=torch.Generator().manual_seed(0)).half()
    found, x = summarise(tokens, (2, 3, 3)), tokens.double()
    x = ((x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()).unflatten(1, (2, 9))
    flat, change = x.flatten(0, 2), (x[:, 1] - x[:, 0]).abs()
    assert found.shape == (10, 3, 4)
    expected = torch.stack([flat.mean(0), flat.std(0, correction=0), change.mean(dim=(0, 1))])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    middle = torch.stack([x[:, :, 5].mean(dim=(0, 1)), change[:, 5].mean(dim=0)])
    np.testing.assert_allclose(found[1 + 5, [0, 2]], middle, atol=1e-5)


class Study:
    """60 videos of two classes, tokens of noise on a grid of 2 x 4 x 3."""

    def __init__(self) -> None:
        self.y, self.manifest = np.arange(60) % 2, manifest_of([f"s/{number:02d}" for number in range(60)], range(60))
        self.tokens = np.random.default_rng(0).normal(size=(60, 2, 24, 8))
        self.training, test, self.test = outer_fold_of(self.manifest, self.y)
        self.truth = test["y"].to_numpy(int)

    def fit(self, folder: Path, **settings: object) -> tuple[Linear, Recordings, float]:
        """The probe, what it reads, and the share of test videos that it gets right."""
        recordings = recordings_of(self.manifest, self.tokens, (2, 4, 3))
        probe = Linear.fit(Linear.Settings(**settings), CLASSES, recordings, self.training, 0, folder)
        return probe, recordings, (probe.predict(recordings, self.test).argmax(axis=1) == self.truth).mean()


@pytest.mark.parametrize("where", ["frame", "regions"])
@pytest.mark.parametrize("reads", [["mean"], ["std"], ["mean", "std", "change"]])
def test_the_probe_reads_what_it_is_told_and_maps_add_up(reads: list[str], where: str, tmp_path: Path) -> None:
    """Class 1 has the mean of class 0 and a wider spread."""
    study = Study()
    study.tokens[..., 0] *= (1 + 3 * study.y)[:, None, None]
    probe, recordings, right = study.fit(tmp_path, reads=reads, where=[where])
    assert right > 0.8 if "std" in reads else right < 0.75
    maps = probe.explain(recordings, study.test[0])
    assert maps.signed and maps.weights.shape == (2, 2, 4, 3) and np.ptp(maps.weights) > 0
    table = Linear.table(recordings, study.test[:1])[probe.columns]
    logits = probe.weights["coefficients"] @ table.to_numpy(float)[0]
    answer = probe.predict(recordings, study.test[:1])[0].argmax()
    assert maps.weights.mean() == pytest.approx(logits[answer], abs=1e-3)


def test_the_inner_folds_choose_the_regions_where_the_classes_differ_in_place(tmp_path: Path) -> None:
    study = Study()
    for k, place in ((0, 0), (1, 11)):  # the same signal, in another corner of the frame
        study.tokens[study.y == k, :, place::12, 3] += 4
    probe, _, right = study.fit(tmp_path)
    assert right > 0.9 > study.fit(tmp_path, where=["frame"])[2]
    search = probe.search()
    assert set(search["reads"]) == {"frame", "regions"}
    assert search.loc[search["chosen"], "reads"].tolist() == ["regions"]
    assert search.loc[search["chosen"], "log_loss"].item() == search["log_loss"].min()


def test_what_lies_between_two_views_is_read_from_both_together(tmp_path: Path) -> None:
    """The label is what the four-chamber view shows minus what the two-chamber view shows."""
    random, manifest = np.random.default_rng(0), hearts(tmp_path, 60, views=("A4C", "A2C")).parts[0].manifest
    names, shown = list(manifest["sample_id"]), random.normal(size=120)
    tokens = random.normal(size=(120, 1, 8, 4))
    tokens[..., 0] += 3 * shown[:, None, None]
    recordings, alone = (
        recordings_of(rows, np.concatenate([tokens, -tokens], axis=-1), (2, 2, 2))
        for rows in (manifest, manifest.drop(columns="view"))
    )
    assert recordings.views_of(names[1]) == names[:2] and recordings.views_of(names[1], ["A2C"]) == names[1:2]
    training, test, asked = outer_fold_of(manifest, np.repeat(shown[::2] - shown[1::2], 2), number=True)
    error = {}
    for method in (Linear, TwoViews):
        one = method.fit(LinearSettings(where=("frame",)), NUMBER, recordings, training, 0, tmp_path)
        told = one.predict(recordings, asked)[:, 0]
        error[method] = np.abs(told.reshape(-1, 2).mean(axis=1) - test["y"].to_numpy()[::2]).mean()
    assert error[TwoViews] < 0.7 * error[Linear] and (told[::2] == told[1::2]).all()
    assert alone.views_of(names[1]) == names[1:2] and np.isfinite(one.predict(alone, names)).all()


def numbers(patients: int, seed: int = 0) -> tuple[Recordings, pd.DataFrame, pd.DataFrame, list[str]]:
    """Recordings, training and test rows: two videos a patient, whose number is in the mean of the first channels."""
    random, patient = np.random.default_rng(seed), np.repeat(np.arange(patients), 2)
    truth = random.normal(55, 10, patients)[patient]
    tokens = random.normal(size=(2 * patients, 1, 24, 6)) / 2
    tokens[..., 0] += (truth[:, None, None] - 55) / 10
    manifest = manifest_of([f"s/{number:03d}" for number in range(2 * patients)], patient)
    return recordings_of(manifest, tokens, (2, 4, 3)), *outer_fold_of(manifest, truth, number=True)


def test_a_number_is_told_as_by_a_pipeline_of_scikit_learn_with_the_penalty_of_the_inner_folds(tmp_path: Path) -> None:
    recordings, training, _, asked = numbers(30)
    settings = LinearSettings(penalties=PENALTIES, where=("frame",))
    fitted = Linear.fit(settings, NUMBER, recordings, training, 0, tmp_path)
    x, of_test = (
        Linear.table(recordings, names)[fitted.columns].to_numpy(float) for names in (training["sample_id"], asked)
    )
    y, patient = training["y"].to_numpy(), pd.factorize(training["patient_id"])[0]

    def pipeline(penalty: float, rows: np.ndarray) -> object:
        weight = len(y) / rows.sum()  # a total of V, whatever is held out
        return make_pipeline(StandardScaler(), Ridge(alpha=1 / (penalty * weight))).fit(x[rows], y[rows])

    errors = {}
    for penalty in PENALTIES:
        error = np.zeros(len(y))
        for fold in (0, 1):
            out = (training["inner"] == fold).to_numpy()
            error[out] = pipeline(penalty, ~out).predict(x[out]) - y[out]
        errors[penalty] = np.abs(np.bincount(patient, error) / 2)
    means, search = {penalty: one.mean() for penalty, one in errors.items()}, fitted.search()
    np.testing.assert_allclose(search["absolute_error"], [*means.values()], rtol=1e-6)
    best = min(means, key=means.get)
    assert search.loc[search["chosen"], "penalty"].tolist() == [best]
    told = fitted.predict(recordings, asked)
    np.testing.assert_allclose(told[:, 0], pipeline(best, np.ones(len(y), bool)).predict(of_test), rtol=1e-6)
    half = np.sort(errors[best])[int(np.ceil(21 * 0.9)) - 1]  # 20 training patients
    np.testing.assert_allclose(told[:, 2] - told[:, 0], half)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(Linear.load(tmp_path).predict(recordings, asked), told)
    maps = fitted.explain(recordings, asked[0])
    assert maps.weights.mean() == pytest.approx(told[0, 0] - fitted.weights["intercepts"][0], abs=1e-2)


def test_intervals_hold_nine_patients_in_ten(tmp_path: Path) -> None:
    """Of new patients, over 12 data sets: 480 patients, whose share has a standard error of 1.4 points."""
    held: dict[type, list[float]] = {Linear: [], Constant: []}
    for seed in range(12):
        recordings, training, test, asked = numbers(120, seed)
        for method, inside in held.items():
            fitted = method.fit(LinearSettings(where=("frame",)), NUMBER, recordings, training, 0, tmp_path)
            told = pd.DataFrame(fitted.predict(recordings, asked)).assign(y=test["y"].to_numpy())
            units = told.groupby(test["patient_id"].to_numpy()).mean()
            inside += ((units[1] <= units["y"]) & (units["y"] <= units[2])).tolist()
            if method is Constant:
                assert units[0].unique() == pytest.approx([training.groupby("patient_id")["y"].first().median()])
    assert all(0.86 < np.mean(inside) < 0.95 for inside in held.values()), {k: np.mean(v) for k, v in held.items()}
