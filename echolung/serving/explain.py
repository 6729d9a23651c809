"""Pictures of what answers rest on, `Method.explain`, drawn over the frames that the model saw.

A gif plays the views with their heat map; a png is a sheet of them.
Dimension letters: V views, T frames of a view, S side of a frame in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_path
from echolung.methods.method import Maps
from echolung.serving.answers import OUTSIDE, RESEARCH_ONLY, cell
from echolung.serving.model import Model

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


def explain_files(model: Model, paths: Sequence[Path], folder: Path, title: str) -> pd.DataFrame:
    """Answer as `Model.predict` does, and draw each file into `folder`: <stem>.gif and <stem>.png.

    Files with the same stem get -2, -3 and so on. Raises DataError if the method cannot explain itself, DiskError if
    the folder cannot be written to, VideoError as `predict`.
    """
    tables, stems = [], [path.stem for path in paths]
    for place, path in enumerate(paths):
        one = model.read(path)
        tables.append(model.answer(one))
        maps = model.method.explain(one.recordings, one.name)
        if maps is None:
            problem = f"the method '{model.record.method}' cannot show what its answers rest on"
            raise DataError(problem, "Leave out --explain.")
        words = *_answer(model, tables[-1].iloc[0]), f"{title}. {RESEARCH_ONLY}", path.name
        picture = Picture(*model.clips(one), maps, *words)
        count = stems[: place + 1].count(path.stem)
        name = path.stem if count == 1 else f"{path.stem}-{count}"
        with atomic_path(folder / f"{name}.gif") as temporary:
            write_gif(temporary, picture)
        with atomic_path(folder / f"{name}.png") as temporary:
            write_png(temporary, picture)
    return pd.concat(tables, ignore_index=True)


def _answer(model: Model, row: pd.Series) -> tuple[str, str]:
    """The answer and its numbers, for the head of a picture."""
    if row["outside"]:
        return OUTSIDE, f"distance {row['distance']:.2f} to the training videos, threshold {row['threshold']:.2f}"
    first, *others = model.kind.answer_columns(model.task)
    return f"{first}: {cell(row[first])}", "   ".join(f"{name} {cell(row[name])}" for name in others)


@dataclass(frozen=True)
class Picture:
    """What is drawn of one file, and the words beside it."""

    frames: np.ndarray
    """uint8 (V, T, S, S)."""
    seconds: np.ndarray
    """float64 (V, T): when in the video each frame is shown."""
    maps: Maps
    answer: str
    numbers: str
    model: str
    file: str

    @property
    def overlay(self) -> np.ndarray:
        """The weights at every frame and pixel, float64 (V, T, S, S): bilinear within a frame, held over time steps."""
        views, frames, side = self.frames.shape[:3]
        flat = torch.from_numpy(self.maps.weights).flatten(0, 1)[:, None]
        fine = F.interpolate(flat, (side, side), mode="bilinear")[:, 0].unflatten(0, (views, -1))
        return fine.numpy()[:, np.arange(frames) * fine.shape[1] // frames]

    @property
    def scale(self) -> Normalize:
        """One scale for the whole video; contributions are drawn symmetrically around 0."""
        largest = float(np.abs(self.maps.weights).max()) or 1.0
        return Normalize(-largest, largest) if self.maps.signed else Normalize(EVEN, max(LEAST_PEAK, largest))

    @property
    def heated(self) -> np.ndarray:
        """The frames with their heat map, uint8 (V, T, S, S, 3); without colour where the weight says nothing."""
        scale, heat = self.scale, self.overlay
        colours = matplotlib.colormaps[COLOURS[self.maps.signed]](scale(heat))[..., :3] * 255
        nothing = 0.0 if self.maps.signed else EVEN
        weight = np.maximum(np.abs(heat) - nothing, 0) / (float(scale.vmax or 1) - nothing)
        opacity = 0.75 * np.sqrt(weight[..., None])  # the root, or all but the peak would be invisible
        return (self.frames[..., None] * (1 - opacity) + colours * opacity).clip(0, 255).round().astype(np.uint8)


def write_gif(path: Path, picture: Picture) -> None:
    """All frames of all views in turn, each plain and with the heat map: V * T pages, at the speed of the video."""
    views, frames, side = picture.frames.shape[:3]
    edge, plain = side * -(-SIDE // side), np.repeat(picture.frames[..., None], 3, axis=-1)
    pairs, pages = np.concatenate([plain, picture.heated], axis=3), []
    for view, frame in np.ndindex(views, frames):
        page = Image.new("RGB", (2 * edge, edge + 4 * LINE), PAPER)
        pair = Image.fromarray(pairs[view, frame])
        page.paste(pair.resize((2 * edge, edge), Image.Resampling.BOX), (0, 2 * LINE))
        when = f"{picture.file}: view {view + 1} of {views}, {picture.seconds[view, frame]:.2f} s"
        for line, text in enumerate((picture.answer, picture.numbers, when, picture.model)):
            top = line * LINE + (edge if line > 1 else 0)
            ImageDraw.Draw(page).text((4, top + 2), text, INK, ImageFont.load_default(12))
        pages.append(page.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    duration = max(20, round(1000 * float(picture.seconds[0, 1] - picture.seconds[0, 0])))
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0, optimize=False)


def write_png(path: Path, picture: Picture) -> None:
    """A sheet: some frames of the first and the last view, plain and with the heat map, and its scale."""
    views, heated = sorted({0, len(picture.frames) - 1}), picture.heated
    shown = np.unique(np.linspace(0, picture.frames.shape[1] - 1, SHOWN).round().astype(int))
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(8.8, 1.1 + 2.25 * len(views)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{picture.answer}   ({picture.file})\n{picture.numbers}", x=0.01, ha="left", fontsize=10)
        figure.supxlabel(f"{picture.maps.words}\n{picture.model}", x=0.01, ha="left", fontsize=8)
        panels = np.asarray(figure.subplots(2 * len(views), len(shown), squeeze=False))
        for (row, column), panel in np.ndenumerate(panels):
            view, frame = views[row // 2], shown[column]
            panel.set(xticks=[], yticks=[])
            if row % 2:
                panel.imshow(heated[view, frame])
                continue
            panel.imshow(picture.frames[view, frame], cmap="gray", vmin=0, vmax=255)
            panel.set_title(f"{picture.seconds[view, frame]:.2f} s", fontsize=7, pad=2)
            panel.set_ylabel("" if column else f"view {view + 1} of {len(picture.frames)}")
        colours = matplotlib.cm.ScalarMappable(picture.scale, COLOURS[picture.maps.signed])
        figure.colorbar(colours, ax=panels.ravel().tolist(), shrink=0.8, pad=0.01, aspect=30)
        figure.savefig(path, format="png")
