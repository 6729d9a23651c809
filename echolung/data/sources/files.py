"""What every layout is read from: folders, csv tables and video files, with errors that say how to get them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, VideoError
from echolung.data.containers import regular
from echolung.data.manifest import listed, require_columns

LICENSE_LINE = "License of these videos:"
"""How the LICENSE of a data set in a public layout begins that is not the public set itself (a phantom, say)."""
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".gif", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv"))
TABLE_BYTES, TABLE_COLUMNS = 32 << 20, 10_000
"""A table that is larger, or has more columns, lists no videos: EchoNet-Dynamic's 10,030 take 1 MB and 9 columns."""
DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
"""Where a link leads that DVC made: to a file of its cache, named by its content."""


def require_folder(path: Path, what: str, how_to_get: str) -> Path:
    """`path`, or DataError saying what was looked for, where, and how to get it."""
    if not os.path.isdir(path):
        try:
            seen = listed(sorted(os.listdir(path.parent)))
        except PermissionError:
            seen = "what this user may not see"
        except OSError:
            seen = "nothing"
        raise DataError(f"{what}: no folder {path} ({path.parent} holds: {seen or 'nothing'})", how_to_get)
    return path


def read_table(
    path: Path, columns: Iterable[str], what: str, how_to_get: str, also: Iterable[str] = (), prefix: str | None = None
) -> pd.DataFrame:
    """The `columns` of a csv, those of `also` that it has, and those that begin with `prefix`, all as text.

    Every cell is a stripped string, "" where it is empty, and nothing but a string: a formula stays what is written.
    Raises DataError if the file is missing, is no csv, or lacks one of `columns` (naming the nearest).
    """
    reader = csv.reader(io.StringIO(_table_text(path, what, how_to_get), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(filter(None, reader), [])]
        if len(header) > TABLE_COLUMNS:
            raise DataError(f"{path} has {len(header)} columns; at most {TABLE_COLUMNS} are read", "Keep those needed.")
        require_columns(header, columns := tuple(columns), str(path))
        wanted = {*columns, *also, *(name for name in header if prefix is not None and name.startswith(prefix))}
        places = {name: header.index(name) for name in header if name in wanted}
        cells: dict[str, list[str]] = {name: [] for name in places}
        for row in filter(None, reader):
            if len(row) > len(header):
                raise csv.Error(f"line {reader.line_num} has {len(row)} cells, and there are {len(header)} columns")
            for name, place in places.items():
                cells[name].append(row[place].strip() if place < len(row) else "")
    except csv.Error as error:
        raise DataError(
            f"{path} is not a csv table ({error})", f"Put cells that hold commas in quotes. {how_to_get}"
        ) from None
    return pd.DataFrame(cells, dtype=str)


def _table_text(path: Path, what: str, how_to_get: str) -> str:
    """What a table says, in UTF-8; DataError if it is not there or no text."""
    if not os.path.lexists(path) and os.access(path.parent, os.X_OK):
        raise DataError(f"{what}: no file {path}", how_to_get)
    try:
        with regular(path) as stream:
            content = stream.read(TABLE_BYTES + 1)
    except VideoError as error:
        raise DataError(f"{what}: {error.problem}", how_to_get) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", how_to_get) from None
    if len(content) > TABLE_BYTES:
        raise DataError(f"{path} is larger than {TABLE_BYTES >> 20} MB: not a list of videos", how_to_get)
    remedy = "Save it again as CSV in UTF-8 (in a spreadsheet: Save as, CSV UTF-8)."
    if b"\x00" in content:
        raise DataError(f"{path} is not a csv table in UTF-8: it holds NUL bytes", remedy)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not in UTF-8 (line {line})", remedy) from None
    if not text.strip():
        raise DataError(f"{path} is not a csv table: it is empty", how_to_get)
    return text


def inside(root: Path, paths: Iterable[Path], where: str) -> list[Path]:
    """`paths`, or DataError naming those that leave `root`: by "..", by a drive, or by a link that leads out.

    A link into DVC's cache is the file itself, as DVC lays data out to save space.
    """
    paths, real_root = list(paths), os.path.realpath(root)
    outside = []
    for path in paths:
        real = os.path.realpath(path)
        if os.path.commonpath([real, real_root]) != real_root and not (path.is_symlink() and DVC_OBJECT.search(real)):
            outside.append(path)
    if outside:
        raise DataError(
            f"{where}: videos must lie inside {root}: {listed(outside)}",
            "Copy them there, or set `root` to a folder that holds them all.",
        )
    return paths


def license_of(root: Path, published: str) -> str:
    """The licence of the videos below `root`: what the first line of its LICENSE says, else the `published` one."""
    path = root / "LICENSE"
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if os.path.isfile(path) else ""
    return first.removeprefix(LICENSE_LINE).strip() if first.startswith(LICENSE_LINE) else published


def video_files(folder: Path, what: str, how_to_get: str) -> list[Path]:
    """The video files directly in `folder`, by name; raises DataError if there is none."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{what}: {folder} cannot be read ({error.strerror})", how_to_get) from None
    paths = [path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
    if not paths:
        raise DataError(f"{what}: no video in {folder}", how_to_get)
    return inside(folder, paths, what)


def numbers(texts: pd.Series, low: float, high: float, where: str, names: pd.Series, whole: bool = False) -> pd.Series:
    """Cells as numbers in [low, high], missing where the cell is empty; raises DataError naming rows that are not.

    `names` says what to call each row; `whole` asks for integers.
    """
    values = pd.to_numeric(texts.where(texts != ""), errors="coerce").astype("Float64")
    wrong = (texts != "") & ~values.between(low, high).fillna(False)
    if whole:
        wrong |= (values % 1 != 0).fillna(False)
    if wrong.any():
        rows = listed(f"{name} = '{text}'" for name, text in zip(names[wrong], texts[wrong], strict=True))
        kind = "a whole number" if whole else "a number"
        raise DataError(f"{where} must be {kind} from {low:g} to {high:g}: {rows}", "Correct these rows.")
    return values


def choices(texts: pd.Series, meaning: dict[str, object], where: str, names: pd.Series) -> pd.Series:
    """Cells replaced by what they mean (keys in lower case), missing where empty; raises DataError naming others."""
    lower = texts.str.lower()
    wrong = (texts != "") & ~lower.isin(list(meaning))
    if wrong.any():
        rows = listed(f"{name} = '{text}'" for name, text in zip(names[wrong], texts[wrong], strict=True))
        raise DataError(f"{where} must be one of {', '.join(meaning)}: {rows}", "Correct these rows.")
    return lower.map(meaning)
