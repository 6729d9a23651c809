"""The pictures of an explanation: a gif that plays the clips with their heat map, and a png sheet of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from echolung.serving.explain import Caption, Explanation

MAPS = {False: "inferno", True: "RdBu_r"}
"""Colour maps by sign: dark to bright from an even share on for attention; blue against, white nothing, red for."""
EVEN, LEAST_PEAK = 1.0, 2.0
"""Attention is drawn from an even share up to the peak, at least to twice that share: a probe that reads all alike
must not look as if it had found something."""
SIDE = 256
"""Smallest side of a frame in the gif, in pixels."""
SHOWN = 8
"""Frames of a view in the png."""
MARGIN, LINE = 8, 18  # pixels
INK, PAPER, SOFT = (27, 39, 51), (255, 255, 255), (91, 104, 117)


def write_gif(path: Path, found: Explanation, caption: Caption, fps: float) -> None:
    """All frames of all views, one after the other, each beside itself with the heat map over it; V * T frames."""
    views, frames, side = found.frames.shape[:3]
    zoom = -(-SIDE // side)
    scale, overlay = _scale(found), found.overlay
    edge = side * zoom
    width = 2 * edge + 3 * MARGIN + 62
    head = [caption.answer, caption.probabilities]
    foot = [*_wrapped(caption.method, width), *_wrapped(caption.model, width)]
    top = MARGIN + LINE * len(head) + 4
    pages = []
    for view in range(views):
        for frame in range(frames):
            page = Image.new("RGB", (width, top + edge + 24 + LINE * len(foot) + MARGIN), PAPER)
            draw = ImageDraw.Draw(page)
            for at, (line, size, ink) in enumerate(zip(head, (15, 13), (INK, SOFT), strict=True)):
                draw.text((MARGIN, MARGIN + at * LINE), line, ink, ImageFont.load_default(size))
            plain = np.repeat(found.frames[view, frame][..., None], 3, axis=2)
            heated = _blended(found.frames[view, frame], overlay[view, frame], scale, found.signed)
            for at, pixels in enumerate((plain, heated)):
                big = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
                page.paste(Image.fromarray(big), (MARGIN + at * (edge + MARGIN), top))
            _colour_bar(page, 2 * (edge + MARGIN) + MARGIN, top, edge, scale, found.signed)
            when = f"view {view + 1} of {views}, frame {frame + 1} of {frames}, {found.seconds[view, frame]:.2f} s"
            draw.text((MARGIN, top + edge + 4), f"{caption.file}: {when}", SOFT, ImageFont.load_default(12))
            for at, line in enumerate(foot):
                draw.text((MARGIN, top + edge + 24 + at * LINE), line, SOFT, ImageFont.load_default(12))
            pages.append(page)
    pages = [page.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for page in pages]
    duration = max(20, round(1000 / fps))
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0, optimize=False)


def write_png(path: Path, found: Explanation, caption: Caption) -> None:
    """A sheet: frames of up to two views, plain and with the heat map, and the mean weight over time."""
    views = sorted({0, len(found.frames) - 1})
    shown = np.unique(np.linspace(0, found.frames.shape[1] - 1, SHOWN).round().astype(int))
    scale, overlay = _scale(found), found.overlay
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(8.8, 1.9 + 2.25 * len(views)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{caption.answer}   ({caption.file})\n{caption.probabilities}", x=0.01, ha="left", fontsize=10)
        sheet, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.25 * len(views), 1.15]))
        panels = np.asarray(sheet.subplots(2 * len(views), len(shown), squeeze=False))
        for row, view in enumerate(views):
            for column, frame in enumerate(shown):
                plain, heated = panels[2 * row][column], panels[2 * row + 1][column]
                plain.imshow(found.frames[view, frame], cmap="gray", vmin=0, vmax=255)
                heated.imshow(_blended(found.frames[view, frame], overlay[view, frame], scale, found.signed))
                plain.set_title(f"{found.seconds[view, frame]:.2f} s", fontsize=7, pad=2)
                for panel in (plain, heated):
                    panel.set_xticks([])
                    panel.set_yticks([])
            panels[2 * row][0].set_ylabel(f"view {view + 1} of {len(found.frames)}")
        colours = matplotlib.cm.ScalarMappable(scale, MAPS[found.signed])
        sheet.colorbar(colours, ax=panels.ravel().tolist(), shrink=0.8, pad=0.01, aspect=30)
        axes = below.subplots()
        for view, course in enumerate(found.course):
            held = np.repeat(course, found.frames.shape[1] // len(course))
            axes.plot(found.seconds[view], held, drawstyle="steps-mid", label=f"view {view + 1}")
        axes.axhline(0 if found.signed else 1, color="#9aa5b1", linewidth=0.8)
        if not found.signed:
            axes.set_ylim(min(0.5, found.course.min() - 0.1), max(1.5, found.course.max() + 0.1))
        axes.set_xlabel(f"seconds\n{caption.method}\n{caption.model}")
        axes.set_ylabel("mean over\nthe frame")
        axes.legend(frameon=False, fontsize=7, loc="upper right", ncols=4)
        figure.savefig(path, format="png")


def _scale(found: Explanation) -> Normalize:
    """One scale for the whole video; contributions are drawn symmetrically around 0."""
    largest = float(np.abs(found.weights).max()) or 1.0
    return Normalize(-largest, largest) if found.signed else Normalize(EVEN, max(LEAST_PEAK, largest))


def _blended(grey: np.ndarray, heat: np.ndarray, scale: Normalize, signed: bool) -> np.ndarray:
    """A frame (S, S) with its heat map over it, uint8 (S, S, 3); what weighs nothing, or no more than an even share of
    the attention, is left as it is."""
    colours = matplotlib.colormaps[MAPS[signed]](scale(heat))[..., :3] * 255
    nothing = 0.0 if signed else EVEN
    weight = np.maximum(np.abs(heat) - nothing, 0) / (float(scale.vmax or 1) - nothing)
    opacity = 0.75 * np.sqrt(weight[..., None])  # the root, or all but the peak would be invisible
    return (grey[..., None] * (1 - opacity) + colours * opacity).clip(0, 255).round().astype(np.uint8)


def _colour_bar(page: Image.Image, left: int, top: int, height: int, scale: Normalize, signed: bool) -> None:
    values = np.linspace(float(scale.vmax or 1), float(scale.vmin or 0), height)
    colours = (matplotlib.colormaps[MAPS[signed]](scale(values))[:, None, :3] * 255).astype(np.uint8)
    page.paste(Image.fromarray(colours.repeat(12, axis=1)), (left, top))
    draw = ImageDraw.Draw(page)
    for share in (0.0, 0.5, 1.0):
        value = values[round(share * (height - 1))]
        draw.text((left + 16, top + round(share * (height - 12))), f"{value:.1f}", SOFT, ImageFont.load_default(11))


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a text that fit so many pixels."""
    font, lines = ImageFont.load_default(12), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width - 2 * MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
