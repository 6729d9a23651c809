"""Drawn ventricles for tests: dark ellipses in bright tissue that shrink, with masks, as ingest leaves them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from drawn import features_of, manifest_of, save_source

from echolung.data.masks import Masks, write_masks
from echolung.embedding.features import Features
from echolung.embedding.recordings import Recordings

SIDE, DARK = 48, 60
"""Side of the frames; what is darker and not black is ventricle."""


def ellipse(side: int, height: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """bool (side, side): half axes `height` and `width` in pixels, its centre (x, y) off the middle."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1


def hearts(directory: Path, patients: int, frames=2, views=("A4C",), noise=0.0) -> Recordings:
    """Below `directory`/hearts: one recording per patient and view; ED is the first frame, ES the middle one.

    Both half axes shrink by the same factor q, so that the disc EF is 100 (1 - q^3); the reference `ef` is 3 more. Of
    the official split every fourth patient is TEST and every fifth VAL.
    """
    random, rows, shown, masks = np.random.default_rng(0), [], {}, {}
    for patient in range(patients):
        q, split = random.uniform(0.6, 0.9), "TEST" if patient % 4 == 3 else "VAL" if patient % 5 == 4 else "TRAIN"
        for view in views:
            name, (x, y) = f"hearts/{patient:02d}{view}", random.uniform(-3, 3, 2)
            beat = 1 - (1 - q) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frames) / frames))
            drawn = np.stack([ellipse(SIDE, 18 * s, 12 * s, x, y) for s in beat])
            pixels = (100 + noise * random.normal(size=drawn.shape)) * np.where(drawn, 0.3, 1.0)
            shown[name] = pixels.clip(1, 255).astype(np.uint8)
            traced = np.array([0, frames // 2])
            labels = drawn[traced].astype(np.uint8)
            masks[name] = Masks(traced, ("ED", "ES"), labels, ("left ventricle",), 2.0)
            rows.append((name, patient, view, 100 * (1 - q**3) + 3, split))
    names, of, views, ef, splits = map(list, zip(*rows, strict=True))
    manifest = manifest_of(names, of, frames=frames, view=views, ef=ef, split_official=splits)
    save_source(directory / "hearts", manifest, shown)
    write_masks(directory / "hearts" / "masks", SIDE, masks)
    return Recordings.of_sources(directory, ["hearts"])


def still_tokens(shown: Mapping[str, np.ndarray]) -> Features:
    """Means and deviations of tiles of two frames each, uint8 (2, S, S) by name, as clips and as still frames."""
    names = list(shown)
    tiles = np.stack([*shown.values()]).reshape(len(names), 2, 12, 4, 12, 4)
    tokens = np.stack([tiles.mean(axis=(3, 5)), tiles.std(axis=(3, 5))], axis=-1).reshape(len(names), 2, 144, 2) / 100
    tokens = np.concatenate([tokens, 1 - tokens, np.ones_like(tokens)], axis=-1).astype(np.float16)
    made = features_of(names, tokens.reshape(len(names), 1, 288, 6), (2, 12, 12))
    record = made.record.model_copy(update={"traced": {name: (2 * at, 2) for at, name in enumerate(names)}})
    return dataclasses.replace(made, record=record, frames=tokens.reshape(-1, 144, 6))
