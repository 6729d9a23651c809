"""Metrics against scikit-learn, weights against repeated rows, and within-fold means against the pooled value."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from echolung.kinds import metrics


@pytest.fixture(params=[2, 3, 4], ids=["two classes", "three classes", "four classes"])
def scored(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(request.param)
    y = np.append(np.arange(request.param), generator.integers(0, request.param, 90))
    # One decimal: ties between scores are common, as with the majority control.
    p = np.round(generator.dirichlet(np.ones(request.param), len(y)) + 0.7 * np.eye(request.param)[y], 1) + 0.01
    return y, p / p.sum(axis=1, keepdims=True)


def ones(y: np.ndarray) -> np.ndarray:
    return np.ones((1, len(y)))


def test_decisions_match_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scored
    predicted = p.argmax(axis=1)
    confusion = metrics.confusion_matrix(y, predicted, p.shape[1])
    assert (confusion == sklearn_metrics.confusion_matrix(y, predicted)).all()
    assert metrics.balanced_accuracy(confusion) == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, predicted))
    assert metrics.macro_f1(confusion) == pytest.approx(sklearn_metrics.f1_score(y, predicted, average="macro"))
    assert metrics.mcc(confusion) == pytest.approx(sklearn_metrics.matthews_corrcoef(y, predicted))
    assert metrics.sensitivity(confusion) == pytest.approx(
        sklearn_metrics.recall_score(y, predicted, average=None), abs=1e-12
    )
    for k, value in enumerate(metrics.specificity(confusion)):
        assert value == pytest.approx(sklearn_metrics.recall_score(y != k, predicted != k))


def test_losses_match_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scored
    assert metrics.log_losses(y, p).mean() == pytest.approx(sklearn_metrics.log_loss(y, p))
    reference = (
        sklearn_metrics.brier_score_loss(y, p[:, 1])
        if p.shape[1] == 2
        else np.mean([((row - np.eye(p.shape[1])[k]) ** 2).sum() for row, k in zip(p, y, strict=True)])
    )
    assert metrics.brier_scores(y, p).mean() == pytest.approx(reference)


def test_log_loss_of_an_impossible_truth_is_finite() -> None:
    loss = metrics.log_losses(np.array([0]), np.array([[0.0, 1.0]]))
    assert loss[0] == pytest.approx(-np.log(metrics.SMALLEST_PROBABILITY))


def test_rankings_match_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scored
    for k in range(p.shape[1]):
        area = metrics.auroc(y == k, p[:, k], ones(y))[0]
        assert area == pytest.approx(sklearn_metrics.roc_auc_score(y == k, p[:, k]))
        precision = metrics.average_precision(y == k, p[:, k], ones(y))[0]
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(y == k, p[:, k]))
    in_one_fold, undefined = metrics.within_folds(metrics.auroc, y, p, np.zeros(len(y)), ones(y))
    whole = p[:, 1] if p.shape[1] == 2 else p
    assert in_one_fold[0] == pytest.approx(sklearn_metrics.roc_auc_score(y, whole, multi_class="ovr"))
    assert undefined == 0


def test_a_weight_is_a_repeated_row(scored: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scored
    counts = np.random.default_rng(1).integers(0, 4, (5, len(y)))
    predicted = p.argmax(axis=1)
    confusions = metrics.confusion_matrix(y, predicted, p.shape[1], counts)
    for row, confusion in zip(counts, confusions, strict=True):
        repeated = np.repeat(np.arange(len(y)), row)
        assert (confusion == metrics.confusion_matrix(y[repeated], predicted[repeated], p.shape[1])).all()
    for ranking in metrics.RANKINGS.values():
        values = ranking(y == 1, p[:, 1], counts)
        for row, value in zip(counts, values, strict=True):
            repeated = np.repeat(np.arange(len(y)), row)
            again = ranking(y[repeated] == 1, p[repeated, 1], np.ones((1, len(repeated))))[0]
            assert value == pytest.approx(again)


def test_within_fold_mean_is_the_mean_of_each_folds_value() -> None:
    generator = np.random.default_rng(0)
    y, folds = np.tile([0, 0, 1, 1, 2, 2], 5), np.repeat(np.arange(5), 6)
    p = generator.dirichlet(np.ones(3), 30)
    value, _ = metrics.within_folds(metrics.auroc, y, p, folds, ones(y))
    by_hand = [
        sklearn_metrics.roc_auc_score(y[folds == fold] == k, p[folds == fold, k]) for fold in range(5) for k in range(3)
    ]
    assert value[0] == pytest.approx(np.mean(by_hand))


def test_pooling_folds_of_another_scale_spoils_auroc_and_the_mean_does_not() -> None:
    # Each fold ranks perfectly; the second fold's model is more generous with everybody.
    y, folds = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.repeat([0, 1], 4)
    positive = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    p = np.stack([1 - positive, positive], axis=1)
    assert sklearn_metrics.roc_auc_score(y, positive) == pytest.approx(0.75)
    assert metrics.within_folds(metrics.auroc, y, p, folds, ones(y))[0][0] == 1.0


def test_folds_without_a_class_are_left_out_and_counted() -> None:
    y, folds = np.array([0, 0, 1, 1, 0, 0, 0]), np.array([0, 0, 0, 0, 1, 1, 1])
    positive = np.array([0.1, 0.4, 0.3, 0.9, 0.5, 0.5, 0.5])
    p = np.stack([1 - positive, positive], axis=1)
    value, undefined = metrics.within_folds(metrics.auroc, y, p, folds, ones(y))
    assert value[0] == pytest.approx(0.75)
    assert undefined == 1
    never, undefined = metrics.within_folds(metrics.auroc, np.zeros(7, dtype=int), p, folds, ones(y))
    assert np.isnan(never[0])
    assert undefined == 2


def test_a_class_missing_from_a_resample_is_left_out_of_the_means() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert metrics.balanced_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)
    assert metrics.macro_f1(confusion) == pytest.approx((6 / 7 + 8 / 9) / 2)
    assert metrics.mcc(np.array([[5, 0], [5, 0]])) == 0.0


def test_roc_points_match_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scored
    false_rate, true_rate = metrics.roc_points(y == 1, p[:, 1])
    expected = sklearn_metrics.roc_curve(y == 1, p[:, 1], drop_intermediate=False)
    assert false_rate == pytest.approx(expected[0])
    assert true_rate == pytest.approx(expected[1])


def test_the_area_under_a_mean_curve_is_the_mean_area() -> None:
    generator = np.random.default_rng(3)
    curves, areas = [], []
    for _ in range(8):
        y = np.append([0, 1], generator.integers(0, 2, 12))
        score = np.round(generator.random(14) + 0.3 * y, 1)
        curves.append(metrics.roc_points(y == 1, score))
        areas.append(sklearn_metrics.roc_auc_score(y, score))
    assert sklearn_metrics.auc(*metrics.mean_roc(curves)) == pytest.approx(np.mean(areas), abs=0.0025)  # half a step
