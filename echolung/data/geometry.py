"""Letterbox, crop and resize as one affine map per axis, so that points and masks move with the pixels.

Points are (x, y) in pixels with the centre of the first pixel at (0, 0), as in OpenCV, scikit-image and the tracings of
EchoNet. Dimension letters: T frames, H W pixels of the source, S side of a square.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

FLOATS_AT_ONCE = 1 << 22
"""Pixels that `Geometry.frames` holds as floats at a time: 16 MB, whatever the length and size of a video."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """target = scale * source + offset, for the edges of pixels: pixel k covers [k, k + 1). All pairs are (y, x)."""

    source: tuple[int, int]
    """Height and width of the frames that go in."""
    target: tuple[int, int]
    """Height and width of the frames that come out."""
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def resize(cls, source: tuple[int, int], target: tuple[int, int]) -> Geometry:
        """The whole frame at another size."""
        return cls(source, target, (target[0] / source[0], target[1] / source[1]), (0.0, 0.0))

    @classmethod
    def crop(cls, source: tuple[int, int], top: int, left: int, height: int, width: int) -> Geometry:
        """The rectangle of `height` x `width` pixels whose first pixel is (top, left)."""
        return cls(source, (height, width), (1.0, 1.0), (-float(top), -float(left)))

    @classmethod
    def letterbox(cls, source: tuple[int, int], size: int, pixel_aspect: float = 1.0) -> Geometry:
        """The whole frame, its longer side `size` and in the middle of a square; what is left of the square is black.

        `pixel_aspect` is the width of a source pixel in units of its height; pixels of the square are square.
        """
        height, width = source
        shown = width * pixel_aspect
        scale = size / max(height, shown)
        inner = max(1, round(height * scale)), max(1, round(shown * scale))
        offset = float((size - inner[0]) // 2), float((size - inner[1]) // 2)
        return cls(source, (size, size), (inner[0] / height, inner[1] / width), offset)

    def then(self, following: Geometry) -> Geometry:
        """This map and the `following` one in a single step."""
        assert following.source == self.target, "the second map does not start where the first one ends"
        return Geometry(
            self.source,
            following.target,
            (self.scale[0] * following.scale[0], self.scale[1] * following.scale[1]),
            (
                self.offset[0] * following.scale[0] + following.offset[0],
                self.offset[1] * following.scale[1] + following.offset[1],
            ),
        )

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), x before y, of the source -> float64 (..., 2) of the target; outside of it they stay."""
        scale, offset = np.array(self.scale[::-1]), np.array(self.offset[::-1])
        return (np.asarray(points, dtype=np.float64) + 0.5) * scale + offset - 0.5

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W) -> uint8 (T, *target): bilinear, antialiased if it shrinks, black outside the source."""
        assert frames.shape[1:] == self.source, f"{frames.shape[1:]} is not {self.source}"
        (top, y0, height, inner_height), (left, x0, width, inner_width) = (self._overlap(axis) for axis in (0, 1))
        seen = frames[:, top : top + height, left : left + width]
        moved = np.zeros((len(frames), *self.target), np.uint8)
        if not height or not width:
            return moved
        step = max(1, FLOATS_AT_ONCE // max(height * width, inner_height * inner_width))
        for start in range(0, len(frames), step):
            pixels = torch.from_numpy(np.ascontiguousarray(seen[start : start + step])).float()[:, None]
            inner = F.interpolate(pixels, (inner_height, inner_width), mode="bilinear", antialias=True)[:, 0]
            placed = moved[start : start + step, y0 : y0 + inner_height, x0 : x0 + inner_width]
            placed[:] = inner.round().byte().numpy()
        return moved

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Labels (..., H, W) -> the same labels (..., *target): those of the nearest pixel, 0 outside of the source."""
        rows, columns = (self._nearest(axis) for axis in (0, 1))
        moved = mask[..., rows.clip(0, self.source[0] - 1)[:, None], columns.clip(0, self.source[1] - 1)]
        outside = (rows < 0) | (rows >= self.source[0])
        moved[..., outside, :] = 0
        moved[..., (columns < 0) | (columns >= self.source[1])] = 0
        return moved

    def _overlap(self, axis: int) -> tuple[int, int, int, int]:
        """(first source pixel, first target pixel, source pixels, target pixels) of what the target shows."""
        scale, offset = self.scale[axis], self.offset[axis]
        begin = max(0, round(offset)), min(self.target[axis], round(self.source[axis] * scale + offset))
        first, last = (min(max(0, round((edge - offset) / scale)), self.source[axis]) for edge in begin)
        count = max(0, begin[1] - begin[0])
        return first, begin[0], max(last - first, 1) if count else 0, count

    def _nearest(self, axis: int) -> np.ndarray:
        """The source pixel under the centre of each target pixel, int64 (target,)."""
        centres = np.arange(self.target[axis]) + 0.5
        return np.floor((centres - self.offset[axis]) / self.scale[axis]).astype(np.int64)


def letterbox(frames: np.ndarray, size: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Fit frames into a square without distortion: uint8 (T, H, W) -> uint8 (T, size, size)."""
    height, width = frames.shape[1:]
    return Geometry.letterbox((height, width), size, pixel_aspect).frames(frames)
