"""Masks: how much they hide, and that no position or time is favoured."""

import pytest
import torch

from echolung.pretraining.masking import MaskSettings, sample_masks

torch.set_num_threads(1)

SMALL_BLOCKS = MaskSettings(blocks=8, scale=0.15)
LARGE_BLOCKS = MaskSettings(blocks=2, scale=0.7)
GRID = (8, 14, 14)


def draw(settings: MaskSettings, clips: int, grid: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return sample_masks(settings, clips, grid, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("settings", "hidden"), [(SMALL_BLOCKS, 0.62), (LARGE_BLOCKS, 0.81)])
def test_hides_the_published_fraction_of_a_clip(settings: MaskSettings, hidden: float) -> None:
    parts = [1 - draw(settings, 24, GRID, seed).float().mean() for seed in range(100)]
    assert abs(float(torch.stack(parts).mean()) - hidden) < 0.02


@pytest.mark.parametrize("settings", [SMALL_BLOCKS, LARGE_BLOCKS])
def test_every_frame_shows_the_same_tokens(settings: MaskSettings) -> None:
    """Late frames are seen as often as early ones, which truncation to a common length would break."""
    visible = draw(settings, 24, GRID).unflatten(1, GRID)
    assert torch.equal(visible, visible[:, :1].expand_as(visible))


@pytest.mark.parametrize("settings", [SMALL_BLOCKS, LARGE_BLOCKS])
def test_mirrored_positions_are_hidden_equally_often(settings: MaskSettings) -> None:
    often = torch.stack([draw(settings, 64, (1, 8, 8), seed).float().mean(dim=0) for seed in range(100)]).mean(dim=0)
    square = often.unflatten(0, (8, 8))
    for mirrored in (square.flip(0), square.flip(1)):
        assert (square - mirrored).abs().max() < 0.05


@pytest.mark.parametrize("grid", [(2, 2, 2), (4, 1, 2), (4, 3, 3), (2, 6, 6)])
@pytest.mark.parametrize("settings", [SMALL_BLOCKS, LARGE_BLOCKS, MaskSettings(blocks=3, scale=1.0)])
def test_something_is_always_visible_and_something_hidden(settings: MaskSettings, grid: tuple[int, int, int]) -> None:
    for seed in range(20):
        visible = draw(settings, 16, grid, seed).sum(dim=1)
        assert (visible > 0).all() and (visible < grid[0] * grid[1] * grid[2]).all()
