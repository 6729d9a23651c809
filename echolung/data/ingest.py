"""Ingest: every video of a source decoded once into its clip store, and the manifest that describes them.

The store is kept between runs. A video is known by the SHA-256 of its file, so a new video costs one decode, a renamed
one none, and a run that was killed goes on where it stopped: decoded videos are noted, one line each, in a journal that
becomes the index at the end. Index and frames carry digests: what somebody changed is decoded again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import SettingsError, VideoError
from echolung.core.parameters import Parameters
from echolung.core.runtime import Progress, atomic_path, code_digest, digest, read_json, sha256_file
from echolung.data import video
from echolung.data.clips import INDEX, is_untouched, letterbox, write_index
from echolung.data.containers import regular
from echolung.data.ffmpeg import require_ffmpeg
from echolung.data.manifest import VIDEO_COLUMNS, conform
from echolung.data.sources.layouts import SOURCES
from echolung.data.workers import as_done

JOURNAL = "journal.jsonl"
CODE = ("echolung.data.packets", "echolung.data.video", "echolung.data.clips")
"""Modules that decide which frames a file becomes: when their code changes, stores are decoded again."""

Facts = dict[str, Any]
"""What is known of one decoded file: its sha256, the manifest's VIDEO_COLUMNS, and frames_sha256 of what was stored."""


class SourceSettings(Parameters):
    """One data set: where it is and how it is laid out."""

    layout: Literal["echonet", "echonet_pediatric", "pocus", "covid_blues", "folder"]
    root: Path


class IngestSettings(Parameters):
    """The sources of a study, by name, and the size at which their frames are kept."""

    size: int = pydantic.Field(ge=16, le=1024)
    """Side of the stored square frames, in pixels."""
    sources: dict[str, SourceSettings]


def ingest(
    source: str,
    settings: IngestSettings,
    root: Path,
    store_directory: Path,
    workers: int = 1,
    on_progress: Progress | None = None,
    on_message: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Scan a source, decode what is new in `workers` processes, and leave a complete store in `store_directory`.

    Returns the manifest. Relative roots of sources, and with them the manifest's paths, are relative to `root`. A video
    that cannot be decoded is a row with frames 0 and its `decode_error`; it is neither dropped nor replaced.
    `on_progress` counts the videos that had to be decoded.

    Raises DataError (layout, duplicate ids), SettingsError (no such source), DependencyError (no FFmpeg).
    """
    if source not in settings.sources:
        raise SettingsError(f"no source '{source}'", f"Sources are: {', '.join(settings.sources) or 'none'}.")
    require_ffmpeg()
    chosen = settings.sources[source]
    manifest = conform(SOURCES[chosen.layout](root / chosen.root, source))
    paths = [Path(path) for path in manifest["path"]]
    if not chosen.root.is_absolute():
        manifest["path"] = pd.Series([os.path.relpath(path, root) for path in paths], dtype="string")
    store_directory.mkdir(parents=True, exist_ok=True)
    fingerprint = digest({"code": code_digest(*CODE), "size": settings.size})
    contents, faults = _contents(paths, workers)
    known = _known(store_directory, fingerprint, workers, on_message)
    wanted = {content: path for path, content in zip(paths, contents, strict=True) if content and content not in known}
    results = as_done(functools.partial(_decode_into, store_directory, settings.size), list(wanted.items()), workers)
    with open(store_directory / JOURNAL, "a") as journal, contextlib.closing(results):
        journal.write("\n")  # ends the line that a killed run may have left half written
        for done, (_, facts) in enumerate(results, start=1):
            known[facts["sha256"]] = facts
            if facts["frames"]:  # a failure is tried again next time: FFmpeg may have been the reason
                journal.write(json.dumps({"fingerprint": fingerprint, **facts}) + "\n")
                journal.flush()
            if on_progress is not None:
                on_progress(done, len(wanted))
    rows = [known[content] if content else _failed("", fault) for content, fault in zip(contents, faults, strict=True)]
    _finish(store_directory, fingerprint, settings.size, list(manifest["sample_id"]), rows)
    facts_table = pd.DataFrame(rows, columns=["sha256", *VIDEO_COLUMNS])
    return conform(pd.concat([manifest.drop(columns=list(facts_table)), facts_table], axis=1))


def _contents(paths: list[Path], workers: int) -> tuple[list[str], list[str]]:
    """SHA-256 of every file, "" where it cannot be read; and why it cannot, "" where it can."""

    def content(path: Path) -> tuple[str, str]:
        try:
            with regular(path) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest(), ""
        except VideoError as error:
            return "", error.problem
        except OSError as error:
            return "", f"{path} cannot be read ({error.strerror})"

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(content, paths))
    return [sha256 for sha256, _ in found], [fault for _, fault in found]


def _known(directory: Path, fingerprint: str, workers: int, on_message: Callable[[str], None]) -> dict[str, Facts]:
    """Facts of the videos whose frames stand in the store as they were decoded, by content."""
    noted = _noted(directory, fingerprint, on_message)
    found, _ = _contents([_frames_path(directory, content) for content in noted], workers)
    pairs = list(zip(noted.items(), found, strict=True))
    whole = {content: facts for (content, facts), frames in pairs if frames and frames == facts.get("frames_sha256")}
    changed = sum(bool(frames) for frames in found) - len(whole)
    if changed:
        on_message(f"The frames of {changed} videos in {directory} were changed or damaged: they are decoded again.")
    return whole


def _noted(directory: Path, fingerprint: str, on_message: Callable[[str], None]) -> dict[str, Facts]:
    """Facts of the videos that were decoded into the store, by content, from its index and its journal."""
    noted: dict[str, Facts] = {}
    if (directory / INDEX).is_file():
        index = read_json(directory / INDEX)
        if not is_untouched(index):
            on_message(f"{directory / INDEX} was changed or damaged: its videos are decoded again.")
        elif index["fingerprint"] == fingerprint:
            noted = {facts["sha256"]: facts for facts in index["clips"].values()}
    if (directory / JOURNAL).is_file():
        for line in (directory / JOURNAL).read_text().splitlines():
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line being written when the process was killed
            if facts.pop("fingerprint", None) == fingerprint:
                noted[facts["sha256"]] = facts
    return noted


def _frames_path(directory: Path, content: str) -> Path:
    return directory / f"{content}.npy"


def _decode_into(directory: Path, size: int, item: tuple[str, Path]) -> Facts:
    """Decode one video and store its frames; returns its facts, with the error instead of frames if it fails."""
    content, path = item
    try:
        decoded = video.decode(path, functools.partial(letterbox, size=size))
    except VideoError as error:
        return _failed(content, str(error.problem))
    with atomic_path(_frames_path(directory, content)) as temporary:
        np.save(temporary, decoded.frames, allow_pickle=False)
        written = sha256_file(temporary)
    return {
        "sha256": content,
        "frames_sha256": written,
        "frames": len(decoded.frames),
        "frames_declared": decoded.frames_declared,
        "fps": decoded.fps,
        "height": decoded.height,
        "width": decoded.width,
        "codec": decoded.codec,
        "decode_error": decoded.damage or None,
    }


def _failed(content: str, problem: str) -> Facts:
    return {**dict.fromkeys(VIDEO_COLUMNS), "sha256": content or None, "frames": 0, "decode_error": problem}


def _finish(directory: Path, fingerprint: str, size: int, sample_ids: list[str], rows: list[Facts]) -> None:
    """Write the index and remove what it does not name: frames of removed videos, the journal, half-written files."""
    clips = {name: facts for name, facts in zip(sample_ids, rows, strict=True) if facts["frames"]}
    write_index(directory, size, clips, fingerprint)
    kept = {INDEX, *(_frames_path(directory, facts["sha256"]).name for facts in clips.values())}
    for entry in directory.iterdir():
        if entry.name not in kept and entry.is_file():
            entry.unlink()
