"""The layouts that can be read, by name."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from echolung.core.errors import DataError, listed
from echolung.data.manifest import conform
from echolung.data.sources import camus, covid_blues, dicom, echonet, echonet_pediatric, folder, pocus
from echolung.data.sources.files import Scan

SOURCES: dict[str, Callable[[Path, str], Scan]] = {
    "echonet": echonet.scan,
    "echonet_pediatric": echonet_pediatric.scan,
    "pocus": pocus.scan,
    "covid_blues": covid_blues.scan,
    "camus": camus.scan,
    "camus_stills": camus.scan_stills,
    "dicom": dicom.scan,
    "folder": folder.scan,
}


def scan(layout: str, root: Path, source: str, split: Sequence[str] = ()) -> Scan:
    """Read the data set at `root` as `source`, with a manifest of every column; decodes nothing.

    With `split` only the recordings of these parts of the official split. Raises DataError if the set is not as its
    layout says, or lacks a part.
    """
    found = SOURCES[layout](root, source)
    manifest = conform(found.manifest)
    if split:
        parts = sorted(set(manifest["split_official"].dropna()))
        if absent := sorted(set(split) - set(parts)):
            problem = f"source '{source}' has no official split {listed(map(repr, absent))}"
            raise DataError(problem, f"It has: {listed(parts) or 'none'}.")
        manifest = manifest[manifest["split_official"].isin(split)].reset_index(drop=True)
    return dataclasses.replace(found, manifest=manifest)
