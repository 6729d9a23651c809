"""Pictures of what answers rest on, `Method.explain`, drawn over the frames that the model saw.

Dimension letters: V views, T frames of a view, S side of a frame in pixels.
"""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch.nn import functional as F

from echolung.core import drawing as style
from echolung.core.errors import DataError
from echolung.core.runtime import atomic_path
from echolung.data.ffmpeg import require_ffmpeg
from echolung.methods.method import Maps
from echolung.serving.answers import OUTSIDE, RESEARCH_ONLY, cell
from echolung.serving.model import Model

COLOURS = {False: "inferno", True: "RdBu_r"}  # by `Maps.signed`: dark to bright; or blue against, red for the answer
EVEN, LEAST_PEAK = 1.0, 2.0
"""Shares of attention are drawn from the even share up to the peak, but at least up to twice the even share: attention
that is the same everywhere must not look like a finding."""
SIDE = 256  # smallest side of a frame in the gif and the mp4, in pixels
SHOWN = 8  # frames of a view in the png
LINE = 18  # pixels
INK, PAPER = (27, 39, 51), (255, 255, 255)
STRUCTURES = [ImageColor.getrgb(colour) for colour in reversed(style.COLOURS)]  # bright first: it lies on dark tissue
TINT, OUTLINE = 0.25, 2  # opacity of a structure's inside; width of its outline in pixels
WRAP = 80  # letters of a line of numbers
ABREAST = 12  # readings of a curve that fit side by side; more are turned


def picture_names(paths: Sequence[Path]) -> list[str]:
    """The stem of each file; where several have the same, -2, -3 and so on."""
    stems = [path.stem for path in paths]
    counts = [stems[: place + 1].count(stem) for place, stem in enumerate(stems)]
    return [stem if count == 1 else f"{stem}-{count}" for stem, count in zip(stems, counts, strict=True)]


def explain_file(
    model: Model, path: Path, folder: Path, name: str, title: str, fps: float | None = None
) -> pd.DataFrame:
    """Answer as `Model.predict` does, and draw the file into `folder`: <name>.gif and <name>.png; if its `Maps` have a
    drawing, <name>.drawn.mp4; if they have a curve, <name>.curve.png. Raises DataError if the method cannot explain
    itself, DiskError if the folder cannot be written to, VideoError as `predict`."""
    one = model.read(path, fps)
    answer, maps = model.answer(str(path), one), model.method.explain(one, str(path))
    if maps is None:
        problem = f"the method '{model.record.method}' cannot show what its answers rest on"
        raise DataError(problem, "Leave out --explain.")
    if maps.curve and answer["outside"].item():  # an EF on the curve would read as an answer
        maps = replace(maps, curve=replace(maps.curve, readings=(), words=""))
    words = *_answer(model, answer.iloc[0]), f"{title}. {RESEARCH_ONLY}", path.name
    picture = Picture(*model.clips(str(path), one), maps, *words)
    writers = {"gif": write_gif, "png": write_png}
    writers |= {"drawn.mp4": write_mp4} if maps.drawing else {}
    writers |= {"curve.png": write_curve} if maps.curve else {}
    for suffix, write in writers.items():
        with atomic_path(folder / f"{name}.{suffix}") as temporary:
            write(temporary, picture)
    return answer


def _answer(model: Model, row: pd.Series) -> tuple[str, str]:
    """The answer and its numbers, for the head of a picture."""
    if row["outside"]:
        return OUTSIDE, f"distance {row['distance']:.2f} to the training videos, threshold {row['threshold']:.2f}"
    first, *others = model.kind.answer_columns(model.task)
    numbers = "  ".join(f"{name} {cell(row[name])}".replace(" ", "\xa0") for name in others)  # wrapped between pairs
    return f"{first}: {cell(row[first])}", textwrap.fill(numbers, WRAP).replace("\xa0", " ")


@dataclass(frozen=True)
class Picture:
    """What is drawn of one file, and the words beside it."""

    frames: np.ndarray  # uint8 (V, T, S, S)
    seconds: np.ndarray  # float64 (V, T): when in the video each frame is shown
    maps: Maps
    answer: str
    numbers: str
    model: str
    file: str

    @property
    def edge(self) -> int:
        """Side of a frame that is enlarged by a whole number, in pixels."""
        side = self.frames.shape[-1]
        return side * -(-SIDE // side)

    @property
    def fps(self) -> float:
        return 1 / float(self.seconds[0, 1] - self.seconds[0, 0])

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

    def drawn(self, view: int, frame: int) -> np.ndarray:
        """An enlarged frame with its structures, uint8 (edge, edge, 3)."""
        assert self.maps.drawing is not None
        labels, size = self.maps.drawing.labels[view], (self.edge, self.edge)
        label = labels[frame * len(labels) // self.frames.shape[1]]
        found = cv2.cvtColor(cv2.resize(self.frames[view, frame], size), cv2.COLOR_GRAY2RGB)
        every = range(len(self.maps.drawing.names) + 1)
        fine = np.argmax([cv2.resize((label == one).astype(np.float32), size) for one in every], axis=0)
        for one in reversed(every[1:]):  # the first lies on top
            inside, colour = fine == one, STRUCTURES[one - 1]
            found[inside] = (found[inside] * (1 - TINT) + np.array(colour) * TINT).round()
            lines = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(found, lines, -1, colour, OUTLINE, cv2.LINE_AA)
        return np.asarray(found)

    def page(self, view: int, frame: int, right: np.ndarray, legend: Sequence[str] = ()) -> Image.Image:
        """A frame, plain and as `right` (S or edge, same, 3) shows it, with the words around them."""
        edge, font = self.edge, ImageFont.load_default(12)
        when = f"{self.file}: view {view + 1} of {len(self.frames)}, {self.seconds[view, frame]:.2f} s"
        above, below = [self.answer, *self.numbers.split("\n")], [when, *([""] if legend else []), self.model]
        height, foot = edge + (len(above) + len(below)) * LINE, edge + len(above) * LINE
        page = Image.new("RGB", (2 * edge, height + height % 2), PAPER)  # H.264 wants even sizes
        draw = ImageDraw.Draw(page)
        for at, shown in enumerate((np.repeat(self.frames[view, frame][..., None], 3, axis=-1), right)):
            enlarged = Image.fromarray(shown).resize((edge, edge), Image.Resampling.BOX)
            page.paste(enlarged, (at * edge, foot - edge))
        for top, lines in ((0, above), (foot, below)):
            for line, text in enumerate(lines):
                draw.text((4, top + line * LINE + 2), text, INK, font)
        left, top = 4.0, foot + LINE
        for colour, name in zip(STRUCTURES, legend, strict=False):
            draw.rectangle((left, top + 3, left + 11, top + 14), colour)
            draw.text((left + 17, top + 2), name, INK, font)
            left += 35 + font.getlength(name)
        return page


def write_gif(path: Path, picture: Picture) -> None:
    """All frames of all views in turn, each plain and with the heat map: V * T pages, at the speed of the video."""
    heated = picture.heated
    drawn = (picture.page(view, frame, heated[view, frame]) for view, frame in np.ndindex(heated.shape[:2]))
    pages = [page.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for page in drawn]
    duration = max(20, round(1000 / picture.fps))
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0, optimize=False)


def write_mp4(path: Path, picture: Picture) -> None:
    """As the gif, with the structures that the method draws instead of the heat map."""
    require_ffmpeg()
    from torchcodec.encoders import Encoder

    assert picture.maps.drawing is not None
    names, encoder = picture.maps.drawing.names, Encoder()
    every = np.ndindex(picture.frames.shape[:2])
    pages = (np.array(picture.page(view, frame, picture.drawn(view, frame), names)) for view, frame in every)
    first = next(pages)
    height, width = first.shape[:2]
    video = encoder.add_video(
        height=height, width=width, frame_rate=picture.fps, device="cpu", codec="libx264", pixel_format="yuv420p",
        crf=18, extra_options={"bf": 0, "threads": 1},
    )  # fmt: skip
    with encoder.open_file(path):
        for page in itertools.chain([first], pages):
            video.add_frames(torch.from_numpy(page).permute(2, 0, 1)[None].contiguous())


def write_curve(path: Path, picture: Picture) -> None:
    """The curve over time, what happens where, and what is read off it."""
    curve = picture.maps.curve
    assert curve is not None
    with matplotlib.style.context(style.STYLE):
        figure, ((panel,),) = style.new_figure(1, 1, 3.6)
        figure.suptitle(f"{picture.answer}   ({picture.file})\n{picture.numbers}", x=0.01, ha="left", fontsize=10)
        *others, (last, line) = curve.lines.items()
        faint = style.FAINT if curve.marks else style.COLOURS[1]  # nothing is read off: all lines count the same
        for name, values in others:
            panel.plot(curve.seconds, values, ".-", color=faint, lw=0.8, ms=4, label=name)
        panel.plot(curve.seconds, line, color=style.INK, lw=1.6, label=last)
        at: Sequence[int] = ()
        for (name, at), shape, colour in zip(curve.marks.items(), "v^so", style.COLOURS, strict=False):
            panel.plot(curve.seconds[at], line[at], shape, ms=8, color=colour, label=name)
        for frame, text in zip(at, curve.readings, strict=False):
            place, turned = (curve.seconds[frame], line[frame]), 90 if len(at) > ABREAST else 0
            panel.annotate(text, place, (0, -9), textcoords="offset points", ha="center", va="top", rotation=turned)
        panel.set(xlabel="seconds", ylim=(0, 1.08 * max(map(np.max, curve.lines.values())) or 1))
        panel.set_title(curve.label, fontsize=9)
        figure.legend(*panel.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        style.note(figure, f"{curve.words}\n{picture.model}".strip())
        figure.savefig(path, format="png")


def write_png(path: Path, picture: Picture) -> None:
    """A sheet: some frames of the first and the last view, plain and with the heat map, and its scale."""
    views, heated = sorted({0, len(picture.frames) - 1}), picture.heated
    shown = np.unique(np.linspace(0, picture.frames.shape[1] - 1, SHOWN).round().astype(int))
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(8.8, 1.1 + 2.25 * len(views)), dpi=110, layout="constrained")
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
