"""What a case of the hostile corpus is: a file that is made, a way it is read, and what must come of it"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echolung.core.errors import EcholungError
from echolung.data import video
from echolung.data.clips import letterbox
from echolung.data.manifest import conform
from echolung.data.sources.folder import scan


@dataclass(frozen=True)
class Place:
    """Where a case may write, and what must never happen there."""

    path: Path
    """The file under the case's name, in a folder of its own."""
    canary: Path
    """A file that nobody may make: code in the corpus would."""
    port: int
    """A port of this machine that nobody may call: addresses in the corpus point to it."""

    @property
    def folder(self) -> Path:
        return self.path.parent


@dataclass(frozen=True)
class Case:
    """One hostile input.

    `make` writes it; `read` takes it through the product's own door and returns what came out, having raised Wrong if
    that is not what was put in. `refused` is what the typed error must say; "" where nothing may be refused. With
    `either`, both ends are right: how much a damaged file still gives is FFmpeg's to say.
    """

    name: str
    what: str
    make: Callable[[Place], object]
    read: Callable[[Place], str]
    refused: str = ""
    either: bool = False


class Wrong(Exception):
    """The product answered, and the answer is wrong."""


def settle(case: Case, place: Place) -> str:
    """How the case ends: what came out of it, or the one line that refuses it; raises Wrong where neither is right."""
    try:
        found = case.read(place)
    except EcholungError as error:
        if not case.refused or not re.search(case.refused, error.problem):
            raise Wrong(f"refused, though it should not be, or for another reason: {error}") from error
        if "\n" in error.problem or not error.remedy:
            raise Wrong(f"more than one line, or no remedy: {error}") from error
        return f"refused: {error.problem}".replace(f"{place.folder}/", "").replace(str(place.folder), ".")
    if case.refused and not case.either:
        raise Wrong(f"accepted ({found}), though it should be refused")
    return found


def speckle(frames: int = 20, height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    """Moving speckle, uint8 (T, H, W): as hard to compress as ultrasound, and every frame another."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=(frames, height, width)), (1, 1.5, 1.5))
    return (128 + 50 * field / max(field.std(), 1e-6)).clip(0, 255).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise of 8-bit pictures, in decibels."""
    error = np.mean((one.astype(float) - other) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def frames_of(
    truth: np.ndarray, decibels: float, fps: float | None = 25.0, cut: bool = False, damage: str = ""
) -> Callable[[Place], str]:
    """A reader that holds the frames of a video against `truth`, all of them.

    With `cut`, fewer frames may come, from the first on, if the damage is said; the last may be half of one.
    """

    def read(place: Place) -> str:
        decoded = video.decode(place.path)
        got = decoded.frames
        if got.shape[1:] != truth.shape[1:] or len(got) > len(truth) or (len(got) < len(truth) and not cut):
            raise Wrong(f"{got.shape} came of {truth.shape}")
        if len(got) < len(truth) and not decoded.damage:
            raise Wrong(f"{len(got)} of {len(truth)} frames came, and no damage is said")
        if not re.search(damage, decoded.damage) or (decoded.damage and not (damage or cut)):
            raise Wrong(f"its damage is '{decoded.damage}'")
        whole = len(got) - (cut and len(got) > 1)
        worst = min(psnr(one, other) for one, other in zip(got[:whole], truth[:whole], strict=True))
        if worst < decibels:
            raise Wrong(f"a frame has {worst:.1f} dB, and {decibels} were asked for")
        if fps and abs(decoded.fps - fps) > 0.02 * fps:
            raise Wrong(f"{decoded.fps} frames per second came of {fps}")
        said = f" ({decoded.damage})" if decoded.damage else ""
        return f"{len(got)} frames, {'exact' if worst == float('inf') else f'{worst:.0f} dB'}{said}"

    return read


def decoded(place: Place) -> str:
    """Reads a video the way that ingest does, and says its shape: for what should not be accepted at all."""
    return str(video.decode(place.path, functools.partial(letterbox, size=96)).frames.shape)


def scanned(place: Place) -> str:
    """Reads the folder of videos whose table the case wrote."""
    return f"{len(conform(scan(place.folder, 'mine')))} rows"
