"""Rotary positions against the formula, token by token and channel by channel."""

import math

import pytest
import torch

from echolung.models.rope import rotate, rotation

torch.set_num_threads(1)


def by_hand(x: list[float], token: int, grid: tuple[int, int, int]) -> list[float]:
    """One head's vector of one token, rotated as in V-JEPA 2: pairs turn, but angles are tiled."""
    width = len(x)
    axis_width = 2 * ((width // 3) // 2)
    _, rows, columns = grid
    time, rest = divmod(token, rows * columns)
    row, column = divmod(rest, columns)
    out = list(x)  # the remainder stays as it is
    for axis, position in enumerate((time, row, column)):
        start = axis * axis_width
        for j in range(axis_width):
            omega = 10000.0 ** (-(j % (axis_width // 2)) / (axis_width / 2))
            partner = -x[start + j + 1] if j % 2 == 0 else x[start + j - 1]
            out[start + j] = x[start + j] * math.cos(position * omega) + partner * math.sin(position * omega)
    return out


@pytest.mark.parametrize("head_width", [16, 24, 32, 64])
def test_equals_the_formula(head_width: int) -> None:
    grid = (3, 4, 5)
    ids = torch.tensor([0, 7, 20, 33, 59])
    x = torch.randn(len(ids), head_width, dtype=torch.float64)
    expected = [by_hand(vector.tolist(), int(token), grid) for vector, token in zip(x, ids, strict=True)]
    found = rotate(x, *rotation(ids, grid, head_width))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=1e-5)
