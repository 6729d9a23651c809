"""Probes as methods: what they are chosen by, what reaches them, and what the fitted numbers agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import features_of, folds_of, manifest_of
from sklearn.linear_model import LogisticRegression

from echolung.core.errors import DataError, SettingsError
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.classification import ClassificationTask
from echolung.methods.cohort import Cohort, unit_log_loss
from echolung.methods.controls import Majority
from echolung.methods.fitting import outer_fold
from echolung.methods.probes import selection
from echolung.methods.probes.heads import NORM_EPSILON, ProbeForm
from echolung.methods.probes.probe import Attentive, Linear, Probe
from echolung.methods.probes.selection import Inputs, ProbeSettings, Selection, fit

pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS, TOKENS, WIDTH = 2, 6, 16
SEARCH = {"learning_rates": [3e-3, 1e-2], "weight_decays": [0.01, 0.5], "epochs": 4, "batch": 8}
BOTH = pytest.mark.parametrize("method", [Attentive, Linear])


def task(unit: str = "video", classes: int = 3) -> ClassificationTask:
    names = ["a", "b", "c"][:classes]
    return ClassificationTask(kind="classification", source="s", label="l", classes=names, unit=unit)


def recordings_of(tokens: np.ndarray, patient: np.ndarray) -> Recordings:
    names = [f"s/{number:03d}" for number in range(len(tokens))]
    return Recordings([Part(manifest_of(names, patient), HeldClips({}), features_of(names, tokens))])


def study(signal: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Tokens whose class shows in one of six, patients of 1 to 3 videos, and folds."""
    random = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(24), random.integers(24, size=21)]))
    tokens = random.normal(size=(45, VIEWS, TOKENS, WIDTH)) + 2 * random.normal(size=WIDTH)
    tokens[:, :, 2] += signal * 2.5 * random.normal(size=(3, WIDTH))[patient % 3][:, None]
    manifest = recordings_of(tokens, patient).parts[0].manifest
    return tokens, patient, folds_of(manifest, patient % 3, outer=3, inner=3)


def fitted(
    method: type[Probe], tokens: np.ndarray, patient: np.ndarray, training: pd.DataFrame, unit: str = "video", **changes
) -> Probe:
    own = {"attention_head_width": 8} if method is Attentive else {}
    settings = method.Settings(**SEARCH | own | changes)
    return method.fit(settings, task(unit), recordings_of(tokens, patient), training, 4, Path())


def weights(probe: Probe) -> torch.Tensor:
    return torch.cat([value.flatten() for value in probe.heads.state_dict().values()])


# --- the choice ------------------------------------------------------------------------------------------------------


@BOTH
def test_the_lowest_mean_inner_log_loss_is_chosen_and_each_configuration_scores_as_alone(method: type[Probe]) -> None:
    tokens, patient, folds = study()
    training, _ = outer_fold(folds, 0, 0)
    search = fitted(method, tokens, patient, training, "patient").search()
    assert len(search) == 4 * 5
    losses = ["log_loss_0", "log_loss_1", "log_loss_2"]
    np.testing.assert_allclose(search["log_loss"], search[losses].mean(axis=1), rtol=1e-12)
    assert search["chosen"].sum() == 1
    assert search.loc[search["chosen"], "log_loss"].item() == search["log_loss"].min()
    assert search.loc[search["chosen"], "epoch"].item() > 0, "there is something to find"
    assert np.ptp(search.loc[search["epoch"] == 0, "log_loss"]) < 1e-6, "class frequencies, whatever the configuration"
    for (rate, decay), mine in search.groupby(["learning_rate", "weight_decay"]):
        one = {"learning_rates": [rate], "weight_decays": [decay]}
        alone = fitted(method, tokens, patient, training, "patient", **one).search()
        np.testing.assert_allclose(mine[losses], alone[losses], rtol=0, atol=1e-5)


@BOTH
def test_a_held_out_label_reaches_nothing_but_its_own_score(method: type[Probe]) -> None:
    """One video is held out: over the possible labels, exp(-log-loss) adds up to 1 if none of them was trained on."""
    tokens, patient, folds = study()
    training, _ = outer_fold(folds, 0, 0)
    held_out = np.arange(len(training)) == 5
    training["inner"] = np.where(held_out, 0, -2)
    p = 0.0
    for y in range(3):
        labelled = training.assign(y=np.where(held_out, y, training["y"]))
        p = p + np.exp(-fitted(method, tokens, patient, labelled).search()["log_loss"].to_numpy())
    np.testing.assert_allclose(p, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("unit", ["video", "patient"])
def test_a_search_that_finds_nothing_ends_at_the_class_frequencies(unit: str) -> None:
    stopped = 0
    for seed in range(4):
        tokens, patient, folds = study(signal=0.0, seed=seed)
        training, test = outer_fold(folds, 0, 0)
        recordings, names = recordings_of(tokens, patient), list(test["sample_id"])
        majority = Majority.fit(None, task(unit), recordings, training, 0, Path()).predict(recordings, names)
        probe = fitted(Linear, tokens, patient, training, unit, learning_rates=[3e-2], weight_decays=[0.01])
        same = np.allclose(probe.predict(recordings, names), majority, rtol=0, atol=1e-6)
        search = probe.search()
        assert same == (search.loc[search["chosen"], "epoch"].item() == 0)
        stopped += same
    assert stopped >= 2


def test_a_search_that_only_diverges_is_an_error() -> None:
    tokens, patient, folds = study()
    with pytest.raises(SettingsError, match=r"diverged.*learning_rates"):
        fitted(Linear, tokens, patient, outer_fold(folds, 0, 0)[0], learning_rates=[1e39], weight_decays=[0.0])


# --- what a fit sees -------------------------------------------------------------------------------------------------


@BOTH
def test_only_training_videos_and_their_order_of_bits_decide_a_fit(method: type[Probe]) -> None:
    tokens, patient, folds = study()
    training, test = outer_fold(folds, 0, 1)
    honest, again = (fitted(method, tokens, patient, training) for _ in range(2))
    assert torch.equal(weights(honest), weights(again))
    victim = int(test["sample_id"].iloc[0][2:])
    tokens[victim] = 300 * np.random.default_rng(0).normal(size=(VIEWS, TOKENS, WIDTH))
    other = fitted(method, tokens, patient, training)
    assert torch.equal(weights(honest), weights(other))
    pd.testing.assert_frame_equal(honest.search(), other.search())


def test_tokens_that_do_not_fit_into_memory_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, patient, folds = study()
    training, _ = outer_fold(folds, 0, 0)
    kept = fitted(Attentive, tokens, patient, training)
    monkeypatch.setattr(selection, "KEPT_BYTES", 0)
    torch.testing.assert_close(weights(fitted(Attentive, tokens, patient, training)), weights(kept))


def test_features_that_are_missing_or_not_finite_are_named() -> None:
    tokens, patient, folds = study()
    with pytest.raises(DataError, match=r"lack 2 videos: s/046, s/045.*dvc repro embed"):
        recordings_of(tokens, patient).features[0].positions(["s/003", "s/046", "s/045"])
    training, _ = outer_fold(folds, 0, 0)
    name = training["sample_id"].iloc[3]
    tokens[int(name[2:]), 1, 3, 2] = np.inf
    with pytest.raises(DataError, match=f"not finite: {name}"):
        fitted(Linear, tokens, patient, training)


def normalised(tokens: np.ndarray) -> np.ndarray:
    tokens = tokens.astype(np.float16).astype(np.float64)
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + NORM_EPSILON)


def cohort(y: np.ndarray, patient: np.ndarray, inner: np.ndarray | None = None, by_patient: bool = False) -> Cohort:
    names = [f"s/{number:03d}" for number in range(len(y))]
    return Cohort(names, y, patient, np.zeros(len(y), int) if inner is None else inner, by_patient)


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_a_head_is_standardised_by_its_own_training_videos(kind: str) -> None:
    tokens, patient = study()[0][:12], np.arange(12) // 2
    own = cohort(np.arange(12) % 3, patient, np.arange(12) // 4)
    form = ProbeForm(kind=kind, width=WIDTH, classes=3, attention_head_width=8)
    inputs = Inputs(recordings_of(tokens, patient), own.sample_ids, form, batch=7)
    heads = inputs.heads(torch.from_numpy(np.stack([own.weights(fold) for fold in range(3)])), own, seed=0)
    for fold in range(3):
        mine = normalised(tokens)[own.inner != fold]
        mine = mine.mean(axis=2).reshape(-1, WIDTH) if kind == "linear" else mine.reshape(-1, WIDTH)
        np.testing.assert_allclose(heads.mean[fold], mine.mean(axis=0), rtol=0, atol=1e-4)
        np.testing.assert_allclose(heads.std[fold], mine.std(axis=0), rtol=1e-3, atol=1e-3)
    shares = torch.tensor([[2, 3, 3], [3, 2, 3], [3, 3, 2]], dtype=torch.float64) / 8
    torch.testing.assert_close(heads.classifier_bias.softmax(1).double(), shares, rtol=1e-5, atol=1e-6)
    lacking = cohort(np.minimum(own.y, 1), patient)
    start = inputs.heads(torch.ones(1, 12, dtype=torch.float64), lacking, seed=0).classifier_bias.softmax(1)[0]
    assert start.tolist() == pytest.approx([4 / 13, 8 / 13, 1 / 13]), "a class without videos counts as one"


def test_videos_are_weighed_and_scored_by_the_unit_of_decision() -> None:
    y, patient, inner = np.zeros(5, int), np.array([0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, -2])
    np.testing.assert_allclose(cohort(y, patient, inner).weights(), np.ones(5))
    mine = cohort(y, patient, inner, by_patient=True)
    np.testing.assert_allclose(mine.weights(), np.array([1, 1, 1, 3, 3]) * 5 / 9)
    np.testing.assert_allclose(mine.weights(held_out=1), np.array([1, 1, 1, 0, 3]) * 5 / 6)
    assert mine.folds.tolist() == [0, 1]
    p, y, patient = np.array([[[0.9, 0.1]], [[0.5, 0.5]], [[0.2, 0.8]]]), np.array([0, 0, 1]), np.array([7, 7, 3])
    assert unit_log_loss(p, y, np.arange(3)) == pytest.approx(-np.log([0.9, 0.5, 0.8]).mean())
    assert unit_log_loss(p, y, patient) == pytest.approx(-np.log([0.7, 0.8]).mean())


# --- what the fitted numbers agree with ------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["video", "patient"])
def test_the_linear_probe_converges_to_logistic_regression(unit: str) -> None:
    random = np.random.default_rng(2)
    patient = np.repeat(np.arange(90), random.integers(1, 4, size=90))
    y = patient % 3
    tokens = random.normal(size=(len(y), 1, 5, 12)) + 0.12 * random.normal(size=(3, 12))[y][:, None, None]
    recordings, own = recordings_of(tokens, patient), cohort(y, patient, by_patient=unit == "patient")
    inputs = Inputs(recordings, own.sample_ids, ProbeForm(kind="linear", width=12, classes=3), batch=256)
    chosen = Selection(learning_rate=3e-2, weight_decay=0.0, epochs=600, log_loss=0.0, fits=pd.DataFrame())
    probe = Linear(fit(inputs, own, ProbeSettings(batch=len(y)), chosen, seed=0), chosen.fits)
    x = normalised(tokens).mean(axis=(1, 2))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    even = 1 / np.bincount(patient)[patient] if unit == "patient" else None
    reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x, y, sample_weight=even)
    assert 0.45 < reference.score(x, y) < 0.95  # overlapping classes: the likelihood has a maximum
    p = probe.predict(recordings, own.sample_ids)
    np.testing.assert_allclose(p, reference.predict_proba(x), rtol=0, atol=2e-3)


def test_the_attentive_probe_finds_what_the_mean_dilutes_and_survives_the_disk(tmp_path: Path) -> None:
    tokens, patient, folds = study(signal=0.6, seed=1)
    training, test = outer_fold(folds, 0, 0)
    recordings, names, loss = recordings_of(tokens, patient), list(test["sample_id"]), {}
    for method in (Attentive, Linear):
        search = {"learning_rates": [1e-2], "weight_decays": [0.1], "epochs": 15}
        probe = fitted(method, tokens, patient, training, **search)
        p = probe.predict(recordings, names)
        loss[method] = unit_log_loss(p[:, None], test["y"].to_numpy(int), np.arange(len(test)))[0]
        (folder := tmp_path / method.__name__).mkdir()
        probe.save(folder)
        loaded = method.load(folder)
        assert np.array_equal(loaded.predict(recordings, names), p)
        maps = loaded.explain(recordings, names[0])
        assert maps.weights.shape == (VIEWS, TOKENS, 1, 1), "tokens on the encoder's grid"
        assert maps.signed == (method is Linear)
        if method is Attentive:
            np.testing.assert_allclose(maps.weights.mean(axis=(1, 2, 3)), 1, rtol=1e-6)  # 1 is an even share
            assert (maps.weights.argmax(axis=1) == 2).all(), "where the class shows"
    assert loss[Attentive] < 0.7 * loss[Linear]
    assert loss[Linear] < np.log(3)
