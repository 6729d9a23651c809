"""Hand-made features of a video: brightness by depth, texture and motion, as one would compute them without a network.

What sonographers name has its number: repetitions (A-lines), streaks to the bottom (B-lines), movement of the pleura.

Dimension letters: T frames, H W pixels of the picture without its letterbox, K features.
"""

import zlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from echolung.embedding.recordings import Recordings

_KNOWN: dict[tuple[int, tuple[int, ...]], dict[str, float]] = {}  # features that this process has computed, by content
FRAMES = 16  # pairs of neighbouring frames that are looked at, evenly spaced over the video
BANDS = 8  # horizontal bands, from the probe to the depth


def handmade_table(recordings: Recordings, sample_ids: Iterable[str]) -> pd.DataFrame:
    """One row of features per video, index sample_id."""
    rows = {}
    for name in sample_ids:
        frames = np.asarray(recordings.frames(name))
        key = (zlib.crc32(frames.tobytes()), frames.shape)  # every fold of a task asks for the same videos
        if key not in _KNOWN:
            _KNOWN[key] = handmade_features(frames)
        rows[name] = _KNOWN[key]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("sample_id")


def handmade_features(frames: np.ndarray) -> dict[str, float]:
    """About forty numbers from the frames uint8 (T, S, S) of a video; finite whatever the frames show."""
    first = np.linspace(0, max(len(frames) - 2, 0), min(FRAMES, len(frames))).round().astype(int)
    now = _picture(frames[first])
    after = _picture(frames[np.minimum(first + 1, len(frames) - 1)])
    shape = np.minimum(now.shape, after.shape)
    now, after = now[:, : shape[1], : shape[2]], after[:, : shape[1], : shape[2]]
    return {**_brightness(now), **_texture(now), **_repetition(now), **_motion(now, after)}


def _picture(frames: np.ndarray) -> np.ndarray:
    """Frames as floats 0..1 without the black borders that letterboxing added."""
    lit = frames.max(axis=0) > 0
    if not lit.any():
        return frames.astype(np.float32) / 255
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255


def _bands(values: np.ndarray, axis: int = 1) -> list[np.ndarray]:
    """Always BANDS of them: where there are fewer rows, neighbours share one."""
    size = values.shape[axis]
    edges = [(band * size // BANDS, max((band + 1) * size // BANDS, band * size // BANDS + 1)) for band in range(BANDS)]
    return [values.take(range(first, last), axis=axis) for first, last in edges]


def _brightness(x_THW: np.ndarray) -> dict[str, float]:
    shares = np.histogram(x_THW, bins=32, range=(0, 1))[0] / x_THW.size
    seen = shares[shares > 0]
    found = {"mean": float(x_THW.mean()), "std": float(x_THW.std()), "entropy": float(-(seen * np.log2(seen)).sum())}
    quantiles = np.quantile(x_THW, (0.25, 0.5, 0.75, 0.95))
    found |= {f"quantile_{name}": float(q) for name, q in zip((25, 50, 75, 95), quantiles, strict=True)}
    for at, band in enumerate(_bands(x_THW)):
        found[f"band_{at}_mean"] = float(band.mean())
        # Columns that are bright from band to band are B-lines or rib shadows.
        found[f"band_{at}_columns"] = float(band.mean(axis=(0, 1)).std())
    return found


def _texture(x_THW: np.ndarray) -> dict[str, float]:
    vertical = np.abs(np.diff(x_THW, axis=1)).mean() if x_THW.shape[1] > 1 else 0.0
    horizontal = np.abs(np.diff(x_THW, axis=2)).mean() if x_THW.shape[2] > 1 else 0.0
    return {
        "edges_vertical": float(vertical),
        "edges_horizontal": float(horizontal),
        "edges_ratio": float(np.log((vertical + 1e-4) / (horizontal + 1e-4))),
    }


def _repetition(x_THW: np.ndarray) -> dict[str, float]:
    """How much the depth profile repeats itself: the highest autocorrelation at a lag of 1/8 to 1/2 of the depth."""
    profile = x_THW.mean(axis=(0, 2))
    depth = len(profile)
    wave = profile - np.polynomial.Polynomial.fit(np.arange(depth), profile, min(3, depth - 1))(np.arange(depth))
    power = float((wave**2).sum())
    lags = range(max(1, depth // 8), depth // 2 + 1)
    if power < 1e-8 or not lags:
        return {"repetition": 0.0, "repetition_lag": 0.0}
    correlation = [float((wave[lag:] * wave[:-lag]).sum()) / power for lag in lags]
    best = int(np.argmax(correlation))
    return {"repetition": correlation[best], "repetition_lag": lags[best] / depth}


def _motion(now_THW: np.ndarray, after_THW: np.ndarray) -> dict[str, float]:
    change = np.abs(after_THW - now_THW)
    bands = {f"band_{at}_motion": float(band.mean()) for at, band in enumerate(_bands(change))}
    return {"motion": float(change.mean()), **bands}
