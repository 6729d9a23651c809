"""Ridge regression, solved exactly, with its penalty and the interval of its answers from the inner folds.

Minimises  sum_v w_v * (y_v - prediction_v)^2  +  |coefficients|^2 / C  on standardised features; the intercept is not
penalised. The C with the lowest mean absolute error on the inner folds wins. An answer's interval is that of split
conformal prediction (Lei et al. 2018, doi 10.1080/01621459.2017.1307116) with the residuals of the inner folds: `half`
is their ceil((n + 1) * coverage)-th smallest, on the unit of decision.

Dimension letters: V rows, F features, G penalties, U units.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from echolung.methods.cohort import Cohort, of_units


def solve(x_VF: np.ndarray, y_V: np.ndarray, w_V: np.ndarray, penalties: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Coefficients (G, F) on the features as given, and intercepts (G,)."""
    share = w_V / w_V.sum()
    mean, offset = share @ x_VF, float(share @ y_V)
    variance = share @ (x_VF - mean) ** 2
    alive = variance > 1e-12 * (1 + mean**2)
    scale = np.sqrt(np.where(alive, variance, 1))
    root = np.sqrt(w_V)[:, None]
    left, sizes, axes = np.linalg.svd((x_VF - mean) / scale * alive * root, full_matrices=False)
    target = left.T @ (root[:, 0] * (y_V - offset))
    shrunk = np.stack([sizes / (sizes**2 + 1 / penalty) * target for penalty in penalties])
    coefficients = shrunk @ axes / scale
    return coefficients, offset - coefficients @ mean


def choose(
    x_VF: np.ndarray, y_V: np.ndarray, cohort: Cohort, penalties: Sequence[float], coverage: float
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Weights for `predictions`, and what the inner folds said of every penalty (smallest C first, which wins ties)."""
    penalties = sorted(penalties)
    held_out = cohort.inner >= 0
    out_VG = np.zeros((len(y_V), len(penalties)))
    for fold in cohort.folds:
        coefficients, intercepts = solve(x_VF, y_V, cohort.weights(fold), penalties)
        mine = cohort.inner == fold
        out_VG[mine] = x_VF[mine] @ coefficients.T + intercepts
    errors_UG = np.abs(of_units((out_VG - y_V[:, None])[held_out], cohort.unit[held_out]))
    best = int(np.argmin(errors_UG.mean(axis=0)))
    coefficients, intercepts = solve(x_VF, y_V, cohort.weights(), penalties)
    half = conformal(errors_UG[:, best], coverage)
    search = pd.DataFrame({"penalty": penalties, "absolute_error": errors_UG.mean(axis=0)})
    search["chosen"] = search.index == best
    weights = {"coefficients": coefficients[best : best + 1], "intercepts": intercepts[best : best + 1]}
    return weights | {"half": np.array([half])}, search


def conformal(errors: np.ndarray, coverage: float) -> float:
    """Half the width of an interval from absolute errors (n,) of held-out units; infinite where they are too few."""
    place = int(np.ceil((len(errors) + 1) * coverage)) - 1
    return float(np.sort(errors)[place]) if place < len(errors) else float("inf")


def with_interval(predicted: np.ndarray, half: float) -> np.ndarray:
    """Predictions (n,) in the columns of the kind `regression`: (n, 3)."""
    return np.stack([predicted, predicted - half, predicted + half], axis=1)
