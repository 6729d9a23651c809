"""Drawn ventricles for tests: ellipses in noise that shrink, with their masks, as ingest leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from drawn import manifest_of, save_source

from echolung.data.masks import Masks, write_masks
from echolung.embedding.recordings import Recordings

SIDE = 48


def ellipse(side: int, height: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """bool (side, side): half axes `height` and `width` in pixels, its centre (x, y) off the middle."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1


def hearts(directory: Path, patients: int, frames: int = 2, views: tuple[str, ...] = ("A4C",)) -> Recordings:
    """Below `directory`/hearts: one recording per patient and view. ED is the first frame, ES the middle one.

    Both half axes shrink by the same factor q, so that the disc EF is 1 - q^3; the manifest's `ef` is that plus 3.
    """
    random, rows, shown, masks = np.random.default_rng(0), [], {}, {}
    for patient in range(patients):
        q = random.uniform(0.6, 0.9)
        for view in views:
            name, (x, y) = f"hearts/{patient:02d}{view}", random.uniform(-3, 3, 2)
            beat = 1 - (1 - q) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frames) / frames))
            drawn = np.stack([ellipse(SIDE, 16 * s, 10 * s, x, y) for s in beat])
            pixels = random.normal(90, 25, drawn.shape) * np.where(drawn, 0.3, 1.0)
            shown[name] = pixels.clip(1, 255).astype(np.uint8)
            traced = np.array([0, frames // 2])
            picture = (0, 0, SIDE, SIDE)
            masks[name] = Masks(traced, ("ED", "ES"), drawn[traced].astype(np.uint8), ("left ventricle",), 2.0, picture)
            rows.append((name, patient, view, 100 * (1 - q**3) + 3))
    table = pd.DataFrame(rows, columns=["name", "patient", "view", "ef"])
    manifest = manifest_of(table["name"], table["patient"], view=table["view"], ef=table["ef"], frames=frames)
    save_source(directory / "hearts", manifest, shown)
    write_masks(directory / "hearts" / "masks", SIDE, masks)
    return Recordings.of_sources(directory, ["hearts"])
