"""Near-duplicate videos: the same recording under two patients, found by its frames.

Collections copy from each other, trim, resize and re-encode, and give one person two numbers; a model that has seen one
copy recognises the other. First, small high-passed frames of every pair of videos are compared, whatever their time (so
that a part is found in the whole). Where they look alike, the middle of one is moved and scaled over the other. Pairs
that still look alike are registered: the same on larger frames and in finer steps, where the best locally normalised
correlation is the pair's similarity. It depends on speckle and anatomy, not on the sector, common to a machine.

Copies are found after trimming, re-encoding, resizing, a change of brightness, text over a corner, black borders and
crops of a few percent per side. Mirrored copies and larger crops are not.

Dimension letters: V videos, Q frames a video asks with, T it is seen by, G side of small frames, K scales, M moves.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from echolung.core.runtime import atomic_path, code_digest, digest
from echolung.data.clips import ClipStore

QUERIES, SEEN = 12, 64
GLANCE, GLANCE_BLUR = 32, 2.0
GLANCE_FLOOR = 0.6
"""Pairs with a lower correlation are not moved. Copies are above; so are 1 in 50 lungs of one machine, most hearts."""
MOVED_FLOOR = 0.75
"""Pairs with a lower correlation after moves are not registered. Small frames are smooth: copies are above."""
BEST = 5  # how many frames must look alike: a video that contains part of another one is its copy, too
SIGHT, SIGHT_BLUR, MARGIN = 64, 1.0, 8
CONTRAST_FLOOR = 8.0  # grey levels below which detail counts less: compression noise in dark parts does not count
SCALES = np.arange(0.84, 1.181, 0.02)


class _Look:
    """A video as it is compared."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames  # uint8 (T, S', S'')
        self.glance = _glance(frames)  # their small high-passed versions, (T, G * G)
        # Indices of the frames it is searched with, (Q,); short videos repeat some.
        self.queries = np.linspace(0, len(frames) - 1, QUERIES).round().astype(int)


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
    columns = ["sample_a", "sample_b", "similarity", "same_patient"]
    pairs = pd.DataFrame(rows, columns=columns).astype({"similarity": float, "same_patient": bool})
    return pairs.sort_values(["similarity", *columns[:2]], ascending=[False, True, True], ignore_index=True)


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
    copies = pairs[["sample_a", "sample_b"]].apply(lambda side: side.map(group_of)).dropna()
    links += copies.itertuples(index=False)
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
    look = _Look(whole)
    return look, look if content.shape == whole.shape else _Look(content)


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
    """Pairs (first < second) in which BEST frames of one look like some frame of the other, in place and moved."""
    seen = np.concatenate([look.glance for look in looks])
    spread = np.concatenate([_spread(look.glance) for look in looks])
    lengths = [len(look.glance) for look in looks]
    starts = np.cumsum([0, *lengths[:-1]])
    alike = np.zeros((len(looks), len(looks)), dtype=bool)
    for index, look in enumerate(looks):
        correlation = look.glance[look.queries] @ seen.T
        nearest = np.maximum.reduceat(correlation, starts, axis=1)  # (Q, V)
        ordinal = np.where(correlation == np.repeat(nearest, lengths, axis=1), np.arange(len(seen)), len(seen))
        answers = np.minimum.reduceat(ordinal, starts, axis=1)
        best = np.argsort(-nearest, axis=0, kind="stable")[:BEST]
        others = np.flatnonzero(np.take_along_axis(nearest, best, axis=0).mean(axis=0) >= GLANCE_FLOOR)
        asking = look.queries[best[:, others]]
        moved = np.zeros((len(others), len(SCALES[::2]), spread.shape[1]), dtype=np.float32)
        for frame in np.unique(asking):
            share = (asking == frame).mean(axis=0, dtype=np.float32)
            (asked,) = share.nonzero()
            found = answers[np.searchsorted(look.queries, frame), others[asked]]
            templates = _moves(_middles(look.frames[frame], GLANCE, GLANCE_BLUR, 2))
            product = (seen[found] @ templates.T).reshape(len(asked), *moved.shape[1:])
            moved[asked] += share[asked, None, None] * product / spread[found, None]
        alike[index, others] = moved.max(axis=(1, 2)) >= MOVED_FLOOR
    firsts, seconds = np.nonzero(np.triu(alike | alike.T, k=1))
    yield from zip(firsts.tolist(), seconds.tolist(), strict=True)


def _spread(glance: np.ndarray) -> np.ndarray:
    """Spread of small frames inside the window at every move, (T, M)."""
    window = _middle_weights(GLANCE, 2).shape[1]
    boxes = _moves(np.ones((1, window, window), np.float32))
    return np.sqrt(np.maximum(glance**2 @ boxes.T - (glance @ boxes.T) ** 2 / boxes[0].sum(), 1e-6))


def _moves(middles: np.ndarray) -> np.ndarray:
    """Middles (K, window, window) at every place in a small frame, which is 0 elsewhere: (K * M, G * G)."""
    window = middles.shape[1]
    moved = np.zeros((len(middles), *(GLANCE - window + 1,) * 2, GLANCE, GLANCE), np.float32)
    for y, x in np.ndindex(moved.shape[1:3]):
        moved[:, y, x, y : y + window, x : x + window] = middles
    return moved.reshape(-1, GLANCE * GLANCE)


def _registered(first: _Look, second: _Look) -> float:
    """Similarity of two videos after registration, searching with the one that finds more of itself in the other."""
    sides = []
    for one, other in ((first, second), (second, first)):
        correlation = one.glance[one.queries] @ other.glance.T
        asking = np.argsort(-correlation.max(axis=1), kind="stable")[:BEST]
        sides.append((correlation.max(axis=1)[asking].mean(), one, one.queries[asking], other, correlation[asking]))
    _, one, asking, other, correlation = max(sides, key=lambda side: side[0])
    answers = correlation.argmax(axis=1)
    matches, times = np.unique(np.stack([asking, answers]), axis=1, return_counts=True)
    maps = [_correlation(one.frames[q], other.frames[a]) for q, a in matches.T]
    # One scale and shift for all frames, as between copies; strangers fit best with another one in every frame.
    return min(float(np.average(maps, axis=0, weights=times).max()), 1.0)


def _correlation(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Normalised correlation of the middle of `frame` with `other` at SCALES and shifts up to MARGIN, (K, y, x)."""
    import cv2  # a quarter of a second to import

    target = _contrast(_resize(other[None], SIGHT), SIGHT_BLUR)[0]
    middles = _middles(frame, SIGHT, SIGHT_BLUR, 1)
    return np.stack([cv2.matchTemplate(target, middle, cv2.TM_CCOEFF_NORMED) for middle in middles])


def _middles(frame: np.ndarray, size: int, blur: float, step: int) -> np.ndarray:
    """The middle of a frame as large as `size` at every step-th scale, of unit length: (K, window, window)."""
    weights = _middle_weights(size, step)
    picture = _contrast(_resize(frame[None], weights.shape[2]), blur)[0]
    middles = (weights @ picture) @ weights.transpose(0, 2, 1)
    middles -= middles.mean(axis=(1, 2), keepdims=True)
    return middles / np.maximum(np.linalg.norm(middles, axis=(1, 2), keepdims=True), 1e-3)


@functools.cache
def _middle_weights(size: int, step: int) -> np.ndarray:
    """Weights that scale a picture and cut out its middle, (K, window, side of the picture)."""
    side, window = round(size * SCALES[-1]), size - 2 * MARGIN * size // SIGHT
    scaled = [_weights(side, round(size * scale)) for scale in SCALES[::step]]
    return np.stack([one[(len(one) - window) // 2 :][:window] for one in scaled])


def _contrast(pictures: np.ndarray, blur: float) -> np.ndarray:
    """High-passed and divided by the local spread (T, G, G), so that bright edges do not outweigh speckle."""
    detail = pictures - ndimage.gaussian_filter(pictures, (0, blur, blur))
    spread = np.sqrt(ndimage.gaussian_filter(detail**2, (0, 2 * blur, 2 * blur)))
    return detail / (spread + CONTRAST_FLOOR)
