"""The layouts that can be read, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from echolung.data.manifest import conform
from echolung.data.sources import covid_blues, echonet, echonet_pediatric, folder, pocus
from echolung.data.sources.files import Scan

SOURCES: dict[str, Callable[[Path, str], Scan]] = {
    "echonet": echonet.scan,
    "echonet_pediatric": echonet_pediatric.scan,
    "pocus": pocus.scan,
    "covid_blues": covid_blues.scan,
    "folder": folder.scan,
}


def scan(layout: str, root: Path, source: str) -> Scan:
    """Read the data set at `root` as `source`, with a manifest of every column; decodes nothing.

    Raises DataError if the set is not as its layout says.
    """
    found = SOURCES[layout](root, source)
    return dataclasses.replace(found, manifest=conform(found.manifest))
