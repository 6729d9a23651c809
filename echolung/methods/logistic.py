"""Penalised multinomial logistic regression, solved to convergence: every fold and penalty in one batch.

Minimises  sum_v w_v * log-loss_v / W  +  |coefficients|^2 / (2 C W)  with W = sum_v w_v, as LogisticRegression(C=C) of
scikit-learn does, with one row of coefficients per class for two classes too. Intercepts are not penalised.

The features are rotated onto the principal axes of the weighted training rows, where the solution lies, and scaled by
an upper bound of the curvature (Boehning 1992): L-BFGS then takes tens of steps, on separable classes as well.

Dimension letters: J training sets, G penalties, V rows, F features, R principal axes, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from echolung.core.errors import DataError

TOLERANCE = 1e-7
"""Largest gradient entry, in the scaled coordinates, of a solved problem; losses are of order 1."""
LOOSE = 1e-4
"""A gradient above this is not a solution. Rounding can end the search above TOLERANCE."""
STEPS, MEMORY = 1000, 12


@dataclass(frozen=True)
class Solution:
    """Coefficients (J, G, K, F) and intercepts (J, G, K) on the features as given; float64."""

    coefficients: Tensor
    intercepts: Tensor
    gradient: float
    """Largest gradient entry left in any problem."""

    def logits(self, x_VF: Tensor) -> Tensor:
        """(J, G, V, K)."""
        return x_VF.double() @ self.coefficients.mT + self.intercepts[:, :, None]


def solve(x_VF: Tensor, y_V: Tensor, weights_JV: Tensor, penalties: list[float], classes: int) -> Solution:
    """Fit rows x to classes y (0..K-1) under every row of weights (0: not in this training set) and every C.

    Features are standardised by each training set's own weighted mean and deviation; those that are constant there get
    coefficient 0. A class without weight ends next to probability 0. Raises DataError if a problem stays unsolved.
    """
    x_VF, weights_JV = x_VF.double(), weights_JV.double()
    total_J = weights_JV.sum(dim=1)
    share_JV = weights_JV / total_J[:, None]
    mean_JF = share_JV @ x_VF
    variance_JF = (share_JV @ x_VF.square() - mean_JF.square()).clamp_min(0)
    alive_JF = variance_JF > 1e-12 * (1 + mean_JF.square())
    scale_JF = torch.where(alive_JF, variance_JF, 1).sqrt()
    z_JVF = (x_VF - mean_JF[:, None]) / scale_JF[:, None] * alive_JF[:, None]
    axes_JFR, power_JR = _axes(z_JVF * share_JV[:, :, None].sqrt())
    rows_JVR = z_JVF @ axes_JFR
    of_class_VK = torch.nn.functional.one_hot(y_V.long(), classes).double()
    penalty_G = 1 / torch.tensor(penalties, dtype=torch.float64, device=x_VF.device)
    ridge_JG = penalty_G / total_J[:, None]
    curvature_JGR = (0.5 * power_JR[:, None] + ridge_JG[:, :, None]).rsqrt()
    frequency_JK = (weights_JV @ of_class_VK).clamp_min(1)
    start_JK = (frequency_JK / frequency_JK.sum(dim=1, keepdim=True)).log()
    target_JVK = share_JV[:, :, None] * of_class_VK
    problems, axes = len(weights_JV) * len(penalties), axes_JFR.shape[2]

    def parts(theta_PQ: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients on the axes (J, R, G, K) and intercepts (J, G, K)."""
        theta = theta_PQ.view(len(weights_JV), len(penalties), axes + 1, classes)
        w_JGRK = theta[:, :, :-1] * curvature_JGR[..., None]
        return w_JGRK.transpose(1, 2), start_JK[:, None] + theta[:, :, -1] * 2**0.5

    def objective(theta_PQ: Tensor) -> tuple[Tensor, Tensor]:
        w_JRGK, b_JGK = parts(theta_PQ)
        logits_JVGK = torch.bmm(rows_JVR, w_JRGK.flatten(2)).unflatten(2, b_JGK.shape[1:]) + b_JGK[:, None]
        log_p = logits_JVGK.log_softmax(dim=-1)
        ridge = 0.5 * ridge_JG * w_JRGK.square().sum(dim=(1, 3))
        off_JVGK = share_JV[:, :, None, None] * log_p.exp() - target_JVK[:, :, None]
        slope_w = torch.bmm(rows_JVR.mT, off_JVGK.flatten(2)).unflatten(2, b_JGK.shape[1:])
        slope_w = (slope_w + ridge_JG[:, None, :, None] * w_JRGK).transpose(1, 2) * curvature_JGR[..., None]
        slope = torch.cat([slope_w, off_JVGK.sum(dim=1)[:, :, None] * 2**0.5], dim=2)
        return (ridge - (target_JVK[:, :, None] * log_p).sum(dim=(1, 3))).flatten(), slope.reshape(problems, -1)

    theta_PQ, gradient = minimise(objective, rows_JVR.new_zeros(problems, (axes + 1) * classes))
    if not gradient <= LOOSE:
        raise DataError(f"a logistic regression did not converge (gradient {gradient:.1e})", "Look at its features.")
    w_JRGK, b_JGK = parts(theta_PQ)
    coefficients = torch.einsum("jfr,jrgk->jgkf", axes_JFR, w_JRGK) / scale_JF[:, None, None]
    return Solution(coefficients, b_JGK - (coefficients @ mean_JF[:, None, :, None])[..., 0], gradient)


def _axes(rows_JVF: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes (J, F, R) of rows, and their power (J, R); R is the smaller of V and F."""
    wide = rows_JVF.shape[2] > rows_JVF.shape[1]
    gram = rows_JVF @ rows_JVF.mT if wide else rows_JVF.mT @ rows_JVF
    power_JR, vectors = torch.linalg.eigh(gram)
    power_JR = power_JR.clamp_min(0)
    if not wide:
        return vectors, power_JR
    # Axes without power are left at zero: rows have nothing there.
    floor = power_JR.amax(dim=1, keepdim=True).clamp_min(1e-300) * 1e-13
    inverse = torch.where(power_JR > floor, power_JR, torch.inf).rsqrt()
    return rows_JVF.mT @ vectors * inverse[:, None], torch.where(power_JR > floor, power_JR, 0)


def minimise(objective: Callable[[Tensor], tuple[Tensor, Tensor]], start_PQ: Tensor) -> tuple[Tensor, float]:
    """L-BFGS (Nocedal 1980) on P convex problems side by side, each with its own step length.

    `objective` gives losses (P,) and gradients (P, Q). Returns the minimum and the largest gradient entry left; a
    problem that is solved, or whose loss no step lowers any more, stays where it is.
    """
    at, steps = start_PQ, 0
    loss, slope = objective(at)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    open_P = slope.abs().amax(dim=1) > TOLERANCE
    while open_P.any() and steps < STEPS:
        direction = torch.where(open_P[:, None], -_apply_inverse(history, slope), 0)
        descent = (direction * slope).sum(dim=1)
        length = torch.where(open_P, 1.0, 0.0)
        if not history:
            length = length / slope.norm(dim=1).clamp_min(1)
        for _ in range(40):  # Armijo
            new = at + length[:, None] * direction
            new_loss, new_slope = objective(new)
            short = new_loss <= loss + 1e-4 * length * descent + 1e-15 * loss.abs()
            if short.all():
                break
            length = torch.where(short, length, length * 0.5)
        moved = short & open_P
        step, change = torch.where(moved[:, None], new - at, 0), torch.where(moved[:, None], new_slope - slope, 0)
        curvature = (step * change).sum(dim=1)
        history = [*history[1 - MEMORY :], (step, change, torch.where(curvature > 1e-300, 1 / curvature, 0))]
        at, loss = at + step, torch.where(moved, new_loss, loss)
        slope, steps = slope + change, steps + 1
        open_P = moved & (slope.abs().amax(dim=1) > TOLERANCE)
    return at, float(slope.abs().max())


def _apply_inverse(history: list[tuple[Tensor, Tensor, Tensor]], slope_PQ: Tensor) -> Tensor:
    """The two-loop recursion: an estimate of the inverse Hessian times the gradient, per problem."""
    q, shares = slope_PQ, []
    for step, change, rho in reversed(history):
        share = rho * (step * q).sum(dim=1)
        shares.append(share)
        q = q - share[:, None] * change
    if history:
        step, change, rho = history[-1]
        power = change.square().sum(dim=1)
        q = q * torch.where((rho > 0) & (power > 0), 1 / (rho * power).clamp_min(1e-300), 1)[:, None]
    for (step, change, rho), share in zip(history, reversed(shares), strict=True):
        q = q + step * (share - rho * (change * q).sum(dim=1))[:, None]
    return q
