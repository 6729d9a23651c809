"""The pictures of an explanation: a gif that plays the views with their heat map, and a png sheet of them.

Dimension letters: V views, T frames of a view, S side of a frame in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from echolung.methods.method import Maps

COLOURS = {False: "inferno", True: "RdBu_r"}
"""By `Maps.signed`: dark to bright; or blue against the answer, red for it."""
EVEN, LEAST_PEAK = 1.0, 2.0
"""Shares of attention are drawn from the even share up to the peak, but at least up to twice the even share: attention
that is the same everywhere must not look like a finding."""
SIDE = 256
"""Smallest side of a frame in the gif, in pixels."""
SHOWN = 8
"""Frames of a view in the png."""
LINE = 18  # pixels
INK, PAPER = (27, 39, 51), (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """What is drawn of one file."""

    frames: np.ndarray
    """uint8 (V, T, S, S)."""
    seconds: np.ndarray
    """float64 (V, T): when in the video each frame is shown."""
    maps: Maps

    @property
    def overlay(self) -> np.ndarray:
        """The weights at every frame and pixel, float64 (V, T, S, S): bilinear within a frame, held over time steps."""
        views, frames, side = self.frames.shape[:3]
        flat = torch.from_numpy(self.maps.weights).flatten(0, 1)[:, None]
        fine = F.interpolate(flat, (side, side), mode="bilinear")[:, 0].unflatten(0, (views, -1))
        return fine.numpy()[:, np.arange(frames) * fine.shape[1] // frames]


@dataclass(frozen=True)
class Caption:
    """The words beside the pictures."""

    answer: str
    numbers: str
    meaning: str
    """Of the colours."""
    model: str
    file: str


def write_gif(path: Path, found: Picture, caption: Caption) -> None:
    """All frames of all views in turn, each plain and with the heat map: V * T pages, at the speed of the video."""
    views, frames, side = found.frames.shape[:3]
    edge = side * -(-SIDE // side)
    scale, overlay = _scale(found), found.overlay
    pages = []
    for view in range(views):
        for frame in range(frames):
            plain = np.repeat(found.frames[view, frame][..., None], 3, axis=2)
            heated = _blended(found.frames[view, frame], overlay[view, frame], scale, found.maps.signed)
            pair = Image.fromarray(np.concatenate([plain, heated], axis=1)).resize(
                (2 * edge, edge), Image.Resampling.BOX
            )
            page = Image.new("RGB", (2 * edge, edge + 4 * LINE), PAPER)
            page.paste(pair, (0, 2 * LINE))
            when = f"{caption.file}: view {view + 1} of {views}, {found.seconds[view, frame]:.2f} s"
            for line, text in enumerate((caption.answer, caption.numbers, when, caption.model)):
                top = line * LINE + (edge if line > 1 else 0)
                ImageDraw.Draw(page).text((4, top + 2), text, INK, ImageFont.load_default(12))
            pages.append(page.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    duration = max(20, round(1000 * float(found.seconds[0, 1] - found.seconds[0, 0])))
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0, optimize=False)


def write_png(path: Path, found: Picture, caption: Caption) -> None:
    """A sheet: some frames of the first and the last view, plain and with the heat map."""
    views = sorted({0, len(found.frames) - 1})
    shown = np.unique(np.linspace(0, found.frames.shape[1] - 1, SHOWN).round().astype(int))
    scale, overlay = _scale(found), found.overlay
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(8.8, 1.1 + 2.25 * len(views)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{caption.answer}   ({caption.file})\n{caption.numbers}", x=0.01, ha="left", fontsize=10)
        figure.supxlabel(f"{caption.meaning}\n{caption.model}", x=0.01, ha="left", fontsize=8)
        panels = np.asarray(figure.subplots(2 * len(views), len(shown), squeeze=False))
        for row, view in enumerate(views):
            for column, frame in enumerate(shown):
                plain, heated = panels[2 * row][column], panels[2 * row + 1][column]
                plain.imshow(found.frames[view, frame], cmap="gray", vmin=0, vmax=255)
                heated.imshow(_blended(found.frames[view, frame], overlay[view, frame], scale, found.maps.signed))
                plain.set_title(f"{found.seconds[view, frame]:.2f} s", fontsize=7, pad=2)
                for panel in (plain, heated):
                    panel.set_xticks([])
                    panel.set_yticks([])
            panels[2 * row][0].set_ylabel(f"view {view + 1} of {len(found.frames)}")
        colours = matplotlib.cm.ScalarMappable(scale, COLOURS[found.maps.signed])
        figure.colorbar(colours, ax=panels.ravel().tolist(), shrink=0.8, pad=0.01, aspect=30)
        figure.savefig(path, format="png")


def _scale(found: Picture) -> Normalize:
    """One scale for the whole video; contributions are drawn symmetrically around 0."""
    largest = float(np.abs(found.maps.weights).max()) or 1.0
    return Normalize(-largest, largest) if found.maps.signed else Normalize(EVEN, max(LEAST_PEAK, largest))


def _blended(grey: np.ndarray, heat: np.ndarray, scale: Normalize, signed: bool) -> np.ndarray:
    """A frame (S, S) with its heat map over it, uint8 (S, S, 3); without colour where the weight says nothing."""
    colours = matplotlib.colormaps[COLOURS[signed]](scale(heat))[..., :3] * 255
    nothing = 0.0 if signed else EVEN
    weight = np.maximum(np.abs(heat) - nothing, 0) / (float(scale.vmax or 1) - nothing)
    opacity = 0.75 * np.sqrt(weight[..., None])  # the root, or all but the peak would be invisible
    return (grey[..., None] * (1 - opacity) + colours * opacity).clip(0, 255).round().astype(np.uint8)
