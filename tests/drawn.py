"""Small drawn inputs for tests: folds, features in memory or on disk, and sources as ingest leaves them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.data import clips
from echolung.data.ingest import Ingested, IngestSettings, ingest
from echolung.data.manifest import conform, write_manifest
from echolung.data.masks import Masks, read_masks
from echolung.data.splits import SplitSettings, make_folds
from echolung.embedding.features import Features
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.classification import ClassificationTask
from echolung.methods.fitting import outer_fold
from echolung.pretraining.settings import PretrainSettings

Stored = tuple[Ingested, clips.ClipStore, dict[str, Masks]]


def ingested(out: Path, name: str, layout: str, root: Path | str, size=32, said=print, **options: object) -> Stored:
    """A source as the stage ingest leaves it in `out`, with its clips and masks as they are read from there."""
    source = {"layout": layout, "root": str(root)} | options
    found = ingest(name, IngestSettings.parse({"size": size, "sources": {name: source}}, ""), out, on_message=said)
    found.write(out)
    return found, clips.ClipStore.open(out / "clips"), read_masks(out / "masks")


def manifest_of(names: Sequence[str], patient: Sequence[object], **columns: object) -> pd.DataFrame:
    """Manifest rows of videos called <source>/<stem>."""
    sources = [name.split("/")[0] for name in names]
    rows = pd.DataFrame({"sample_id": list(names), "source": sources, "path": [f"/x/{name}.mp4" for name in names]})
    rows["patient_id"] = [f"{source}/p{one}" for source, one in zip(sources, patient, strict=True)]
    rows["sha256"] = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    facts = {"codec": "h264", "fps": 25.0, "height": 48, "width": 64, "frames": 8}
    return conform(rows.assign(**facts | columns))


def classes_of(names: Sequence[str] = "ab", unit: str = "video") -> ClassificationTask:
    return ClassificationTask(kind="classification", source="s", label="l", classes=list(names), unit=unit)


def folds_of(manifest, y: np.ndarray, how="cv", tested="", number=False, **settings: int) -> pd.DataFrame:
    """Folds of all videos of a manifest, with classes y (V,) called "class 0" and so on, or with one `number` each."""
    rows = manifest[["sample_id", "source", "patient_id", "split_group"]].astype(object)
    rows = rows.assign(y=y.astype(float), stratum=0 if number else y.astype(int), label=[f"class {k}" for k in y])
    return make_folds(rows, SplitSettings(**{"outer": 3, "inner": 2} | settings), how, tested)


def outer_fold_of(manifest, y: np.ndarray, fold=0, **settings) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Training and test rows of an outer fold, and the names of the test videos."""
    training, test = outer_fold(folds_of(manifest, y, **settings), 0, fold)
    return training, test, list(test["sample_id"])


def pretraining(training: Mapping, objective: str, options: Mapping, **more: object) -> PretrainSettings:
    """Of one encoder, "hearts", on the pool "echo"."""
    values = {"encoders": {"hearts": {"objective": objective, "pool": "echo"}}, "objectives": {objective: options}}
    return PretrainSettings.parse(values | {"training": training} | more, "pretrain")


def features_of(names: Sequence[str], tokens: np.ndarray, grid: tuple | None = None) -> Features:
    """The tokens (V, views, N, D) of an encoder that has seen none of the videos, in memory."""
    return Features.in_memory(names, tokens.astype(np.float16), grid or (tokens.shape[2], 1, 1))


def recordings_of(manifest: pd.DataFrame, tokens=None, grid=None, frames: Mapping | None = None) -> Recordings:
    """Recordings in memory: tokens as in `features_of`, frames (T, S, S) at 25 a second by sample id."""
    known = None if tokens is None else features_of(list(manifest["sample_id"]), tokens, grid)
    return Recordings([Part(manifest, HeldClips({name: (one, 25.0) for name, one in (frames or {}).items()}), known)])


def save_clips(directory: Path, videos: Mapping, fps=25.0, fingerprint="", sha256=()) -> clips.ClipStore:
    """A clip store of frames uint8 (T, S, S) by sample id; without sha256, that of the n-th is the file sha<n>.npy."""
    directory.mkdir(parents=True, exist_ok=True)
    index, rates = {}, np.resize(fps, len(videos)).tolist()
    for number, (name, frames) in enumerate(videos.items()):
        sha = sha256[number] if sha256 else f"sha{number}"
        np.save(directory / f"{sha}.npy", frames)
        index[name] = {"sha256": sha, "frames": len(frames), "fps": rates[number]}
    size = next((frames.shape[1] for frames in videos.values()), 16)
    clips.write_index(directory, size, index, fingerprint)
    return clips.ClipStore.open(directory)


def save_source(directory: Path, manifest: pd.DataFrame, frames: Mapping, fingerprint: str = "") -> clips.ClipStore:
    """Write manifest.parquet and a clip store of the frames uint8 (T, S, S) of some or all of its videos."""
    rows = manifest.set_index("sample_id").loc[list(frames)]
    store = save_clips(directory / "clips", frames, rows["fps"].tolist(), fingerprint, rows["sha256"].tolist())
    write_manifest(directory / "manifest.parquet", manifest)
    return store
