"""The layouts that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from echolung.data.sources import covid_blues, echonet, folder, pocus

Scan = Callable[[Path, str], pd.DataFrame]
"""`scan(root, source)`: the manifest rows of the data set at `root`, under the name `source`; decodes nothing."""

SOURCES: dict[str, Scan] = {
    "echonet": echonet.scan,
    "pocus": pocus.scan,
    "covid_blues": covid_blues.scan,
    "folder": folder.scan,
}
