"""Small drawn inputs for tests: folds, features in memory or on disk, and sources as ingest leaves them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.data import clips
from echolung.data.manifest import conform, write_manifest
from echolung.data.splits import SplitSettings, make_folds
from echolung.embedding import features


def manifest_of(names: Sequence[str], patient: Sequence[object], **columns: object) -> pd.DataFrame:
    """Manifest rows of videos called <source>/<stem>."""
    sources = [name.split("/")[0] for name in names]
    rows = pd.DataFrame({"sample_id": list(names), "source": sources, "path": [f"/x/{name}.mp4" for name in names]})
    rows["patient_id"] = [f"{source}/p{one}" for source, one in zip(sources, patient, strict=True)]
    rows["sha256"] = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    facts = {"codec": "h264", "fps": 25.0, "height": 48, "width": 64, "frames": 8}
    return conform(rows.assign(**facts | columns))


def folds_of(manifest: pd.DataFrame, y: np.ndarray, how: str = "cv", tested: str = "", **settings: int) -> pd.DataFrame:
    """Folds of all videos of a manifest, with classes y (V,) called "class 0" and so on."""
    rows = manifest[["sample_id", "source", "patient_id", "split_group"]].astype(object)
    rows = rows.assign(y=y.astype(float), stratum=y.astype(int), label=[f"class {k}" for k in y])
    return make_folds(rows, SplitSettings(**{"outer": 3, "inner": 2} | settings), how, tested)


def features_of(
    names: Sequence[str], tokens: np.ndarray, grid: tuple[int, int, int] | None = None
) -> features.Features:
    """The tokens (V, views, N, D) of an encoder that has seen none of the videos, in memory."""
    return features.Features.in_memory(names, tokens.astype(np.float16), grid or (tokens.shape[2], 1, 1))


def save_clips(
    directory: Path, videos: Mapping[str, np.ndarray], fps: float | Sequence[float] = 25.0, fingerprint: str = ""
) -> clips.ClipStore:
    """A clip store of frames uint8 (T, S, S) by sample id; that of the n-th is the file sha<n>.npy."""
    directory.mkdir(parents=True, exist_ok=True)
    index, rates = {}, np.resize(fps, len(videos)).tolist()
    for number, (name, frames) in enumerate(videos.items()):
        np.save(directory / f"sha{number}.npy", frames)
        index[name] = {"sha256": f"sha{number}", "frames": len(frames), "fps": rates[number]}
    size = next((frames.shape[1] for frames in videos.values()), 16)
    clips.write_index(directory, size, index, fingerprint)
    return clips.ClipStore.open(directory)


def save_source(
    directory: Path, manifest: pd.DataFrame, frames: Mapping[str, np.ndarray], fingerprint: str = ""
) -> clips.ClipStore:
    """Write manifest.parquet and a clip store of the frames uint8 (T, S, S) of some or all of its videos."""
    rows, index = manifest.set_index("sample_id"), {}
    (directory / "clips").mkdir(parents=True, exist_ok=True)
    for name, shown in frames.items():
        np.save(directory / "clips" / f"{rows['sha256'][name]}.npy", shown)
        index[name] = {"sha256": rows["sha256"][name], "frames": len(shown), "fps": float(rows["fps"][name])}
    clips.write_index(directory / "clips", next(iter(frames.values())).shape[1], index, fingerprint)
    write_manifest(directory / "manifest.parquet", manifest)
    return clips.ClipStore.open(directory / "clips")
