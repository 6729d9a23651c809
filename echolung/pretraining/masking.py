"""Multi-block masks of V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985): which tokens of a clip the encoder sees.

Each generator hides the union of a few rectangles over the whole clip. A block's size is drawn once per batch and its
position once per clip, so clips hide different numbers of tokens. The reference implementation truncates all clips of a
batch to the smallest number of visible tokens, in raster order: at batch 24 that drops 36% / 66% of them, always from
the late frames. Here nothing is truncated: clips of different lengths are packed (`echolung.models.vit`), and every
token that is not visible is predicted.

Dimension letters: B clips, N tokens of a clip, R C rows and columns of the token grid, K blocks.
"""

import pydantic
import torch

from echolung.core.parameters import Parameters


class MaskSettings(Parameters):
    """One mask generator: how many blocks it hides and how large they are."""

    blocks: int = pydantic.Field(gt=0)
    scale: float = pydantic.Field(gt=0, le=1)  # area of one block as a fraction of the frame
    aspect: tuple[float, float] = (0.75, 1.5)  # height / width of a block, uniform between these


def sample_masks(
    settings: MaskSettings, clips: int, grid: tuple[int, int, int], generator: torch.Generator
) -> torch.Tensor:
    """Draw the visible tokens of `clips` clips: bool (B, N) on the CPU, with at least one visible token per frame.
    `grid` is (time, rows, columns) of the tokens, at least two along rows or columns."""
    time, rows, columns = grid
    height, width = _block_size(settings, rows, columns, generator)
    hidden = _place(settings.blocks, clips, (height, width), (rows, columns), generator)
    while (full := hidden.flatten(1).all(dim=1)).any():  # nothing left to see: draw these positions again
        hidden[full] = _place(settings.blocks, int(full.sum()), (height, width), (rows, columns), generator)
    return ~hidden[:, None].expand(-1, time, -1, -1).flatten(1)


def _block_size(settings: MaskSettings, rows: int, columns: int, generator: torch.Generator) -> tuple[int, int]:
    low, high = settings.aspect
    aspect = low + (high - low) * float(torch.rand((), generator=generator))
    area = settings.scale * rows * columns
    height = min(max(round((area * aspect) ** 0.5), 1), rows)
    width = min(max(round((area / aspect) ** 0.5), 1), columns)
    if (height, width) == (rows, columns):  # on a coarse grid a large block could hide everything
        height, width = (height - 1, width) if rows > columns else (height, width - 1)
    return height, width


def _place(
    blocks: int, clips: int, size: tuple[int, int], frame: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """The union of `blocks` rectangles of one size at random positions, for each clip: bool (B, R, C)."""
    inside = []
    for side, length in zip(size, frame, strict=True):
        first = torch.randint(length - side + 1, (clips, blocks, 1), generator=generator)
        offset = torch.arange(length) - first
        inside.append((offset >= 0) & (offset < side))  # (B, K, R) or (B, K, C)
    covered = inside[0][..., :, None] & inside[1][..., None, :]
    return covered.any(dim=1)


def sample_tubes(visible: float, clips: int, grid: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Show a share `visible` of the positions in all frames, at least one and not all: bool (B, N) on the CPU. Each
    clip has its own positions; all clips show the same number (VideoMAE)."""
    time, rows, columns = grid
    assert rows * columns > 1, "a frame of a single token cannot be masked"
    shown = min(max(round(visible * rows * columns), 1), rows * columns - 1)
    places = torch.rand((clips, rows * columns), generator=generator).argsort(dim=1) < shown
    return places[:, None].expand(-1, time, -1).flatten(1)
