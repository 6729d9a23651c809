"""Letterbox: frames, points and masks move into the store's square together.

Points are (x, y) in pixels with the centre of the first pixel at (0, 0), as in OpenCV, scikit-image and the tracings of
EchoNet. Dimension letters: T frames, H W pixels of the source, S side of the square.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

FLOATS_AT_ONCE = 1 << 22  # pixels that `Letterbox.frames` holds as floats at a time: 16 MB, for a video of any size


class Letterbox:
    """The whole frame in the middle of a square, its longer side as long as the square's; the rest is black.

    `pixel_aspect` is the width of a source pixel in units of its height; pixels of the square are square.
    """

    def __init__(self, height: int, width: int, size: int, pixel_aspect: float = 1.0) -> None:
        shown = width * pixel_aspect
        scale = size / max(height, shown)
        self.source, self.size = (height, width), size
        self.inner = max(1, round(height * scale)), max(1, round(shown * scale))  # height and width of the picture
        self.corner = (size - self.inner[0]) // 2, (size - self.inner[1]) // 2  # row and column of its first pixel

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), x before y, of the source -> float64 (..., 2) of the square."""
        scale = np.divide(self.inner, self.source)[::-1]
        return (np.asarray(points, dtype=np.float64) + 0.5) * scale + self.corner[::-1] - 0.5

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W) -> uint8 (T, S, S): bilinear, antialiased if it shrinks."""
        moved = np.zeros((len(frames), self.size, self.size), np.uint8)
        step = max(1, FLOATS_AT_ONCE // max(math.prod(self.source), math.prod(self.inner)))
        for start in range(0, len(frames), step):
            pixels = torch.from_numpy(np.ascontiguousarray(frames[start : start + step])).float()[:, None]
            inner = F.interpolate(pixels, self.inner, mode="bilinear", antialias=True)[:, 0]
            self._picture(moved[start : start + step])[:] = inner.round().byte().numpy()
        return moved

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Labels (..., H, W) -> the same labels (..., S, S): those of the nearest pixel, 0 around the picture."""
        sides = zip(self.inner, self.source, strict=True)
        rows, columns = (((np.arange(inner) + 0.5) * given // inner).astype(np.int64) for inner, given in sides)
        moved = np.zeros((*mask.shape[:-2], self.size, self.size), mask.dtype)
        self._picture(moved)[:] = mask[..., rows[:, None], columns]
        return moved

    def _picture(self, square: np.ndarray) -> np.ndarray:
        """The part of a square (..., S, S) that shows the frame."""
        (top, left), (height, width) = self.corner, self.inner
        return square[..., top : top + height, left : left + width]


def letterbox(frames: np.ndarray, size: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Fit frames into a square without distortion: uint8 (T, H, W) -> uint8 (T, size, size)."""
    height, width = frames.shape[1:]
    return Letterbox(height, width, size, pixel_aspect).frames(frames)
