"""NIfTI images, the format of CAMUS. T frames, H W pixels."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from echolung.core.errors import VideoError
from echolung.core.runtime import atomic_path

SUFFIXES = (".nii", ".nii.gz")
REMEDY = "Copy or download the file again; a still is grey, 2D, with values from 0 to 255."
MAX_PIXELS = 1 << 28


def read(path: Path) -> tuple[np.ndarray, float, float | None]:
    """Grey frames uint8 (T, H, W), the width of a pixel in units of its height, and that height in mm.

    The first axis of a file is x. The height is None where pixels are 1 by 1: nobody filled in that header.

    Raises VideoError naming the file if it is not a grey 2D image, or 2D images over time, with values in 0..255.
    """
    import nibabel

    damage = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        image: Any = nibabel.load(path)
        if not 2 <= len(image.shape) <= 3 or 0 in image.shape or np.prod(image.shape, dtype=np.float64) > MAX_PIXELS:
            raise VideoError(f"{path} is of the shape {image.shape}", REMEDY)
        pixels = np.asanyarray(image.dataobj)
        width, height = map(float, image.header.get_zooms()[:2])
    except (OSError, ValueError, OverflowError, EOFError, zlib.error, *damage) as error:
        raise VideoError(f"{path} cannot be read as NIfTI ({str(error) or type(error).__name__})", REMEDY) from None
    if pixels.dtype.kind not in "uif" or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise VideoError(f"{path} holds values that are not in 0..255", REMEDY)
    frames = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 1, 0)
    known = width > 0 < height
    spacing = height if known and (width, height) != (1, 1) else None
    return np.ascontiguousarray(frames.round().astype(np.uint8)), width / height if known else 1.0, spacing


def write(path: Path, frames: np.ndarray, pixel_mm: float) -> None:
    """Write grey frames or label maps uint8 (T, H, W) with square pixels; one frame as a 2D image."""
    import nibabel

    image = nibabel.Nifti1Image((frames[0] if len(frames) == 1 else frames.transpose(1, 2, 0)).swapaxes(0, 1), None)
    image.header.set_zooms([pixel_mm, pixel_mm, 1.0][: len(image.shape)])
    with atomic_path(path) as temporary:
        # nibabel knows a compressed file by its suffix, of which a temporary name keeps the last part alone.
        content = image.to_bytes()
        temporary.write_bytes(gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)
