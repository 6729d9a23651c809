"""The layouts that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from echolung.data.sources import covid_blues, echonet, echonet_pediatric, folder, pocus

Scan = Callable[[Path, str], pd.DataFrame]
"""`scan(root, source)`: the manifest rows of the data set at `root`, under the name `source`; decodes nothing."""

SOURCES: dict[str, Scan] = {
    "echonet": echonet.scan,
    "echonet_pediatric": echonet_pediatric.scan,
    "pocus": pocus.scan,
    "covid_blues": covid_blues.scan,
    "folder": folder.scan,
}
