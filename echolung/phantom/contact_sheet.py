"""A contact sheet of the phantoms: hearts in two views with the outline of their masks, and lungs of every pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from echolung.core.runtime import atomic_path
from echolung.phantom.findings import BLine, Consolidation, LungFindings
from echolung.phantom.heart import View, draw_heart
from echolung.phantom.lung import LungPatient, draw_lung

_TILE, _CAPTION, _GAP = 208, 22, 6  # pixels
_PAPER, _INK, _OUTLINE = (12, 13, 16), (205, 208, 214), (255, 176, 59)
_MOMENTS = (("end-diastole", 0.0), ("end-systole", 0.36), ("filling", 0.52))  # phase of a beat
_HEARTS: tuple[tuple[View, float, int], ...] = (("a4c", 64, 4), ("a4c", 24, 2), ("psax", 64, 4), ("psax", 24, 2))
"""View, ejection fraction and seed."""
_LUNGS = (
    ("regular: A-lines", LungFindings("regular", 0, irregularity=0.05, a_lines=1.2), 24),
    (
        "COVID-19: B-lines",
        LungFindings("covid", 1, (BLine(-9, 1.2, 3), BLine(8, 1.6, 2)), irregularity=0.35, a_lines=0.6),
        31,
    ),
    (
        "COVID-19: broken pleura",
        LungFindings(
            "covid",
            2,
            (BLine(-15, 1.5, 2), BLine(-4, 2.2, 3), BLine(11, 1.4, 3)),
            (Consolidation(4, 4, 5, 1),),
            irregularity=0.7,
            a_lines=0.2,
        ),
        21,
    ),
    (
        "COVID-19: white lung",
        LungFindings("covid", 3, (BLine(-8, 3, 2), BLine(10, 2.5, 3)), irregularity=0.8, white_lung=0.9, a_lines=0.1),
        29,
    ),
    (
        "pneumonia: consolidation",
        LungFindings("pneumonia", 3, (), (Consolidation(1, 19, 27, 9),), irregularity=0.3, a_lines=0.3),
        23,
    ),
    (
        "pneumonia: effusion",
        LungFindings("pneumonia", 2, (BLine(14, 1.5, 1),), (Consolidation(-5, 11, 16, 4),), 0.2, 0.0, 8.0, 0.4),
        29,
    ),
)


def contact_sheet(path: Path) -> None:
    """Write the contact sheet as a png."""
    tiles: list[tuple[str, Image.Image]] = []
    for view, ef, seed in _HEARTS:
        video = draw_heart(ef, 40, 25, _TILE, seed, view)
        ventricle = video.ventricle
        for name, share in _MOMENTS:
            frame = ventricle.end_diastole + round(share * ventricle.frames_per_beat)
            size = f"{ventricle.volumes[frame]:.0f} ml" if view == "a4c" else f"{video.heart.areas[frame]:.0f} cm2"
            caption = f"EF {ef:.0f}%: {name}, {size}"
            tiles.append((caption, _outlined(video.frames[frame], video.contour(frame, 100))))
    for caption, findings, seed in _LUNGS:
        patient = LungPatient.draw(np.random.default_rng(seed))
        lung = draw_lung(findings, patient, 2, 25, (_TILE, _TILE), seed)
        tiles.append((caption, Image.fromarray(lung.frames[0]).convert("RGB")))
    sheet = _arrange(tiles, columns=6)
    with atomic_path(path) as temporary:
        sheet.quantize(palette=_palette(), dither=Image.Dither.NONE).save(temporary, optimize=True)


def _palette() -> Image.Image:
    """48 greys and the outline's colour blended with them: half the bytes of full colour."""
    greys = [(level, level, level) for level in np.linspace(0, 255, 48).astype(int)]
    mixed = [
        tuple((np.array(_OUTLINE) * share + 255 * grey * (1 - share)).astype(int))
        for share in (1.0, 0.75, 0.5, 0.3)
        for grey in (0.1, 0.3, 0.5, 0.8)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(part) for colour in (*greys, *mixed) for part in colour])
    return palette


def _outlined(frame: NDArray[np.uint8], outline: NDArray[np.floating]) -> Image.Image:
    """The frame with an anti-aliased closed line on it."""
    fine = Image.new("L", (4 * frame.shape[1], 4 * frame.shape[0]))
    points = [(4 * x + 2, 4 * y + 2) for x, y in outline]
    ImageDraw.Draw(fine).line([*points, points[0]], fill=255, width=5, joint="curve")
    line = fine.resize((frame.shape[1], frame.shape[0]), Image.Resampling.BOX)
    picture = Image.fromarray(frame).convert("RGB")
    picture.paste(Image.new("RGB", picture.size, _OUTLINE), mask=line)
    return picture


def _arrange(tiles: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    width, height = _TILE + _GAP, _TILE + _CAPTION + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (caption, tile) in enumerate(tiles):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(tile, (left, top))
        pen.text((left + 4, top + _TILE + 4), caption, fill=_INK, font=font)
    return sheet
