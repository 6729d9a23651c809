"""Intervals and tests whose unit is the patient: videos of one patient are not independent.

Dimensions: P patients, B resamples, n units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # not scipy.stats: it takes a second to import, and every stage would pay it

from echolung.core.errors import DataError

LEVEL = 0.95  # coverage of every interval
EXACT_PATIENTS = 16  # up to here the permutation test takes all sign patterns (2^15: mirrored ones have one |mean|)


def patient_strata(patient: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The class each patient is resampled with: patient (n,) index 0..P-1, y (n,) class -> (P,).
    A patient with several labels counts as the most frequent one; a tie goes to the class with the fewest patients,
    which a resample can least afford to lose."""
    patients, classes = int(patient.max()) + 1, int(y.max()) + 1
    units = np.zeros((patients, classes))
    np.add.at(units, (patient, y), 1)
    carriers = (units > 0).sum(axis=0)
    return np.argmax(units - carriers / (patients + 1), axis=1)


def resample_counts(strata: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each patient is drawn in each stratified bootstrap resample: (P,) classes -> (B, P) float.
    Every stratum keeps its number of patients (Efron & Tibshirani 1993, chapters 6 and 8). As weights, the counts give
    any metric's resampled values without copying a row."""
    counts = np.zeros((resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        counts[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return counts


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95% of resampled values (B,), NaN left out (Efron & Tibshirani 1993, chapter 13)."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927, doi 10.1080/01621459.1927.10502953).
    (p + z^2/2n +- z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n). `successes` may be a mean over random draws."""
    z = float(special.ndtri((1 + LEVEL) / 2))
    share, spread = successes / trials, z * z / trials
    margin = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low, high = ((share + spread / 2 + sign * margin) / (1 + spread) for sign in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


def sign_flip(differences: np.ndarray, permutations: int, generator: np.random.Generator) -> float:
    """The p-value of the two-sided paired sign-flip test of mean(differences) = 0, one per patient or group (P,).

    A difference is the mean over all units, repeats and random draws, so one flip turns all of them together: under the
    null the two arms are exchangeable within a patient (Fisher 1935; Good 2005, chapter 3). Exact up to EXACT_PATIENTS,
    else Monte Carlo with p = (1 + hits) / (1 + permutations) (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585).

    With equal numbers of draws on both sides the size is exact; one draw against the mean of three is only nearly
    symmetric (simulated size 5.4% to 6.0% at 5% with exponential losses of 36 to 73 patients).
    """
    patients = len(differences)
    if not np.isfinite(differences).all():
        raise DataError("the permutation test needs a finite difference for every patient", "Check the predictions.")
    observed = abs(differences.mean())
    # Sums in another order differ in the last digits: what equals the observed value must count as reaching it.
    threshold = observed - 1e-12 * max(1.0, np.abs(differences).max())
    if patients <= EXACT_PATIENTS:
        patterns = np.arange(2 ** (patients - 1))[:, None] >> np.arange(patients)[None, :] & 1
        means = np.abs((1 - 2 * patterns) @ differences) / patients
        return float((means >= threshold).mean())
    hits, step = 0, max(1, 4_000_000 // patients)
    for start in range(0, permutations, step):
        flips = generator.integers(0, 2, (min(step, permutations - start), patients), dtype=np.int8)
        means = np.abs(differences.sum() - 2 * (flips @ differences)) / patients
        hits += int((means >= threshold).sum())
    return (1 + hits) / (1 + permutations)


@dataclass(frozen=True)
class Estimate:
    """A difference with its standard error, 95% interval and two-sided p-value."""

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float


def nadeau_bengio(differences: np.ndarray, test_over_train: float) -> Estimate:
    """Corrected resampled t-test of cross-validated differences, one per (repeat, fold): (J,), J > 1.
    SE^2 = s^2 (1/J + n_test/n_train) with J - 1 degrees of freedom: training sets overlap, and s^2/J alone would
    pretend they do not (Nadeau & Bengio 2003, doi 10.1023/A:1024068626366)."""
    count = len(differences)
    error = float(np.sqrt(differences.var(ddof=1) * (1 / count + test_over_train)))
    return _estimate(float(differences.mean()), error, count - 1)


def delong(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> Estimate:
    """DeLong's test of two correlated AUROCs (first minus second), one score per patient in each.
    The variance is that of the placement values; fast form by midranks (DeLong et al. 1988, doi 10.2307/2531595; Sun &
    Xu 2014, doi 10.1109/LSP.2014.2337313). positive (P,) bool, scores (P,). NaN with under two on either side."""
    if min(positive.sum(), (~positive).sum()) < 2:
        return Estimate(*(float("nan"),) * 5)
    (area_a, of_positive_a, of_negative_a), (area_b, of_positive_b, of_negative_b) = (
        _placements(positive, score) for score in (first, second)
    )
    variance = np.var(of_positive_a - of_positive_b, ddof=1) / positive.sum()
    variance += np.var(of_negative_a - of_negative_b, ddof=1) / (~positive).sum()
    return _estimate(area_a - area_b, float(np.sqrt(variance)), np.inf)


def two_way(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Difference of two recipes, first minus second, over their seeds and over patients: losses (S, G) and (S', G).
    Seeds of both sides and patients are samples: the variance is that of the groups' differences plus that of the means
    of the seeds on each side, the degrees of freedom Satterthwaite's (1946, Biometrics Bulletin 2). A test that holds
    the encoders fixed calls too many equal recipes different (`make calibrate`). Needs two seeds on either side."""
    differences = first.mean(axis=0) - second.mean(axis=0)
    samples = (differences, first.mean(axis=1), second.mean(axis=1))
    variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    total = variances.sum()
    freedom = total**2 / (variances**2 / [len(sample) - 1 for sample in samples]).sum() if total else np.inf
    return _estimate(float(differences.mean()), float(np.sqrt(total)), float(freedom))


def _placements(positive: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """AUROC, the share of negatives below each positive, and the share of positives above each negative."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    above = (ranks[positive] - rankdata(score[positive])) / (~positive).sum()
    below = 1 - (ranks[~positive] - rankdata(score[~positive])) / positive.sum()
    return float(above.mean()), above, below


def _estimate(difference: float, error: float, freedom: float) -> Estimate:
    """Interval and p-value of a difference whose standardised value follows t with `freedom`, normal if infinite."""
    if error == 0:
        return Estimate(difference, 0.0, difference, difference, 1.0 if difference == 0 else 0.0)
    margin = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p_value = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    return Estimate(difference, error, difference - margin, difference + margin, p_value)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Step-down adjusted p-values over one family (Holm 1979, jstor.org/stable/4615733), in the order given."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    return np.minimum(np.maximum.accumulate(scaled), 1.0)[np.argsort(order)]
