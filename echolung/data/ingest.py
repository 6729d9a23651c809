"""Ingest: scan a source, decode every video once, and describe the videos in a manifest.

Decoded frames are kept in data/cache/clips/<fingerprint>/<sha256 of the file>.npy, with their facts in a .json beside
them; the fingerprint is a digest of the frame size and of the decoding code. A clip store is hard links to those files
and an index, so it is made again without decoding, studies share the frames, and a killed run continues where it
stopped. data/cache may be deleted at any time.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic

from echolung.core import runtime
from echolung.core.errors import DataError, VideoError
from echolung.core.parameters import Key, Names, Parameters
from echolung.core.progress import Progress
from echolung.data import video
from echolung.data.clips import write_index
from echolung.data.containers import NO_RATE, regular
from echolung.data.ffmpeg import require_ffmpeg
from echolung.data.manifest import VIDEO_COLUMNS, conform, write_manifest
from echolung.data.masks import Masks, rasterised, write_masks
from echolung.data.sources.layouts import scan
from echolung.data.workers import as_done

CODE = tuple(f"echolung.data.{name}" for name in ("packets", "video", "dicom", "nifti", "geometry", "containers"))
"""Modules that decide which frames a file becomes: videos are decoded again when their code changes."""

Facts = dict[str, Any]
"""What is known of a decoded file: its sha256, VIDEO_COLUMNS, and frames_sha256 of the stored frames."""


class SourceSettings(Parameters):
    """One data set: where it is and how it is laid out."""

    layout: Literal["echonet", "echonet_pediatric", "pocus", "covid_blues", "camus", "camus_stills", "dicom", "folder"]
    root: Annotated[Path, pydantic.AfterValidator(Path.expanduser)]
    split: Names = ()  # read only this part of the official split (TRAIN, say), or these; all if left out


class IngestSettings(Parameters):
    """The sources of a study by name, and the size of their stored frames."""

    size: int = pydantic.Field(ge=16, le=1024)  # side of the stored square frames, in pixels
    sources: dict[Key, SourceSettings]


@dataclasses.dataclass(frozen=True)
class Ingested:
    """A source, decoded into the cache: everything that the ingest stage writes."""

    manifest: pd.DataFrame
    tracings: pd.DataFrame  # one row per traced frame, for the gate; see `echolung.data.masks.rasterised`
    masks: dict[str, Masks]  # of every recording with a frame that is traced, by sample id
    clips: dict[str, Facts]  # of every video that has frames, by sample id
    size: int
    cache: Path  # the folder of the frames, named by the fingerprint

    def write(self, directory: Path) -> None:
        """Write clips/ and masks/ (the stores) and manifest.parquet below `directory`."""
        with runtime.atomic_directory(directory / "clips") as store:
            for content in {facts["sha256"] for facts in self.clips.values()}:
                runtime.link(self.cache / f"{content}.npy", store / f"{content}.npy")
            write_index(store, self.size, self.clips, self.cache.name)
        write_manifest(directory / "manifest.parquet", self.manifest)
        with runtime.atomic_directory(directory / "masks") as store:
            write_masks(store, self.size, self.masks)


def ingest(
    source: str,
    settings: IngestSettings,
    root: Path,
    workers: int = 1,
    on_progress: Progress = lambda done, total: None,
    on_message: Callable[[str], None] = print,
) -> Ingested:
    """Scan a source of the project in `root` and decode what the cache lacks in `workers` processes.

    Relative roots of sources, and so the paths in the manifest, are relative to `root`. A video that cannot be decoded
    is a row with 0 frames and its `decode_error`; it is tried again next time. `on_progress` counts the videos to
    decode. Raises DataError (layout, duplicate ids), DependencyError (no FFmpeg).
    """
    require_ffmpeg()
    chosen, size = settings.sources[source], settings.size
    found = scan(chosen.layout, root / chosen.root, source, chosen.split)
    for note in found.notes:
        on_message(f"{source}: {note}.")
    manifest = found.manifest
    paths = [Path(path) for path in manifest["path"]]
    files = [(path, *found.further.get(name, ())) for path, name in zip(paths, manifest["sample_id"], strict=True)]
    if not chosen.root.is_absolute():
        manifest["path"] = pd.Series([os.path.relpath(path, root) for path in paths], dtype="string")
    made = runtime.digest({"code": runtime.code_digest(*CODE), "size": size})
    cache = runtime.workspace(root) / "data" / "cache" / "clips" / made
    hashed = _hashed(files, workers)
    wanted = {content: parts for parts, (content, fault) in zip(files, hashed, strict=True) if not fault}
    known = _cached(cache, wanted, workers, on_message)
    missing = [(content, parts) for content, parts in wanted.items() if content not in known]
    with contextlib.closing(as_done(functools.partial(_decode_into, cache, size), missing, workers)) as results:
        for done, (_, facts) in enumerate(results, start=1):
            known[facts["sha256"]] = facts
            on_progress(done, len(missing))
    rows = [
        _failed(None, fault) if fault else _at_rate(known[content], fps)
        for (content, fault), fps in zip(hashed, manifest["fps"], strict=True)
    ]
    facts_table = pd.DataFrame(rows, columns=["sha256", *VIDEO_COLUMNS])
    manifest = conform(pd.concat([manifest.drop(columns=list(facts_table)), facts_table], axis=1))
    clips = {name: facts for name, facts in zip(manifest["sample_id"], rows, strict=True) if facts["frames"]}
    masks, tracings = rasterised(found.tracings, manifest, size)
    return Ingested(manifest, tracings, masks, clips, size, cache)


def _hashed(recordings: Sequence[Sequence[Path]], workers: int) -> list[tuple[str, str]]:
    """Of every recording the SHA-256 (of those of its files, if several), or "" and the reason it cannot be read."""

    def hashed(files: Sequence[Path]) -> tuple[str, str]:
        path, contents = files[0], []
        try:
            for path in files:
                with regular(path) as stream:
                    contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
            return contents[0] if len(files) == 1 else hashlib.sha256("".join(contents).encode()).hexdigest(), ""
        except VideoError as error:
            return "", error.problem
        except OSError as error:
            return "", f"{path} cannot be read ({error.strerror})"

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(hashed, recordings))


def _cached(folder: Path, contents: Iterable[str], workers: int, on_message: Callable[[str], None]) -> dict[str, Facts]:
    """Facts of the videos whose frames are in the cache as they were decoded, by content."""
    there = [content for content in contents if (folder / f"{content}.json").is_file()]
    found = _hashed([(folder / f"{content}.npy",) for content in there], workers)
    known: dict[str, Facts] = {}
    for content, (frames, _) in zip(there, found, strict=True):
        with contextlib.suppress(DataError):
            facts = runtime.read_json(folder / f"{content}.json")
            if facts["frames_sha256"] == frames:
                known[content] = facts
    if len(known) < len(there):
        on_message(f"{len(there) - len(known)} videos in {folder} are damaged or were edited: they are decoded again.")
    return known


def _decode_into(folder: Path, size: int, item: tuple[str, tuple[Path, ...]]) -> Facts:
    """Decode one recording into a cache; returns its facts, or the error and 0 frames, which are not cached."""
    content, files = item
    try:
        decoded = _joined([video.decode(path, size) for path in files], files)
    except VideoError as error:
        return _failed(content, error.problem)
    with runtime.atomic_path(folder / f"{content}.npy") as temporary:
        np.save(temporary, decoded.frames, allow_pickle=False)
        written = runtime.sha256_file(temporary)
    facts = {name: getattr(decoded, name, None) for name in VIDEO_COLUMNS}
    facts |= {"sha256": content, "frames_sha256": written}
    facts |= {"frames": len(decoded.frames), "decode_error": decoded.damage or None}
    runtime.write_json(folder / f"{content}.json", facts)
    return facts


def _joined(parts: Sequence[video.Video], files: Sequence[Path]) -> video.Video:
    """The frames of several files as one recording; raises VideoError if their frames are of another size."""
    first = parts[0]
    for part, path in zip(parts, files, strict=True):
        if (part.height, part.width) != (first.height, first.width):
            sizes = f"{part.width} x {part.height} pixels, {files[0].name} {first.width} x {first.height}"
            raise VideoError(f"{path} is {sizes}", "Both belong to one recording: copy or download them again.")
    frames = first.frames if len(parts) == 1 else np.concatenate([part.frames for part in parts])
    return dataclasses.replace(first, frames=frames, frames_declared=sum(part.frames_declared for part in parts))


def _at_rate(facts: Facts, fps: float) -> Facts:
    """`facts`, with the frame rate of the layout where it knows one."""
    known = {"fps": fps, "decode_error": None if facts["decode_error"] == NO_RATE else facts["decode_error"]}
    return facts if pd.isna(fps) else facts | known


def _failed(content: str | None, problem: str) -> Facts:
    return {**dict.fromkeys(VIDEO_COLUMNS), "sha256": content, "frames": 0, "decode_error": problem}
