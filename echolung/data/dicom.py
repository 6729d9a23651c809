"""Ultrasound DICOM: cine loops and stills, of which only the image region is ever handed on.

Machines burn names and settings into the picture around the region. So a frame is cut to it, and black where its box
holds more; a file whose region cannot be told is refused. What is burnt into the region itself (a name typed over the
image) cannot be told from echoes. T frames, H W pixels.
"""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from echolung.core.errors import VideoError
from echolung.data.containers import DOWNLOAD_REMEDY, NO_RATE, regular
from echolung.data.packets import CUT_REMEDY, MAX_DECODED, MAX_FRAMES, MAX_PIXELS

PREAMBLE, MARK = 128, b"DICM"
MODALITY, VOLUME = "US", "1.2.840.10008.5.1.4.1.1.6.2"  # Enhanced US Volume Storage
CM = 3  # PhysicalUnitsXDirection
SMALLEST = 16  # pixels that a region has at least in either direction
MOVING_SD, MOVING_SHARE = 4.0, 0.02  # a pixel moves if its grey value varies by this SD, an area from this share on
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
DECODERS = "pip install python-gdcm"
LEAVE_OUT = "Remove it from the folder, or export the recording again as an ultrasound cine or still."


@dataclasses.dataclass(frozen=True)
class Region:
    """Where the image is."""

    columns: tuple[int, int]  # of the box, half-open, clipped to the picture
    rows: tuple[int, int]
    whole: bool  # whether the header's box lay inside the picture; if not, neither it nor its spacing can be trusted
    spacing: tuple[float, float] | None  # width and height of a pixel in mm, where they are known and can be trusted


def detected(path: Path) -> bool:
    """Whether a file begins like DICOM; raises VideoError if it cannot be read."""
    with regular(path) as stream:
        return (stream.read(PREAMBLE + len(MARK)) or b"")[PREAMBLE:] == MARK


def header(path: Path, pixels: bool = False) -> Any:
    """The data set of a file, without its pixels unless asked for; VideoError naming the file if it is damaged."""
    import pydicom

    with regular(path) as stream, _named(path):
        return pydicom.dcmread(io.BufferedReader(stream), stop_before_pixels=not pixels)


def texts(path: Path, *keywords: str) -> list[str]:
    """Fields of a file's header as text, "" where it lacks them; VideoError naming the file if it is damaged."""
    data = header(path)
    with _named(path):
        found = [data.file_meta if keyword in data.file_meta else data for keyword in keywords]
        return [str(part.get(keyword) or "") for part, keyword in zip(found, keywords, strict=True)]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever pydicom raises on a damaged file, which can be any exception, into a VideoError naming it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except VideoError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        missing = "missing dependencies" in said or isinstance(error, ImportError)
        remedy = f"Install decoders: {DECODERS}" if missing else DOWNLOAD_REMEDY
        raise VideoError(f"{path} cannot be read as DICOM ({said})", remedy) from None


class Recording:
    """One cine or still; raises VideoError naming the file if it is not a 2D ultrasound image with a region."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = data = header(path, pixels=True)
        with _named(path):
            if (modality := data.get("Modality") or "(none)") != MODALITY:
                raise VideoError(f"{path} is of the modality {modality}, not {MODALITY}", LEAVE_OUT)
            if data.get("SOPClassUID") == VOLUME:
                raise VideoError(f"{path} is a 3D volume", LEAVE_OUT)
            if "PixelData" not in data:
                raise VideoError(f"{path} holds no pixel data", LEAVE_OUT)
            self.height, self.width = int(data.Rows), int(data.Columns)
            self.count = int(data.get("NumberOfFrames") or 1)
            pixels = self.height * self.width
            if pixels > MAX_PIXELS or self.count > MAX_FRAMES or pixels * self.count > MAX_DECODED:
                shape = f"{self.count} frames of {self.width} x {self.height} pixels"
                raise VideoError(f"{path} has {shape}, more than can be read", CUT_REMEDY)
            self.fps = frame_rate(data)
            self.region = region(data)
        spacing = self.region.spacing if self.region else None
        self.pixel_mm = spacing[1] if spacing else None
        self.pixel_aspect = spacing[0] / spacing[1] if spacing else 1.0
        self.damage = NO_RATE if self.count > 1 and self.fps is None else ""
        self._shown = self._mask()

    def frames(self) -> Iterator[np.ndarray]:
        """Grey frames uint8 (H, W), cut to the region."""
        seen = [np.flatnonzero(self._shown.any(axis=axis)) for axis in (1, 0)]
        box = tuple(slice(at[0], at[-1] + 1) for at in seen)
        for frame in self._grey():
            yield np.where(self._shown, frame, 0).astype(np.uint8)[box]

    def _grey(self) -> Iterator[np.ndarray]:
        """Grey frames uint8 (H, W) as the machine stored them."""
        from pydicom.pixels import apply_color_lut, iter_pixels

        data = self._data
        with _named(self.path):
            kind, bits = str(data.PhotometricInterpretation), int(data.BitsStored)
            if data.get("PixelRepresentation") or not 8 <= bits <= 16:
                raise VideoError(f"{self.path} has pixels of {bits} bits that are no grey values", LEAVE_OUT)
            if kind == "PALETTE COLOR":
                bits = int(data.RedPaletteColorLookupTableDescriptor[2])
            for frame in iter_pixels(data):  # YBR comes as RGB
                shown = (apply_color_lut(frame, data) if kind == "PALETTE COLOR" else frame) >> (bits - 8)
                shown = (shown @ LUMA).round() if shown.ndim == 3 else shown
                yield 255 - shown if kind == "MONOCHROME1" else shown

    def _mask(self) -> np.ndarray:
        """The pixels that are shown, bool (H, W): the region; what moves in it if its box left the picture."""
        shown = np.zeros((self.height, self.width), bool)
        if self.region is not None:
            shown[slice(*self.region.rows), slice(*self.region.columns)] = True
            if self.region.whole:
                return shown
        moving = self._moving() if self.count > 1 else None
        if moving is not None:
            return shown & moving if self.region else moving
        if self.region is None:
            problem = f"{self.path} has no region of 2D tissue in its header and no moving area to take for it"
            raise VideoError(problem, "It may show names: black them out and export it as a video, or leave it out.")
        return shown

    def _moving(self) -> np.ndarray | None:
        """The largest area that varies over time, without gaps along rows: bool (H, W); None if it is small."""
        total = np.zeros((2, self.height, self.width))
        for frame in self._grey():
            total += frame, np.square(frame, dtype=np.float64)
        mean, square = total / self.count
        pieces, _ = ndimage.label(ndimage.binary_opening(square - mean**2 > MOVING_SD**2))
        area = pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:])
        if area.mean() < MOVING_SHARE:
            return None
        left, right = (np.logical_or.accumulate(side, 1) for side in (area, area[:, ::-1]))
        return left & right[:, ::-1]


def frame_rate(data: Any) -> float | None:
    """Frames per second by FrameTime (ms), FrameTimeVector or CineRate; None if none of them says."""
    vector = [float(step) for step in data.get("FrameTimeVector") or []][1:]  # the first is 0
    step = float(data.get("FrameTime") or 0) or (sum(vector) / len(vector) if vector else 0.0)
    rate = 1000 / step if step > 0 else float(data.get("CineRate") or 0)
    return rate if rate > 0 else None


def region(data: Any) -> Region | None:
    """The largest region of 2D tissue of a data set's header, None if it has none of SMALLEST pixels or more."""
    height, width = int(data.Rows), int(data.Columns)
    found = []
    for one in data.get("SequenceOfUltrasoundRegions") or []:
        if (one.get("RegionSpatialFormat"), one.get("RegionDataType")) != (1, 1):
            continue
        box = [int(one.get(f"RegionLocation{name}", -1)) for name in ("MinX0", "MaxX1", "MinY0", "MaxY1")]
        left, right, top, bottom = box[0], box[1] + 1, box[2], box[3] + 1
        whole = min(left, top) >= 0 and right <= width + 1 and bottom <= height + 1  # some end at the size itself
        columns, rows = (max(0, left), min(width, right)), (max(0, top), min(height, bottom))
        if min(columns[1] - columns[0], rows[1] - rows[0]) >= SMALLEST:
            units = {one.get("PhysicalUnitsXDirection"), one.get("PhysicalUnitsYDirection")}
            across, down = (abs(float(one.get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "XY")
            known = whole and units == {CM} and across > 0 and down > 0
            found.append(Region(columns, rows, whole, (across, down) if known else None))
    return max(found, key=lambda one: np.ptp(one.columns) * np.ptp(one.rows), default=None)
