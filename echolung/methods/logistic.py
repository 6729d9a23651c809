"""Penalised multinomial logistic regression, solved to convergence for every training set and penalty.

Minimises  sum_v w_v * log-loss_v / W  +  |coefficients|^2 / (2 C W)  with W = sum_v w_v, as LogisticRegression(C=C) of
scikit-learn does, with one row of coefficients per class for two classes too. Intercepts are not penalised.

The features are rotated onto the principal axes of the weighted training rows, where the solution lies, and scaled by
an upper bound of the curvature (Boehning 1992): L-BFGS then takes tens of steps, on separable classes as well.

Dimension letters: J training sets, G penalties, V rows, F features, R principal axes, K classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from echolung.core.errors import DataError

TOLERANCE = 1e-7  # largest gradient entry, in the scaled coordinates, of a solved problem; losses are of order 1
LOOSE = 1e-4
"""A gradient above this is not a solution. Rounding can end the search above TOLERANCE."""
STEPS, MEMORY = 1000, 12


@dataclass(frozen=True)
class Solution:
    """Coefficients (J, G, K, F) and intercepts (J, G, K) on the features as given."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    gradient: float  # largest gradient entry left in any problem

    def logits(self, x_VF: np.ndarray) -> np.ndarray:
        """(J, G, V, K)."""
        return x_VF @ self.coefficients.swapaxes(2, 3) + self.intercepts[:, :, None]


def solve(x_VF: np.ndarray, y_V: np.ndarray, weights_JV: np.ndarray, penalties: list[float], classes: int) -> Solution:
    """Fit rows x to classes y (0..K-1) under every row of weights (0: not in this training set) and every C.

    Features are standardised by each training set's own weighted mean and deviation; those that are constant there get
    coefficient 0. A class without weight ends next to probability 0. Raises DataError if a problem stays unsolved.
    """
    of_class_VK = np.eye(classes)[y_V]
    coefficients, intercepts, gradient = [], [], 0.0
    for weights_V in weights_JV:
        total = weights_V.sum()
        share_V = weights_V / total
        mean_F = share_V @ x_VF
        variance_F = np.maximum(share_V @ x_VF**2 - mean_F**2, 0)
        alive_F = variance_F > 1e-12 * (1 + mean_F**2)
        scale_F = np.sqrt(np.where(alive_F, variance_F, 1))
        z_VF = (x_VF - mean_F) / scale_F * alive_F
        axes_RF, power_R = _axes(z_VF * np.sqrt(share_V)[:, None])
        frequency_K = np.maximum(weights_V @ of_class_VK, 1)
        start_K = np.log(frequency_K / frequency_K.sum())
        rows_VR, target_VK = z_VF @ axes_RF.T, share_V[:, None] * of_class_VK
        theta = np.zeros((len(power_R) + 1) * classes)
        for penalty in penalties:
            problem = _Problem(rows_VR, share_V, target_VK, start_K, 1 / (penalty * total), power_R)
            theta, left = problem.solve(theta)
            gradient = max(gradient, left)
            w_RK, b_K = problem.parts(theta)
            coefficients.append((axes_RF.T @ w_RK).T / scale_F)
            intercepts.append(b_K - coefficients[-1] @ mean_F)
    if not gradient <= LOOSE:
        raise DataError(f"a logistic regression did not converge (gradient {gradient:.1e})", "Look at its features.")
    shape = (len(weights_JV), len(penalties), classes)
    return Solution(np.reshape(coefficients, (*shape, -1)), np.reshape(intercepts, shape), gradient)


def _axes(rows_VF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes (R, F) of rows, and their power (R,)."""
    if rows_VF.shape[0] > rows_VF.shape[1]:
        _, sizes_R, axes_RF = np.linalg.svd(rows_VF, full_matrices=False)
        return axes_RF, sizes_R**2
    power_R, vectors_VR = np.linalg.eigh(rows_VF @ rows_VF.T)  # several times faster where features are many
    some = power_R > 1e-13 * max(power_R[-1], 1e-300)
    return (rows_VF.T @ vectors_VR[:, some] / np.sqrt(power_R[some])).T, power_R[some]


@dataclass(frozen=True)
class _Problem:
    """One training set and penalty on the principal axes."""

    rows_VR: np.ndarray
    share_V: np.ndarray
    target_VK: np.ndarray
    start_K: np.ndarray
    ridge: float
    power_R: np.ndarray

    def parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients on the axes (R, K) and intercepts (K,)."""
        theta = theta.reshape(-1, len(self.start_K))
        curvature_R = 1 / np.sqrt(0.5 * self.power_R + self.ridge)
        return theta[:-1] * curvature_R[:, None], self.start_K + theta[-1] * 2**0.5

    def objective(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        w_RK, b_K = self.parts(theta)
        logits_VK = self.rows_VR @ w_RK + b_K
        log_p = logits_VK - np.logaddexp.reduce(logits_VK, axis=1, keepdims=True)
        loss = 0.5 * self.ridge * (w_RK**2).sum() - (self.target_VK * log_p).sum()
        off_VK = self.share_V[:, None] * np.exp(log_p) - self.target_VK
        slope_RK = (self.rows_VR.T @ off_VK + self.ridge * w_RK) / np.sqrt(0.5 * self.power_R + self.ridge)[:, None]
        return float(loss), np.vstack([slope_RK, off_VK.sum(axis=0) * 2**0.5]).ravel()

    def solve(self, theta: np.ndarray) -> tuple[np.ndarray, float]:
        """From a start: the minimum, and the largest gradient entry left."""
        options = {"maxiter": STEPS, "maxcor": MEMORY, "gtol": TOLERANCE, "ftol": 0.0}
        found = minimize(self.objective, theta, jac=True, method="L-BFGS-B", options=options)
        return found.x, float(np.abs(found.jac).max())
