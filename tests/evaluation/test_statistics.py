"""Intervals and tests against naive loops, enumeration, published values and simulation under the null."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from echolung.core.errors import DataError
from echolung.evaluation import statistics
from echolung.kinds import metrics


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_resamples_keep_every_class_at_its_size_and_are_weights_of_patients() -> None:
    strata = np.array([0] * 9 + [1] * 33 + [2] * 31)
    counts = statistics.resample_counts(strata, 200, generator())
    for stratum in range(3):
        assert (counts[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()
    assert counts.var() == pytest.approx(1, abs=0.05)  # a multinomial with one trial per member
    patient, predicted = np.repeat(np.arange(20), 3), generator(1).integers(0, 2, 60)
    y = patient % 2
    counts = statistics.resample_counts(statistics.patient_strata(patient, y), 50, generator(1))
    fast = metrics.balanced_accuracy(metrics.confusion_matrix(y, predicted, 2, counts[:, patient]))
    for row, value in zip(counts.astype(int), fast, strict=True):
        copied = np.concatenate([np.flatnonzero(patient == p) for p, times in enumerate(row) for _ in range(times)])
        assert value == pytest.approx(balanced_accuracy_score(y[copied], predicted[copied]))
    # Patient 0 has two videos of class 1; patient 1 is tied, and class 0 has fewer patients (3 against 4).
    patient, y = np.array([0, 0, 0, 1, 1, 2, 3, 4]), np.array([1, 1, 0, 0, 1, 0, 1, 1])
    assert statistics.patient_strata(patient, y).tolist() == [1, 0, 0, 1, 1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, covered, studies, patient = generator(2), 0, 300, np.repeat(np.arange(60), 2)
    y = patient % 2
    strata = statistics.patient_strata(patient, y)
    for _ in range(studies):
        # A patient's videos are right or wrong together: intervals over videos would be too narrow.
        predicted = np.where(np.repeat(random.random(60) < 0.7, 2), y, 1 - y)
        counts = statistics.resample_counts(strata, 200, random)
        values = metrics.balanced_accuracy(metrics.confusion_matrix(y, predicted, 2, counts[:, patient]))
        low, high = statistics.percentile_interval(values)
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / studies <= 0.98
    low, high = statistics.percentile_interval(np.array([np.nan, *np.linspace(0, 1, 101)]))
    assert (low, high) == pytest.approx((0.025, 0.975)), "undefined resamples are left out"
    assert all(math.isnan(bound) for bound in statistics.percentile_interval(np.full(3, np.nan)))


def test_wilson_matches_scipy() -> None:
    for successes, trials in [(81, 263), (15, 148), (0, 20), (1, 29), (20, 20)]:
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert statistics.wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("patients", [1, 5, 9, 14])
def test_few_patients_are_enumerated_and_monte_carlo_agrees(patients: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.round(generator(patients).normal(0.3, 1, patients), 2)
    signs = np.array(list(itertools.product([-1, 1], repeat=patients)))
    expected = np.mean(np.abs(signs @ differences) / patients >= abs(differences.mean()) - 1e-9)
    result = statistics.sign_flip(differences, 10, generator())
    assert result == pytest.approx(expected)
    monkeypatch.setattr(statistics, "EXACT_PATIENTS", 0)
    sampled = statistics.sign_flip(differences, 20_000, generator())
    assert sampled == pytest.approx(expected, abs=0.01)


def test_the_permutation_test_keeps_its_size_with_skewed_losses_and_never_says_zero() -> None:
    random, rejected, studies = generator(5), 0, 600
    for _ in range(studies):
        # Exchangeable arms: two losses from one skewed distribution, patients of unequal difficulty.
        losses = random.exponential(1, (2, 30)) * random.gamma(1, 1, 30)
        rejected += statistics.sign_flip(losses[0] - losses[1], 199, random) <= 0.05
    assert 0.02 <= rejected / studies <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)
    assert statistics.sign_flip(np.ones(40), 999, generator()) == pytest.approx(1 / 1000)
    assert statistics.sign_flip(np.zeros(40), 999, generator()) == 1.0
    with pytest.raises(DataError, match="every patient"):
        statistics.sign_flip(np.array([0.1, np.nan]), 10, generator())


def test_the_test_of_recipes_keeps_its_size_where_seeds_vary_and_one_of_fixed_encoders_does_not() -> None:
    """3 pretrained against 5 untrained encoders of equal quality on average, 55 groups, skewed losses."""
    random, studies, rejected = generator(8), 400, np.zeros(2)
    for _ in range(studies):
        patients, recipes = random.gamma(2, 0.2, 55), random.gamma(2, 0.1, (2, 55))
        arms = [
            patients + recipe + 0.15 * random.normal(size=(seeds, 1)) + random.exponential(0.2, (seeds, 55))
            for seeds, recipe in zip((3, 5), recipes, strict=True)
        ]
        fixed = statistics.sign_flip(arms[0].mean(axis=0) - arms[1].mean(axis=0), 199, random)
        rejected += [statistics.two_way(*arms).p_value <= 0.05, fixed <= 0.05]
    assert rejected[0] / studies <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)
    assert rejected[1] / studies > 0.25


def test_the_test_of_recipes_is_welch_where_patients_do_not_differ() -> None:
    first, second = generator(1).normal(size=(4, 1)), generator(2).normal(0.5, 2, size=(6, 1))
    found = statistics.two_way(np.tile(first, 10), np.tile(second, 10))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert (found.difference, found.p_value) == pytest.approx(((first.mean() - second.mean()), expected.pvalue.item()))


def test_nadeau_bengio_by_hand() -> None:
    # mean 0.2, s^2 = 0.02 / 3; SE^2 = s^2 (1/4 + 1/4) = 0.01 / 3; t with 3 degrees of freedom.
    result, error = statistics.nadeau_bengio(np.array([0.1, 0.2, 0.2, 0.3]), 0.25), math.sqrt(0.01 / 3)
    assert (result.difference, result.standard_error) == pytest.approx((0.2, error))
    assert (result.low, result.high) == pytest.approx(stats.t.interval(0.95, 3, 0.2, error))
    assert result.p_value == pytest.approx(2 * stats.t.sf(0.2 / error, 3))


def test_delong_matches_the_printed_formulas_with_ties() -> None:
    random = generator(6)
    positive = random.random(40) < 0.4
    scores = [np.round(random.random(40) + shift * positive, 1) for shift in (0.6, 0.2)]
    # As printed in DeLong et al. 1988: every positive against every negative, a tie counts half.
    wins = [(np.sign(s[positive][:, None] - s[~positive]) + 1) / 2 for s in scores]
    of_positive, of_negative = (np.cov([table.mean(axis=axis) for table in wins]) for axis in (1, 0))
    contrast = np.array([1, -1])
    variance = contrast @ (of_positive / positive.sum() + of_negative / (~positive).sum()) @ contrast
    result = statistics.delong(positive, *scores)
    assert result.difference == pytest.approx(wins[0].mean() - wins[1].mean())
    assert result.standard_error == pytest.approx(math.sqrt(variance))
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(result.difference) / math.sqrt(variance)))
    assert statistics.delong(positive, scores[0], scores[0]).p_value == 1.0
    assert math.isnan(statistics.delong(np.arange(40) == 0, *scores).p_value), "one positive"


def test_holm_known_values() -> None:
    known = [([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]), ([0.6, 0.7], [1, 1]), ([0.02], [0.02]), ([], [])]
    for given, adjusted in known:
        assert statistics.holm(given) == pytest.approx(adjusted)
