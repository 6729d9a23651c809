"""Nested probing: what may be seen by whom, and against what the fitted numbers hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from echolung.core.errors import DataError, SettingsError
from echolung.data.splits import SplitSettings, folds_digest, make_folds, write_folds
from echolung.embedding.features import Features, FeaturesRecord, write_index
from echolung.evaluation.predictions import task_predictions
from echolung.kinds.task import Task
from echolung.methods.controls import control_predictions
from echolung.methods.probes import selection
from echolung.methods.probes.heads import NORM_EPSILON, ProbeForm, apply_probe, load_probe, save_probe
from echolung.methods.probes.probe import collect, fit_trial, outer_fold, probe_trial, refit
from echolung.methods.probes.selection import Cohort, Inputs, ProbeSettings, Selection, fit, select, unit_log_loss

torch.set_num_threads(1)

VIDEOS, PATIENTS, VIEWS, TOKENS, WIDTH, CLASSES = 45, 24, 2, 6, 16, 3
SMALL = ProbeSettings(
    learning_rates=[3e-3, 1e-2], weight_decays=[0.01, 0.5], epochs=4, batch=8, attention_head_width=8, seed=4
)
VIDEO_TASK = Task(source="s", label="l", kind="multiclass", classes=["a", "b", "c"], unit="video")
PATIENT_TASK = VIDEO_TASK.model_copy(update={"unit": "patient"})


def make_features(tokens: np.ndarray) -> Features:
    ids = [f"s/{index:03d}" for index in range(len(tokens))]
    record = FeaturesRecord(
        key="k", arm="jepa", seed=2, encoder_sha256="e", shape=tokens.shape, effective_rank=3.0, seen_in_pretraining=[]
    )
    columns = {"sample_id": ids, "sha256": ids, "finite": True, "std": 1.0, "seen_in_pretraining": False}
    return Features(record, pd.DataFrame(columns), tokens.astype(np.float16))


def make_study(signal: float = 1.0, seed: int = 0) -> tuple[Features, pd.DataFrame]:
    """Features whose class shows in one token of six, and folds of patients with 1 to 3 videos each."""
    random = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(PATIENTS), random.integers(PATIENTS, size=VIDEOS - PATIENTS)]))
    y = patient % CLASSES
    tokens = random.normal(size=(VIDEOS, VIEWS, TOKENS, WIDTH)) + 2 * random.normal(size=WIDTH)
    tokens[:, :, 2] += signal * 2.5 * random.normal(size=(CLASSES, WIDTH))[y][:, None]
    features = make_features(tokens)
    group = [f"p{index:02d}" for index in patient]
    table = features.videos[["sample_id"]].assign(patient_id=group, split_group=group, y=y)
    return features, make_folds(table, SplitSettings(outer=4, inner=3))


@pytest.fixture(scope="module")
def study() -> tuple[Features, pd.DataFrame]:
    return make_study()


def probabilities(predictions: pd.DataFrame) -> np.ndarray:
    return predictions[[f"p_{index}" for index in range(CLASSES)]].to_numpy()


def test_every_video_is_predicted_once_out_of_its_fold(study) -> None:
    features, folds = study
    results = [fit_trial(features, folds, 0, fold, "t", VIDEO_TASK, SMALL) for fold in range(4)]
    predictions = pd.concat([result.predictions for result in results])
    assert list(predictions.columns) == [
        *("task", "arm", "arm_seed", "probe", "repeat", "fold", "sample_id", "patient_id", "split_group", "y_true"),
        *("p_0", "p_1", "p_2", "seen_in_pretraining", "split_digest"),
    ]
    assert set(predictions["split_digest"]) == {folds_digest(folds)}
    assert set(zip(predictions["arm"], predictions["arm_seed"], strict=True)) == {("jepa", 2)}
    held = folds.set_index("sample_id")
    for _, mine in predictions.groupby("probe"):
        assert sorted(mine["sample_id"]) == sorted(folds["sample_id"])
        assert (mine["fold"].to_numpy() == held.loc[mine["sample_id"], "fold"]).all()
        assert (mine["y_true"].to_numpy() == held.loc[mine["sample_id"], "y"]).all()
    checked = task_predictions(predictions, "t", VIDEO_TASK)  # raises where the contract is broken
    assert set(checked.probabilities) == {("jepa", "attentive"), ("jepa", "linear")}


def test_labels_of_the_outer_fold_reach_nothing(study) -> None:
    features, folds = study
    poisoned = folds.copy()
    held_out = poisoned["fold"] == 1
    poisoned.loc[held_out, "y"] = (poisoned.loc[held_out, "y"] + 1) % CLASSES
    honest = fit_trial(features, folds, 0, 1, "t", PATIENT_TASK, SMALL)
    other = fit_trial(features, poisoned, 0, 1, "t", PATIENT_TASK, SMALL)
    assert (honest.predictions["y_true"] != other.predictions["y_true"]).all()
    assert np.array_equal(probabilities(honest.predictions), probabilities(other.predictions))
    pd.testing.assert_frame_equal(honest.fits, other.fits)


def test_videos_of_the_outer_fold_reach_no_statistics_and_no_other_video(study) -> None:
    features, folds = study
    _, test = outer_fold(folds, 0, 1)
    victim = test["sample_id"].iloc[0]
    tokens = features.tokens.copy()
    tokens[features.positions([victim])] = 300 * np.random.default_rng(0).normal(size=(VIEWS, TOKENS, WIDTH))
    honest = fit_trial(features, folds, 0, 1, "t", VIDEO_TASK, SMALL)
    other = fit_trial(make_features(tokens), folds, 0, 1, "t", VIDEO_TASK, SMALL)
    same = (honest.predictions["sample_id"] != victim).to_numpy()
    p, q = probabilities(honest.predictions), probabilities(other.predictions)
    assert np.array_equal(p[same], q[same])
    assert not np.array_equal(p[~same], q[~same])
    pd.testing.assert_frame_equal(honest.fits, other.fits)


def test_the_choice_is_the_lowest_mean_inner_log_loss(study) -> None:
    features, folds = study
    fits = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL).fits
    assert len(fits) == 2 * 4 * (SMALL.epochs + 1)
    inner = fits[["log_loss_0", "log_loss_1", "log_loss_2"]]
    np.testing.assert_allclose(fits["log_loss"], inner.mean(axis=1), rtol=1e-12)
    for _, mine in fits.groupby("probe"):
        assert mine["chosen"].sum() == 1
        assert mine.loc[mine["chosen"], "log_loss"].item() == mine["log_loss"].min()


@pytest.mark.parametrize("task", [VIDEO_TASK, PATIENT_TASK], ids=["video", "patient"])
def test_a_search_that_finds_nothing_ends_at_the_majority(task: Task) -> None:
    stopped = 0
    overfitting = SMALL.model_copy(update={"learning_rates": [3e-2], "weight_decays": [0.01]})
    for seed in range(3):
        features, folds = make_study(signal=0.0, seed=seed)
        frequencies = control_predictions(folds, "t", task, {}).predictions
        for fold in range(4):
            result = fit_trial(features, folds, 0, fold, "t", task, overfitting)
            majority = frequencies[(frequencies["repeat"] == 0) & (frequencies["fold"] == fold)]
            for probe, fits in result.fits.groupby("probe"):
                assert set(fits["epoch"]) == set(range(overfitting.epochs + 1))
                found = probabilities(result.predictions[result.predictions["probe"] == probe])
                same = np.allclose(found, probabilities(majority), rtol=0, atol=1e-6)
                assert same == (fits.loc[fits["chosen"], "epoch"].item() == 0)
                stopped += same
    assert stopped >= 8  # of 24


def test_a_search_that_finds_something_goes_on(study) -> None:
    features, folds = study
    fits = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL).fits
    assert (fits.loc[fits["chosen"], "epoch"] > 0).all()
    start = fits.loc[fits["epoch"] == 0, "log_loss"]
    assert np.ptp(start) < 1e-6  # the class frequencies, whatever the configuration and the probe


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_a_configuration_scores_the_same_alone_as_in_the_grid(study, kind: str) -> None:
    features, folds = study
    together = fit_trial(features, folds, 0, 2, "t", PATIENT_TASK, SMALL.model_copy(update={"kinds": [kind]})).fits
    for (rate, decay), mine in together.groupby(["learning_rate", "weight_decay"]):
        one = SMALL.model_copy(update={"kinds": [kind], "learning_rates": [rate], "weight_decays": [decay]})
        alone = fit_trial(features, folds, 0, 2, "t", PATIENT_TASK, one).fits
        columns = ["log_loss", "log_loss_0", "log_loss_1", "log_loss_2"]
        np.testing.assert_allclose(mine[columns], alone[columns], rtol=0, atol=1e-5)


def make_inputs(features: Features, kind: str, positions: np.ndarray) -> Inputs:
    form = ProbeForm(kind=kind, width=features.tokens.shape[-1], classes=CLASSES, attention_head_width=8)
    return Inputs(features, positions, form, batch=7)


def normalised(tokens: np.ndarray) -> np.ndarray:
    tokens = tokens.astype(np.float64)
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + NORM_EPSILON)


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_a_head_is_standardised_by_its_own_training_videos_alone(study, kind: str) -> None:
    features, _ = study
    positions = np.arange(4, 16)
    cohort = Cohort(np.arange(12), np.arange(12) % 3, np.arange(12) // 2, np.arange(12) // 4)
    weights = torch.from_numpy(np.stack([cohort.weights("video", fold) for fold in range(3)]))
    heads = make_inputs(features, kind, positions).heads(weights, cohort, seed=0)
    x = normalised(features.tokens[positions])
    for fold in range(3):
        mine = x[cohort.inner != fold]
        mine = mine.mean(axis=2).reshape(-1, WIDTH) if kind == "linear" else mine.reshape(-1, WIDTH)
        np.testing.assert_allclose(heads.mean[fold], mine.mean(axis=0), rtol=0, atol=1e-4)
        np.testing.assert_allclose(heads.std[fold], mine.std(axis=0), rtol=1e-3, atol=1e-3)
    shares = torch.tensor([[2, 3, 3], [3, 2, 3], [3, 3, 2]], dtype=torch.float64) / 8
    torch.testing.assert_close(heads.classifier_bias.softmax(1).double(), shares, rtol=1e-5, atol=1e-6)
    lacking = Cohort(cohort.places, np.minimum(cohort.y, 1), cohort.patient, cohort.inner)
    heads = make_inputs(features, kind, positions).heads(torch.ones(1, 12, dtype=torch.float64), lacking, seed=0)
    assert heads.classifier_bias.softmax(1)[0].tolist() == pytest.approx([4 / 13, 8 / 13, 1 / 13])


def test_weights_of_videos_by_unit() -> None:
    cohort = Cohort(np.arange(5), np.zeros(5, int), np.array([0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 2]))
    np.testing.assert_allclose(cohort.weights("video"), np.ones(5))
    np.testing.assert_allclose(cohort.weights("patient"), np.array([1, 1, 1, 3, 3]) * 5 / 9)
    np.testing.assert_allclose(cohort.weights("patient", held_out=1), np.array([1, 1, 1, 0, 3]) * 5 / 6)
    assert cohort.weights("patient", held_out=0)[:3].sum() == 0


@pytest.mark.parametrize("unit", ["video", "patient"])
def test_linear_probe_converges_to_logistic_regression(unit: str) -> None:
    random = np.random.default_rng(2)
    patient = np.repeat(np.arange(90), random.integers(1, 4, size=90))
    y = patient % CLASSES
    shift = 0.12 * random.normal(size=(CLASSES, 12))
    features = make_features(random.normal(size=(len(y), 1, 5, 12)) + shift[y][:, None, None])
    inputs = Inputs(features, np.arange(len(y)), ProbeForm(kind="linear", width=12, classes=CLASSES), batch=256)
    cohort = Cohort(np.arange(len(y)), y, patient, np.zeros(len(y), int))
    settings = ProbeSettings(batch=len(y))
    chosen = Selection(learning_rate=3e-2, weight_decay=0.0, epochs=600, log_loss=0.0, fits=pd.DataFrame())
    p = inputs.predict(fit(inputs, cohort, unit, settings, chosen, seed=0), np.arange(len(y)))
    x = normalised(features.tokens).mean(axis=(1, 2))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    weights = 1 / np.bincount(patient)[patient] if unit == "patient" else None
    reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x, y, sample_weight=weights)
    assert 0.45 < reference.score(x, y) < 0.95  # overlapping classes: the maximum of the likelihood exists
    np.testing.assert_allclose(p, reference.predict_proba(x), rtol=0, atol=2e-3)


def test_log_loss_is_of_the_unit_of_decision() -> None:
    p = np.array([[[0.9, 0.1]], [[0.5, 0.5]], [[0.2, 0.8]]])
    y, patient = np.array([0, 0, 1]), np.array([7, 7, 3])
    assert unit_log_loss(p, y, np.arange(3)) == pytest.approx(-np.log([0.9, 0.5, 0.8]).mean())
    assert unit_log_loss(p, y, patient) == pytest.approx(-np.log([0.7, 0.8]).mean())


def test_the_attentive_probe_finds_what_the_mean_dilutes() -> None:
    features, folds = make_study(signal=0.6, seed=1)
    settings = ProbeSettings(learning_rates=[1e-2], weight_decays=[0.1], epochs=15, batch=8, attention_head_width=8)
    predictions = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, settings).predictions
    loss = {
        probe: unit_log_loss(probabilities(mine)[:, None], mine["y_true"].to_numpy(), np.arange(len(mine))).item()
        for probe, mine in predictions.groupby("probe")
    }
    assert loss["attentive"] < 0.7 * loss["linear"]
    assert loss["linear"] < np.log(CLASSES)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(study) -> None:
    features, folds = study
    first, second = (fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL) for _ in range(2))
    pd.testing.assert_frame_equal(first.predictions, second.predictions, check_exact=True)
    pd.testing.assert_frame_equal(first.fits, second.fits, check_exact=True)
    other = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL.model_copy(update={"seed": 5}))
    assert not np.array_equal(probabilities(first.predictions), probabilities(other.predictions))


def test_tokens_that_do_not_fit_in_memory_give_the_same_answer(study, monkeypatch) -> None:
    features, folds = study
    kept = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL)
    monkeypatch.setattr(selection, "KEPT_BYTES", 0)
    streamed = fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, SMALL)
    np.testing.assert_allclose(probabilities(kept.predictions), probabilities(streamed.predictions), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(study, value: float) -> None:
    features, folds = study
    for fold in (0, 1):  # as training videos of one fold and as test videos of the other
        tokens = features.tokens.copy()
        row = folds[folds["fold"] == 0]["sample_id"].iloc[0]
        tokens[features.positions([row])[0], 1, 3, 2] = value
        with pytest.raises(DataError, match=f"not finite: {row}"):
            fit_trial(make_features(tokens), folds, 0, fold, "t", VIDEO_TASK, SMALL)


def test_videos_without_features_are_named(study) -> None:
    features, folds = study
    fewer = make_features(features.tokens[:-2])
    with pytest.raises(DataError, match=r"lack 2 videos: s/04[34], s/04[34]"):
        fit_trial(fewer, folds, 0, 0, "t", VIDEO_TASK, SMALL)


def test_a_fold_that_the_split_lacks_is_an_error(study) -> None:
    features, folds = study
    for repeat, fold in ((0, 4), (1, 0)):
        with pytest.raises(DataError, match=f"no outer fold {fold} in repeat {repeat}"):
            fit_trial(features, folds, repeat, fold, "t", VIDEO_TASK, SMALL)


def test_a_search_that_only_diverges_is_an_error(study) -> None:
    features, folds = study
    wild = SMALL.model_copy(update={"learning_rates": [1e39], "weight_decays": [0.0]})
    with pytest.raises(SettingsError, match="diverged"):
        fit_trial(features, folds, 0, 0, "t", VIDEO_TASK, wild)


def save_store(features: Features, directory: Path) -> None:
    directory.mkdir()
    np.save(directory / "tokens.npy", features.tokens)
    write_index(directory, features.record, features.videos)


def test_a_trial_in_another_process_takes_and_gives_plain_values(study, tmp_path) -> None:
    features, folds = study
    save_store(features, tmp_path / "seed2")
    write_folds(tmp_path / "t.csv", folds)
    configuration = {
        "features": str(tmp_path / "seed2"),
        "folds": str(tmp_path / "t.csv"),
        "repeat": 0,
        "fold": 3,
        "name": "t",
        "task": PATIENT_TASK.model_dump(),
        "settings": SMALL.model_dump(),
    }
    result = pickle.loads(pickle.dumps(probe_trial(configuration)))
    found, expected = collect([result]), fit_trial(features, folds, 0, 3, "t", PATIENT_TASK, SMALL)
    pd.testing.assert_frame_equal(found.predictions, expected.predictions, check_dtype=False)
    pd.testing.assert_frame_equal(found.fits, expected.fits, check_dtype=False)


def test_refit_runs_the_inner_selection_on_all_patients(study, tmp_path) -> None:
    features, folds = study
    probe, record = refit(features, folds, "t", PATIENT_TASK, SMALL, "attentive")
    cohort = Cohort(
        np.arange(VIDEOS),
        folds["y"].to_numpy(),
        pd.factorize(folds["patient_id"])[0],
        folds["fold"].to_numpy(),
    )
    inputs = make_inputs(features, "attentive", features.positions(folds["sample_id"]))
    chosen = select(inputs, cohort, "patient", SMALL, record.seed)
    assert (record.learning_rate, record.weight_decay, record.epochs) == (
        chosen.learning_rate,
        chosen.weight_decay,
        chosen.epochs,
    )
    assert {"log_loss_0", "log_loss_1", "log_loss_2", "log_loss_3"} <= set(chosen.fits.columns)
    assert (record.videos, record.patients, record.views, record.arm) == (VIDEOS, PATIENTS, VIEWS, "jepa")
    assert record.inner_log_loss == pytest.approx(chosen.fits["log_loss"].min(), abs=1e-6)
    save_probe(tmp_path / "probe", probe, record)
    loaded, _ = load_probe(tmp_path / "probe")
    p = apply_probe(loaded, torch.from_numpy(features.tokens))
    assert p.shape == (VIDEOS, CLASSES)
    y = folds.set_index("sample_id").loc[features.videos["sample_id"], "y"].to_numpy()
    assert (p.argmax(dim=1).numpy() == y).mean() > 0.8
