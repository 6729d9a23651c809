"""The layouts that can be read, by name."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from echolung.core.errors import DataError, listed
from echolung.data.manifest import conform
from echolung.data.masks import Tracing
from echolung.data.sources import camus, covid_blues, dicom, echonet, folder, pocus
from echolung.data.sources.files import Scan

SOURCES: dict[str, Callable[[Path, str], Scan]] = {
    "echonet": echonet.scan,
    "echonet_pediatric": echonet.scan_pediatric,
    "pocus": pocus.scan,
    "covid_blues": covid_blues.scan,
    "camus": camus.scan,
    "camus_stills": camus.scan_stills,
    "dicom": dicom.scan,
    "folder": folder.scan,
}

MASKS, MASK = "masks", re.compile(r"(.+)_(\d+)(?:_(ED|ES))?\.nii(?:\.gz)?")
"""In any layout: masks/<sample id without its source>_<frame>.nii.gz, with _ED or _ES after the frame if it is one."""


def scan(layout: str, root: Path, source: str, split: Sequence[str] = ()) -> Scan:
    """Read the data set at `root` as `source`, with a manifest of every column; decodes nothing.

    With `split` only these parts of the official split. Raises DataError if the set is not as its layout says.
    """
    found = SOURCES[layout](root, source)
    manifest = conform(found.manifest)
    tracings = [*found.tracings, *_own_masks(root, source, set(manifest["sample_id"]))]
    if split:
        parts = sorted(set(manifest["split_official"].dropna()))
        if absent := sorted(set(split) - set(parts)):
            problem = f"source '{source}' has no official split {listed(map(repr, absent))}"
            raise DataError(problem, f"It has: {listed(parts) or 'none'}.")
        manifest = manifest[manifest["split_official"].isin(split)].reset_index(drop=True)
    return dataclasses.replace(found, manifest=manifest, tracings=tracings)


def _own_masks(root: Path, source: str, known: set[str]) -> list[Tracing]:
    """The masks that somebody added to a data set; they take the place of the set's own on the same frame."""
    found, strange = [], []
    for path in sorted((root / MASKS).rglob("*.nii*")):
        named = MASK.fullmatch(path.relative_to(root / MASKS).as_posix())
        if named is None or f"{source}/{named[1]}" not in known:
            strange.append(str(path.relative_to(root)))
            continue
        frame = int(named[2])
        found.append(Tracing(f"{source}/{named[1]}", frame, path, {frame: named[3]} if named[3] else {}))
    if strange:
        remedy = f"Name a mask {MASKS}/<sample id without '{source}/'>_<frame>.nii.gz; frames count from 0."
        raise DataError(f"{len(strange)} masks below {root} name no recording of it: {listed(strange)}", remedy)
    return found
