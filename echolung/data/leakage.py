"""Near-duplicate videos: the same recording under two patients, found by its frames.

Collections copy from each other, trim, resize and re-encode, and give one person two numbers; a model that has seen one
copy recognises the other. Videos are compared in two steps. First, small high-passed frames of every pair of videos,
whatever their time (so that a part is found in the whole). Pairs that look alike are then registered: the middle of a
frame is moved and scaled over the other one, and the best locally normalised correlation is the pair's similarity. This
depends on speckle and anatomy, not on the shape of the sector, which all videos of a machine share.

Copies are found after trimming, re-encoding, resizing, a change of brightness, text over a corner, black borders and
crops of a few percent per side. Mirrored copies and larger crops are not.

Dimension letters: V videos, Q frames a video asks with, T frames it is seen by, G side of a small frame, K scales.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from echolung.core.runtime import atomic_path, code_digest, digest
from echolung.data.clips import ClipStore

PAIR_COLUMNS = ("sample_a", "sample_b", "similarity", "same_patient")

QUERIES, SEEN = 12, 64
GLANCE, GLANCE_BLUR = 32, 2.0
GLANCE_FLOOR = 0.6
"""Pairs with a lower correlation are not registered. Copies are above; 1 in 50 strangers on one machine is."""
BEST = 5
"""How many frames must look alike: a video that contains part of another one is its copy, too."""
SIGHT, SIGHT_BLUR, MARGIN = 64, 1.0, 8
CONTRAST_FLOOR = 8.0
"""Contrast (grey levels) below which detail counts less, so that compression noise in dark parts does not count."""
SCALES = np.arange(0.84, 1.181, 0.02)


@dataclass(frozen=True)
class _Look:
    """A video as it is compared: `frames` uint8 (T, S', S'') and their small high-passed versions (T, G * G)."""

    frames: np.ndarray
    glance: np.ndarray

    @property
    def queries(self) -> np.ndarray:
        """Indices of the frames it is searched with, (Q,); short videos repeat some."""
        return np.linspace(0, len(self.frames) - 1, QUERIES).round().astype(int)


def near_duplicates(manifest: pd.DataFrame, frames_of: Callable[[str], np.ndarray], threshold: float) -> pd.DataFrame:
    """Pairs of the manifest's videos (sample_id, patient_id, sha256) with a similarity of at least `threshold`.

    `frames_of`: all frames of a video by sample id, uint8 (T, S, S). Returns sample_a < sample_b, similarity in
    [threshold, 1] (1 for identical files) and same_patient, most similar first. A threshold of 1 looks at no frame.
    """
    manifest = manifest.sort_values("sample_id", ignore_index=True)
    ids = [str(name) for name in manifest["sample_id"]]
    copied = manifest.index.to_series().groupby(manifest["sha256"]).transform("min")
    similar = {(first, index): 1.0 for index, first in enumerate(copied) if first != index}
    with threadpool_limits(1):  # the matrices are small: threads would only wait
        looks = [_looks(frames_of(name)) for name in ids] if threshold < 1 else []
    for way in range(2 if looks else 0):
        chosen = [look[way] for look in looks]
        candidates = [pair for pair in _alike(chosen) if similar.get(pair) != 1.0]
        with threadpool_limits(1):
            for first, second in candidates:
                found = _registered(chosen[first], chosen[second])
                similar[first, second] = max(found, similar.get((first, second), 0.0))
    patients = manifest["patient_id"].astype(str)
    rows = [
        (ids[first], ids[second], round(value, 3), patients[first] == patients[second])
        for (first, second), value in similar.items()
        if value >= threshold
    ]
    pairs = pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype({"similarity": float, "same_patient": bool})
    order = ["similarity", "sample_a", "sample_b"]
    return pairs.sort_values(order, ascending=[False, True, True], ignore_index=True)


def find_pairs(manifest: pd.DataFrame, stores: Mapping[str, ClipStore], threshold: float, cache: Path) -> pd.DataFrame:
    """`near_duplicates` of the manifest's sources, which may be several, each with its store; kept in `cache`."""
    videos = manifest[["sample_id", "patient_id", "sha256"]].sort_values("sample_id").astype(str)
    made = [code_digest("echolung.data.leakage"), threshold, *(store.fingerprint for store in stores.values())]
    path = cache / f"{digest([*made, videos.to_numpy().tolist()])}.csv"
    if not path.is_file():
        store_of = {str(row.sample_id): stores[str(row.source)] for row in manifest.itertuples()}
        write_pairs(path, near_duplicates(manifest, lambda name: store_of[name].frames(name), threshold))
    return pd.read_csv(path, dtype={"sample_a": str, "sample_b": str, "same_patient": bool}, keep_default_na=False)


def split_groups(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The split group of every row: the manifest's groups (else patients), joined where a patient or a pair links two.

    A joined group has the first of its names. Aligned with the manifest's index; pairs of other videos are ignored.
    """
    patients = manifest["patient_id"].astype(str)
    own = manifest["split_group"].fillna(patients).astype(str) if "split_group" in manifest else patients
    group_of = dict(zip(manifest["sample_id"].astype(str), own, strict=True))
    links = list(zip(own, own.groupby(patients.to_numpy()).transform("first"), strict=True))
    links += [
        (group_of[first], group_of[second])
        for first, second in zip(pairs["sample_a"], pairs["sample_b"], strict=True)
        if first in group_of and second in group_of
    ]
    names = pd.Index(sorted(own.unique()))
    ends = [names.get_indexer(list(side)) for side in zip(*links, strict=True)]
    _, component = connected_components(coo_array((np.ones(len(links)), ends), shape=(len(names),) * 2), directed=False)
    first_name = pd.Series(names).groupby(component).transform("first")
    return own.map(dict(zip(names, first_name, strict=True))).rename("split_group")


def write_pairs(path: Path, pairs: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        pairs.to_csv(temporary, index=False, lineterminator="\n")


def _looks(frames: np.ndarray) -> tuple[_Look, _Look]:
    """A video as it is stored, and without its black borders, which move and shrink the picture."""
    seen = np.unique(np.linspace(0, len(frames) - 1, SEEN).round().astype(int))
    whole = np.asarray(frames[seen])
    content = _content(whole)
    look = _Look(whole, _glance(whole))
    return look, look if content.shape == whole.shape else _Look(content, _glance(content))


def _content(frames: np.ndarray) -> np.ndarray:
    """The smallest rectangle outside which all frames are nearly black."""
    brightest = frames.max(axis=0)
    lit = brightest > 0.12 * np.percentile(brightest, 99.5)
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if len(rows) < MARGIN or len(columns) < MARGIN:
        return frames
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _glance(frames: np.ndarray) -> np.ndarray:
    """Local contrast of small frames, float32 (T, G * G) of unit length: products are correlations."""
    flat = _contrast(_resize(frames, GLANCE), GLANCE_BLUR).reshape(len(frames), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)


def _resize(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, S', S'') -> float32 (T, size, size), bilinear and antialiased."""
    rows, columns = (_weights(given, size) for given in frames.shape[1:])
    return rows @ frames.astype(np.float32) @ columns.T


@functools.lru_cache(maxsize=256)
def _weights(given: int, wanted: int) -> np.ndarray:
    """Each wanted pixel as a mean of the given ones, (wanted, given): a triangle that widens with the shrinkage."""
    scale = given / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(given) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0, 1 - distance).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def _alike(looks: list[_Look]) -> Iterator[tuple[int, int]]:
    """Pairs (first < second) in which BEST frames of one look like some frame of the other."""
    asked = np.concatenate([look.glance[look.queries] for look in looks])
    alike = np.zeros((len(looks), len(looks)), dtype=np.float32)
    for index, look in enumerate(looks):
        nearest = (asked @ look.glance.T).max(axis=1).reshape(-1, QUERIES)
        alike[:, index] = np.partition(nearest, -BEST, axis=1)[:, -BEST:].mean(axis=1)
    firsts, seconds = np.nonzero(np.triu(np.maximum(alike, alike.T) >= GLANCE_FLOOR, k=1))
    yield from zip(firsts.tolist(), seconds.tolist(), strict=True)


def _registered(first: _Look, second: _Look) -> float:
    """Similarity of two videos after registration, searching with the one that finds more of itself in the other."""
    sides = []
    for one, other in ((first, second), (second, first)):
        correlation = one.glance[one.queries] @ other.glance.T
        asking = np.argsort(-correlation.max(axis=1), kind="stable")[:BEST]
        sides.append((correlation.max(axis=1)[asking].mean(), one, one.queries[asking], other, correlation[asking]))
    _, one, asking, other, correlation = max(sides, key=lambda side: side[0])
    answers = correlation.argmax(axis=1)
    maps = [_correlation(one.frames[q], other.frames[a]) for q, a in zip(asking, answers, strict=True)]
    # One scale and shift for all frames, as between copies; strangers fit best with another one in every frame.
    return min(float(np.mean(maps, axis=0).max()), 1.0)


def _correlation(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Normalised correlation of the middle of `frame` with `other` at SCALES and shifts up to MARGIN, (K, y, x)."""
    weights = _middles()
    picture = _contrast(_resize(frame[None], weights.shape[2]), SIGHT_BLUR)[0]
    middles = (weights @ picture) @ weights.transpose(0, 2, 1)
    middles -= middles.mean(axis=(1, 2), keepdims=True)
    middles /= np.maximum(np.linalg.norm(middles, axis=(1, 2), keepdims=True), 1e-3)
    templates = np.pad(middles, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    target = _contrast(_resize(other[None], SIGHT), SIGHT_BLUR)[0]
    spectrum, box = np.fft.rfft2(target), _box_spectrum()
    # Sums over the window at every shift give the local mean and spread that the correlation is normalised by.
    sums = np.fft.irfft2(spectrum * box, target.shape)
    squares = np.fft.irfft2(np.fft.rfft2(target**2) * box, target.shape)
    spread = np.sqrt(np.maximum(squares - sums**2 / middles[0].size, 1e-3))
    correlation = np.fft.irfft2(np.conj(np.fft.rfft2(templates)) * spectrum, target.shape) / spread
    shifts = np.r_[0 : MARGIN + 1, SIGHT - MARGIN : SIGHT]
    return correlation[:, shifts][:, :, shifts]


@functools.cache
def _middles() -> np.ndarray:
    """Weights that scale a picture and cut out its middle, (K, SIGHT - 2 * MARGIN, side of the picture)."""
    side, window = round(SIGHT * SCALES[-1]), SIGHT - 2 * MARGIN
    scaled = [_weights(side, round(SIGHT * scale)) for scale in SCALES]
    return np.stack([one[(len(one) - window) // 2 :][:window] for one in scaled])


@functools.cache
def _box_spectrum() -> np.ndarray:
    box = np.zeros((SIGHT, SIGHT), np.float32)
    box[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    return np.conj(np.fft.rfft2(box))


def _contrast(pictures: np.ndarray, blur: float) -> np.ndarray:
    """High-passed and divided by the local spread (T, G, G), so that bright edges do not outweigh speckle."""
    detail = pictures - ndimage.gaussian_filter(pictures, (0, blur, blur))
    spread = np.sqrt(ndimage.gaussian_filter(detail**2, (0, 2 * blur, 2 * blur)))
    return detail / (spread + CONTRAST_FLOOR)
