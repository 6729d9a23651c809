"""Metrics against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from echolung.kinds import metrics


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_decisions_losses_and_rankings_match_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    y = np.append(np.arange(classes), generator.integers(0, classes, 90))
    # One decimal: ties between scores are common, as with the majority control.
    p = np.round(generator.dirichlet(np.ones(classes), len(y)) + 0.7 * np.eye(classes)[y], 1) + 0.01
    p /= p.sum(axis=1, keepdims=True)
    predicted, one_hot, once = p.argmax(axis=1), np.eye(classes)[y], np.ones((1, len(y)))
    confusion = metrics.confusion_matrix(y, predicted, classes, once)[0]
    assert (confusion == sklearn_metrics.confusion_matrix(y, predicted)).all()
    assert metrics.balanced_accuracy(confusion) == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, predicted))
    assert metrics.macro_f1(confusion) == pytest.approx(sklearn_metrics.f1_score(y, predicted, average="macro"))
    assert metrics.mcc(confusion) == pytest.approx(sklearn_metrics.matthews_corrcoef(y, predicted))
    assert metrics.sensitivity(confusion) == pytest.approx(sklearn_metrics.recall_score(y, predicted, average=None))
    for k, value in enumerate(metrics.specificity(confusion)):
        assert value == pytest.approx(sklearn_metrics.recall_score(y != k, predicted != k))
    assert metrics.log_losses(y, p).mean() == pytest.approx(sklearn_metrics.log_loss(y, p))
    brier = ((p - one_hot) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1)
    assert metrics.brier_scores(y, p).mean() == pytest.approx(brier)
    assert np.isfinite(metrics.log_losses(np.array([0]), np.array([[0.0, 1.0]]))).all(), "an impossible truth"
    for k in range(classes):
        area = metrics.auroc(y == k, p[:, k], once)[0]
        assert area == pytest.approx(sklearn_metrics.roc_auc_score(y == k, p[:, k]))
        precision = metrics.average_precision(y == k, p[:, k], once)[0]
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(y == k, p[:, k]))


def test_a_resample_may_lack_a_class() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert metrics.balanced_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)
    assert metrics.macro_f1(confusion) == pytest.approx((6 / 7 + 8 / 9) / 2)
    assert metrics.mcc(np.array([[5, 0], [5, 0]])) == 0.0
