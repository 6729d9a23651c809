"""A contact sheet of the phantoms: hearts in three views, outlined by their masks, and lungs of every pattern:

python docs/phantoms.py docs/phantoms.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from echolung.core.runtime import atomic_path
from echolung.phantom.findings import Pattern, draw_findings
from echolung.phantom.heart import View, draw_heart
from echolung.phantom.lung import LungPatient, draw_lung

_SIZE = 208  # pixels
_MOMENTS = {"end-diastole": 0.0, "end-systole": 0.36, "filling": 0.52}  # phase of a beat
_HEARTS: list[tuple[View, float, int]] = [("a4c", 64, 4), ("a2c", 64, 4), ("psax", 64, 4), ("a4c", 24, 2)]
"""View, ejection fraction and seed."""
_LUNGS: dict[str, tuple[Pattern, int, int, float]] = {  # severity, seed and noise
    "regular: A-lines": ("regular", 0, 2, 0),
    "COVID-19: B-lines": ("covid", 1, 71, 0),
    "B-lines, a noisy machine": ("covid", 1, 71, 30),
    "COVID-19: white lung": ("covid", 3, 7, 0),
    "pneumonia: consolidation": ("pneumonia", 3, 37, 0),
    "consolidation, a noisy machine": ("pneumonia", 3, 37, 30),
}


def contact_sheet(path: Path) -> None:
    """Write the contact sheet as a png."""
    figure = Figure(figsize=(11, 6), facecolor="#0c0d10", layout="constrained")
    tiles = figure.subplots(3, 6).flat
    captions: list[str] = []
    for view, ef, seed in _HEARTS:
        video = draw_heart(ef, 40, 25, _SIZE, seed, view)
        ventricle = video.heart.ventricle
        for name, share in _MOMENTS.items():
            tile, frame = tiles[len(captions)], ventricle.end_diastole + round(share * ventricle.frames_per_beat)
            tile.imshow(video.frames[frame], cmap="gray", vmin=0, vmax=255)
            tile.add_patch(Polygon(video.contour(frame, 100), fill=False, edgecolor="#ffb03b"))
            size = f"{ventricle.volumes[frame]:.0f} ml" if view != "psax" else f"{video.heart.areas[frame]:.0f} cm2"
            captions.append(f"EF {ef}%: {name}, {size}")
    for tile, (pattern, severity, seed, noise) in zip(tiles[12:], _LUNGS.values(), strict=True):
        rng = np.random.default_rng(seed)
        findings = draw_findings(pattern, severity, rng)
        lung = draw_lung(findings, LungPatient.draw(rng, noise), 2, 25, (_SIZE, _SIZE), seed)
        tile.imshow(lung.frames[0], cmap="gray", vmin=0, vmax=255)
    for tile, caption in zip(tiles, [*captions, *_LUNGS], strict=True):
        tile.set_axis_off()
        tile.set_title(caption, color="#cdd0d6", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1]))
