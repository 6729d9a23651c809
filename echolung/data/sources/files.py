"""What every layout is read from: folders, csv tables and video files, with errors that say how to get them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from echolung.data.manifest import listed, require_columns
from echolung.errors import DataError

LICENSE_LINE = "License of these videos:"
"""How the LICENSE of a data set in a public layout begins that is not the public set itself (a phantom, say)."""
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".gif", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv"))


def require_folder(path: Path, what: str, how_to_get: str) -> Path:
    """`path`, or DataError saying what was looked for, where, and how to get it."""
    if not path.is_dir():
        seen = listed(sorted(entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else "nothing"
        raise DataError(f"{what}: no folder {path} ({path.parent} holds: {seen or 'nothing'})", how_to_get)
    return path


def read_table(path: Path, columns: Iterable[str], what: str, how_to_get: str) -> pd.DataFrame:
    """A csv as text: every cell a stripped string, "" where it is empty.

    Raises DataError if the file is missing, is no csv, or lacks one of `columns` (naming the nearest).
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{what}: no file {path}", how_to_get) from None
    except (ValueError, csv.Error, OSError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path} is not a csv table ({str(error).splitlines()[0]})", how_to_get) from None
    table.columns = table.columns.str.strip()
    require_columns(table.columns, columns, str(path))
    return table.apply(lambda column: column.str.strip())


def license_of(root: Path, published: str) -> str:
    """The licence of the videos below `root`: what the first line of its LICENSE says, else the `published` one."""
    path = root / "LICENSE"
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else ""
    return first.removeprefix(LICENSE_LINE).strip() if first.startswith(LICENSE_LINE) else published


def video_files(folder: Path, what: str, how_to_get: str) -> list[Path]:
    """The video files directly in `folder`, by name; raises DataError if there is none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != ".")
    if not paths:
        raise DataError(f"{what}: no video in {folder}", how_to_get)
    return paths


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
