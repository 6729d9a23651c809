"""Sex, age, weight and height of the children in a phantom data set; the drawings do not depend on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Child:
    """One patient; weight or height may be missing, as in real data."""

    sex: str  # F or M
    age: int  # completed years
    weight: float | None  # kg
    height: float | None  # cm


def draw_child(rng: np.random.Generator) -> Child:
    """A random child of 0 to 18 years; weight by the rules of thumb of paediatric life support, height by age."""
    years = rng.uniform(0, 18.99)
    weight = (4 + 6 * years if years < 1 else 2 * years + 8 if years < 6 else 3 * years + 7) * rng.uniform(0.8, 1.25)
    height = (50 + 25 * years if years < 1 else min(75 + 6.2 * (years - 1), 172)) * rng.uniform(0.94, 1.06)
    return Child(
        sex="FM"[rng.integers(2)],
        age=int(years),
        weight=None if rng.random() < 0.05 else round(weight, 1),
        height=None if rng.random() < 0.05 else round(height, 1),
    )
