"""The scanner against the physics of ultrasound."""

import numpy as np
import pytest
import scipy.stats

from echolung.phantom.simulator import Scanner, unit_scatterers

CONVEX = Scanner(radius=50, half_angle=0.5, depth=90, frequency=3.5, aperture=16, samples=180, beams=120)


def speckle(scanner: Scanner, seed: int) -> np.ndarray:
    """The echo of a homogeneous phantom with twelve scatterers per cell."""
    rng = np.random.default_rng(seed)
    count = 12 * scanner.samples * scanner.beams
    depth = rng.uniform(0, scanner.depth, count).astype(np.float32)
    angle = rng.uniform(1.2 * scanner.angles[0], 1.2 * scanner.angles[-1], count).astype(np.float32)
    return scanner.receive(scanner.deposit(depth, angle, unit_scatterers(rng, count)))


def test_speckle_of_a_homogeneous_phantom_is_fully_developed() -> None:
    envelopes = [np.abs(speckle(CONVEX, seed))[15:-15, 15:-15] for seed in range(4)]
    ratios = [envelope.mean() / envelope.std() for envelope in envelopes]
    assert np.mean(ratios) == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)  # Rayleigh: 1.913
    sparse = np.concatenate([envelope[::12, ::15].ravel() for envelope in envelopes])  # one resolution cell apart
    assert scipy.stats.kstest(sparse / sparse.mean(), "rayleigh", args=(0, np.sqrt(2 / np.pi))).pvalue > 0.001
