"""The batched regression against scikit-learn, and the linear probe on statistics of tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import features_of, folds_of, manifest_of
from hearts_drawn import hearts
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from echolung.core.errors import DataError
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.embedding.summary import summarise
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.regression import RegressionTask
from echolung.methods import logistic
from echolung.methods.fitting import outer_fold
from echolung.methods.logistic import TOLERANCE, solve
from echolung.methods.probes.linear import Linear, LinearSettings, TwoViews

pytestmark = pytest.mark.usefixtures("one_thread")
PENALTIES = [1e-4, 1e-2, 1.0, 100.0]


@pytest.mark.parametrize(("rows", "features", "classes"), [(60, 12, 3), (40, 150, 2), (40, 150, 4)])
def test_every_fold_and_penalty_is_solved_as_by_scikit_learn(rows: int, features: int, classes: int) -> None:
    random = np.random.default_rng(rows)
    y = random.integers(classes, size=rows)
    x = random.normal(size=(rows, features)) * random.uniform(0.01, 30, features) + 5
    x += np.eye(classes)[y] @ random.normal(size=(classes, features)) * x.std(axis=0) * 0.3
    weights = random.uniform(0.5, 2, (3, rows)) * (random.integers(3, size=rows) != np.arange(3)[:, None])
    solved = solve(x, y, weights, PENALTIES, classes)
    assert solved.gradient <= TOLERANCE
    logits = solved.logits(x)
    for j, w in enumerate(weights):
        share = w / w.sum()
        z = (x - share @ x) / np.sqrt(share @ x**2 - (share @ x) ** 2)
        for g, penalty in enumerate(PENALTIES):
            c = penalty * (2 if classes == 2 else 1)  # one row of coefficients there, two opposite ones here
            reference = LogisticRegression(C=c, tol=1e-9, max_iter=20000).fit(z[w > 0], y[w > 0], w[w > 0])
            found = softmax(logits[j, g], axis=-1)
            np.testing.assert_allclose(found, reference.predict_proba(z), rtol=0, atol=5e-4)


def test_separable_and_constant_features_end_and_leave_the_rest_alone() -> None:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    x = np.column_stack([y * 1e6, random.normal(size=40), np.full(40, 7.0)])
    solved = solve(x, y, np.ones((1, 40)), [1e6], 2)
    assert solved.gradient <= TOLERANCE
    assert (solved.logits(x)[0, 0].argmax(axis=-1) == y).all()
    assert not solved.coefficients[..., 2].any()
    nothing = solve(np.full((40, 5), 3.0), y, np.ones((1, 40)), [1.0], 2)
    assert softmax(nothing.logits(np.full((1, 5), 3.0)), axis=-1).ravel() == pytest.approx([0.5, 0.5])


def test_a_regression_that_is_not_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)), random.integers(2, size=30)
    monkeypatch.setattr(logistic, "STEPS", 1)
    with pytest.raises(DataError, match="did not converge"):
        solve(x, y, np.ones((1, 30)), [1.0], 2)


def test_a_summary_holds_mean_deviation_and_change_of_the_frame_and_of_its_regions() -> None:
    tokens = torch.randn(2, 2 * 3 * 3, 4, generator=torch.Generator().manual_seed(0)).half()
    found = summarise(tokens, (2, 3, 3))
    x = tokens.double()
    x = ((x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()).unflatten(1, (2, 9))
    assert found.shape == (10, 3, 4)
    flat = x.flatten(0, 2)
    change = (x[:, 1] - x[:, 0]).abs()
    for place, wanted in enumerate([flat.mean(0), flat.std(0, correction=0), change.mean(dim=(0, 1))]):
        np.testing.assert_allclose(found[0, place], wanted, atol=1e-5)
    np.testing.assert_allclose(found[1 + 5, 0], x[:, :, 5].mean(dim=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(found[1 + 5, 2], change[:, 5].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("where", ["frame", "regions"])
@pytest.mark.parametrize("reads", [["mean"], ["std"], ["mean", "std", "change"]])
def test_the_linear_probe_reads_what_it_is_told_and_its_maps_add_up_to_the_logit(
    reads: list[str], where: str, tmp_path: Path
) -> None:
    """Class 1 has the mean of class 0 and a wider spread."""
    study = Study()
    study.tokens[..., 0] *= (1 + 3 * study.y)[:, None, None]
    probe, right = study.fit(tmp_path, reads=reads, where=[where])
    assert right > 0.8 if "std" in reads else right < 0.75
    maps = probe.explain(study.recordings, study.test[0])
    assert maps.signed and maps.weights.shape == (2, 2, 4, 3)
    table = Linear.table(study.recordings, study.test[:1])[probe.columns]
    logits = probe.weights["coefficients"] @ table.to_numpy(float)[0]
    answer = probe.predict(study.recordings, study.test[:1])[0].argmax()
    assert maps.weights.mean() == pytest.approx(logits[answer], abs=1e-3)
    assert np.ptp(maps.weights) > 0


def test_the_inner_folds_choose_the_regions_where_the_classes_differ_in_place(tmp_path: Path) -> None:
    study = Study()
    for k, place in ((0, 0), (1, 11)):  # the same signal, in another corner of the frame
        study.tokens[study.y == k, :, place::12, 3] += 4
    probe, right = study.fit(tmp_path)
    assert right > 0.9 > study.fit(tmp_path, where=["frame"])[1]
    search = probe.search()
    assert set(search["reads"]) == {"frame", "regions"}
    assert search.loc[search["chosen"], "reads"].tolist() == ["regions"]
    assert search.loc[search["chosen"], "log_loss"].item() == search["log_loss"].min()


class Study:
    """60 videos of two classes, tokens of noise on a grid of 2 x 4 x 3."""

    def __init__(self) -> None:
        self.y, self.names = np.arange(60) % 2, [f"s/{number:02d}" for number in range(60)]
        self.tokens = np.random.default_rng(0).normal(size=(60, 2, 24, 8))
        self.manifest = manifest_of(self.names, range(60))
        self.training, test = outer_fold(folds_of(self.manifest, self.y), 0, 0)
        self.test, self.truth = list(test["sample_id"]), test["y"].to_numpy(int)

    @property
    def recordings(self) -> Recordings:
        return Recordings([Part(self.manifest, HeldClips({}), features_of(self.names, self.tokens, (2, 4, 3)))])

    def fit(self, folder: Path, **settings: object) -> tuple[Linear, float]:
        """The probe, and the share of test videos that it gets right."""
        task = ClassificationTask(kind="classification", source="s", label="l", classes=["a", "b"], unit="video")
        probe = Linear.fit(Linear.Settings(**settings), task, self.recordings, self.training, 0, folder)
        return probe, float((probe.predict(self.recordings, self.test).argmax(axis=1) == self.truth).mean())


def test_what_lies_between_two_views_is_read_from_both_together(tmp_path: Path) -> None:
    """The label is what the four-chamber view shows minus what the two-chamber view shows."""
    random, manifest = np.random.default_rng(0), hearts(tmp_path, 60, views=("A4C", "A2C")).parts[0].manifest
    names, shown = list(manifest["sample_id"]), random.normal(size=120)
    tokens = random.normal(size=(120, 1, 8, 4))
    tokens[..., 0] += 3 * shown[:, None, None]
    tokens = np.concatenate([tokens, -tokens], axis=-1)
    recordings = Recordings([Part(manifest, HeldClips({}), features_of(names, tokens, (2, 2, 2)))])
    assert recordings.views_of(names[1]) == names[:2] and recordings.views_of(names[1], ["A2C"]) == names[1:2]
    rows = folds_of(manifest, np.arange(120) // 2 % 4)
    rows["y"] = rows["sample_id"].map(dict(zip(names, np.repeat(shown[::2] - shown[1::2], 2), strict=True)))
    training, test = outer_fold(rows, 0, 0)
    task = RegressionTask(kind="regression", source="hearts", label="ef", unit="patient")
    error = {}
    for method in (Linear, TwoViews):
        one = method.fit(LinearSettings(where=("frame",)), task, recordings, training, 0, tmp_path)
        told = one.predict(recordings, list(test["sample_id"]))[:, 0]
        error[method] = np.abs(told.reshape(-1, 2).mean(axis=1) - test["y"].to_numpy()[::2]).mean()
    assert error[TwoViews] < 0.7 * error[Linear] and (told[::2] == told[1::2]).all()
    alone = Recordings([Part(manifest.drop(columns="view"), HeldClips({}), recordings.parts[0].features)])
    assert alone.views_of(names[1]) == names[1:2] and np.isfinite(one.predict(alone, names)).all()
