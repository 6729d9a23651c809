"""Intervals and tests against naive loops, enumeration, published values and simulation under the null."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from echolung.core.errors import DataError
from echolung.evaluation import statistics
from echolung.kinds import metrics


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- bootstrap -------------------------------------------------------------------------------------------------------


def test_resamples_keep_every_class_at_its_size() -> None:
    strata = np.array([0] * 9 + [1] * 33 + [2] * 31)
    counts = statistics.resample_counts(strata, 200, generator())
    for stratum in range(3):
        assert (counts[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()
    assert counts.mean() == 1
    assert counts.var() == pytest.approx(1, abs=0.05)  # a multinomial with one trial per member


def test_counts_give_what_copying_rows_gives() -> None:
    random = generator(1)
    patient = np.repeat(np.arange(20), 3)
    y = np.repeat(np.arange(20) % 2, 3)
    predicted = random.integers(0, 2, 60)
    counts = statistics.resample_counts(statistics.patient_strata(patient, y), 50, random)
    fast = metrics.balanced_accuracy(metrics.confusion_matrix(y, predicted, 2, counts[:, patient]))
    for row, value in zip(counts.astype(int), fast, strict=True):
        rows = np.concatenate([np.flatnonzero(patient == p) for p, times in enumerate(row) for _ in range(times)])
        assert value == pytest.approx(balanced_accuracy_score(y[rows], predicted[rows]))


def test_a_patient_with_two_labels_is_resampled_with_his_commoner_or_else_the_scarcer_class() -> None:
    patient = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    y = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    # Patient 0 has two videos of class 1; patient 1 is tied, and class 0 has fewer patients (3 against 4).
    assert statistics.patient_strata(patient, y).tolist() == [1, 0, 0, 1, 1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, covered, studies = generator(2), 0, 300
    patient, y = np.repeat(np.arange(60), 2), np.repeat(np.arange(60) % 2, 2)
    strata = statistics.patient_strata(patient, y)
    for _ in range(studies):
        # A patient's videos are right or wrong together: intervals over videos would be too narrow.
        right = np.repeat(random.random(60) < 0.7, 2)
        counts = statistics.resample_counts(strata, 200, random)
        predicted = np.where(right, y, 1 - y)
        values = metrics.balanced_accuracy(metrics.confusion_matrix(y, predicted, 2, counts[:, patient]))
        low, high = statistics.percentile_interval(values)
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / studies <= 0.98


def test_undefined_resamples_are_left_out_of_an_interval() -> None:
    low, high = statistics.percentile_interval(np.array([np.nan, *np.linspace(0, 1, 101)]))
    assert (low, high) == pytest.approx((0.025, 0.975))
    assert all(math.isnan(bound) for bound in statistics.percentile_interval(np.full(3, np.nan)))


# --- Wilson ----------------------------------------------------------------------------------------------------------


def test_wilson_known_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
    assert statistics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert statistics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert statistics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert statistics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert statistics.wilson_interval(20, 20)[1] == 1.0
    assert math.isnan(statistics.wilson_interval(0, 0)[0])


# --- sign-flip permutation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patients", [1, 5, 9])
def test_few_patients_are_enumerated(patients: int) -> None:
    differences = np.round(generator(patients).normal(0.3, 1, patients), 2)
    means = [abs(np.dot(signs, differences)) / patients for signs in itertools.product([-1, 1], repeat=patients)]
    expected = np.mean([mean >= abs(differences.mean()) - 1e-9 for mean in means])
    result = statistics.sign_flip(differences, 10, generator())
    assert result.exact
    assert result.p_value == pytest.approx(expected)
    assert result.statistic == pytest.approx(differences.mean())


def test_monte_carlo_agrees_with_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = generator(4).normal(0.4, 1, 14)
    exact = statistics.sign_flip(differences, 0, generator())
    monkeypatch.setattr(statistics, "EXACT_PATIENTS", 1)
    sampled = statistics.sign_flip(differences, 20_000, generator())
    assert exact.exact
    assert not sampled.exact
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.01)


def test_monte_carlo_never_says_zero_and_equal_arms_give_one() -> None:
    assert statistics.sign_flip(np.ones(40), 999, generator()).p_value == pytest.approx(1 / 1000)
    assert statistics.sign_flip(np.zeros(40), 999, generator()).p_value == 1.0


def test_size_under_the_null_with_skewed_losses() -> None:
    random, rejected, studies = generator(5), 0, 600
    for _ in range(studies):
        # Exchangeable arms: two losses from one skewed distribution, patients of unequal difficulty.
        losses = random.exponential(1, (2, 30)) * random.gamma(1, 1, 30)
        rejected += statistics.sign_flip(losses[0] - losses[1], 199, random).p_value <= 0.05
    assert rejected / studies <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)
    assert rejected / studies >= 0.02  # and not by never rejecting


def test_a_patient_without_a_difference_is_an_error() -> None:
    with pytest.raises(DataError, match="every patient"):
        statistics.sign_flip(np.array([0.1, np.nan]), 10, generator())


# --- Nadeau-Bengio, DeLong, Holm -------------------------------------------------------------------------------------


def test_nadeau_bengio_by_hand() -> None:
    # mean 0.2, s^2 = 0.02 / 3; SE^2 = s^2 (1/4 + 1/4) = 0.01 / 3; t with 3 degrees of freedom: 3.182446 at 97.5%.
    result = statistics.nadeau_bengio(np.array([0.1, 0.2, 0.2, 0.3]), 0.25)
    error = math.sqrt(0.01 / 3)
    assert result.difference == pytest.approx(0.2)
    assert result.standard_error == pytest.approx(error)
    assert (result.low, result.high) == pytest.approx((0.2 - 3.182446 * error, 0.2 + 3.182446 * error), abs=1e-6)
    assert result.p_value == pytest.approx(0.0406, abs=5e-4)
    assert math.isnan(statistics.nadeau_bengio(np.array([0.1]), 0.25).standard_error)


def naive_delong(positive: np.ndarray, scores: list[np.ndarray]) -> tuple[list[float], float]:
    """The formulas of DeLong et al. 1988 as printed, O(n^2): areas and the variance of their difference."""

    def wins(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    tables = [np.array([[wins(x, y) for y in s[~positive]] for x in s[positive]]) for s in scores]
    areas = [float(table.mean()) for table in tables]
    m, n = tables[0].shape
    s10, s01 = np.zeros((2, 2)), np.zeros((2, 2))
    for a, b in itertools.product(range(2), range(2)):
        s10[a, b] = ((tables[a].mean(1) - areas[a]) * (tables[b].mean(1) - areas[b])).sum() / (m - 1)
        s01[a, b] = ((tables[a].mean(0) - areas[a]) * (tables[b].mean(0) - areas[b])).sum() / (n - 1)
    contrast = np.array([1, -1])
    return areas, float(contrast @ (s10 / m + s01 / n) @ contrast)


def test_delong_matches_the_printed_formulas_with_ties() -> None:
    random = generator(6)
    positive = random.random(40) < 0.4
    scores = [np.round(random.random(40) + shift * positive, 1) for shift in (0.6, 0.2)]
    areas, variance = naive_delong(positive, scores)
    result = statistics.delong(positive, *scores)
    assert result.difference == pytest.approx(areas[0] - areas[1])
    assert result.standard_error == pytest.approx(math.sqrt(variance))
    assert result.p_value == pytest.approx(math.erfc(abs(result.difference) / math.sqrt(variance) / math.sqrt(2)))


def test_delong_of_equal_scores_and_of_too_few_patients() -> None:
    positive, score = np.array([True, True, False, False]), np.array([0.9, 0.2, 0.4, 0.1])
    assert statistics.delong(positive, score, score).p_value == 1.0
    assert math.isnan(statistics.delong(np.array([True, False, False, False]), score, score).p_value)


def test_holm_known_values() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([0.02]) == pytest.approx([0.02])
    assert statistics.holm([]).size == 0
