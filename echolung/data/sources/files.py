"""What every layout is read from: folders, tables and video files.

A data set that is not as its layout says is a DataError that tells how to get it right. What can only mean one thing is
read although it is written differently (Excel's semicolons, a suffix in capitals), and noted.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, VideoError
from echolung.data.containers import regular
from echolung.data.manifest import listed, require_columns

LICENSE_LINE = "License of these videos:"
"""First line of the LICENSE of a set in a public layout that is not the public set itself, for example a phantom."""
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".gif", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv"))
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
TABLE_BYTES, TABLE_COLUMNS = 64 << 20, 10_000
"""Limits of a table; the tracings of EchoNet-Dynamic take 25 MB."""
DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
"""Where a link made by DVC leads: to a file of its cache, named by its content."""
UTF8_REMEDY = "Save it again as CSV in UTF-8 (in a spreadsheet: Save as, CSV UTF-8)."


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a layout's reader found: the manifest's rows, tracings if the set has any, and what was assumed.

    tracings: sample_id, frame, structure, points; see `echolung.data.tracings`.
    """

    manifest: pd.DataFrame
    tracings: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


class Layout:
    """The files of one data set: what it is called and how to get it, for errors, and `notes` on what was assumed.

    Raises DataError if `root` is not a folder or holds something that DVC cannot read.
    """

    def __init__(self, root: Path, what: str, how_to_get: str) -> None:
        self.root, self.what, self.how_to_get = root, what, how_to_get
        self.notes: list[str] = []
        self.folder(".")
        self.files = set(_tree(root))
        self._alike: dict[str, list[str]] = {}
        for file in sorted(self.files):
            self._alike.setdefault(_key(file), []).append(file)

    def folder(self, name: str) -> Path:
        """A folder of the data set; raises DataError saying where it was looked for and what is there instead."""
        path = self.root / name
        if not os.path.isdir(path):
            try:
                seen = listed(sorted(os.listdir(path.parent)))
            except OSError as error:
                seen = f"nothing ({error.strerror})"
            raise DataError(
                f"{self.what}: no folder {path} ({path.parent} holds: {seen or 'nothing'})", self.how_to_get
            )
        return path

    def table(
        self, name: str, columns: Iterable[str], also: Iterable[str] = (), prefix: str = "", repeats: bool = False
    ) -> pd.DataFrame:
        """The `columns` of a csv, those of `also` that it has, and those that begin with `prefix` (if any), as text.

        Every cell is a stripped string, "" where it is empty: `no`, `NA`, `007` and formulas stay what is written.
        Separator, encoding and the case of the header are detected. Equal rows are read once, unless `repeats`. The
        index is the number of the line. Raises DataError if the file is missing, not a csv, or lacks one of `columns`.
        """
        path = self._table_path(name)
        text, columns = self._text(path), tuple(columns)
        first, _, rest = text.partition("\n")
        stated = re.fullmatch(r'"?sep=(.)"?\s*', first)  # Excel's own note to itself
        text, separators = (rest, [stated[1]]) if stated else (text, list(SEPARATORS))
        headers = {one: _places(_rows(text, one), columns, also, prefix) for one in separators}
        separator = max(headers, key=lambda one: len(headers[one].keys() & set(columns)))  # the first of equals
        if separator != ",":
            self.notes.append(f"{path.name}: cells are separated by {SEPARATORS.get(separator, repr(separator))}")
        try:
            table = self._cells(path, text, separator, headers[separator], columns)
        except csv.Error as error:
            remedy = f"Put cells that contain the separator in quotes. {self.how_to_get}"
            raise DataError(f"{path} is not a csv table ({error})", remedy) from None
        if not repeats and (again := int(table.duplicated().sum())):
            self.notes.append(f"{path.name}: {again} rows are repetitions of others")
            table = table.drop_duplicates()
        if table.empty:
            raise DataError(f"{path} has no row", self.how_to_get)
        return table

    def match(self, paths: pd.Series) -> list[Path]:
        """The file of each path (relative to the root); one that is not there stays as it is.

        A path may lack the suffix of its file, have it twice, or differ in case, as long as only one file can be meant;
        otherwise DataError. So do paths that lead out of the root.
        """
        found, assumed = [], {}
        for path in paths:
            near = self._alike.get(_key(path), [])
            if path in self.files or os.path.lexists(self.root / path) or not near:
                found.append(path)
                continue
            if len(near) > 1:
                near = [file for file in near if stem(file) == stem(path)] or near
            if len(near) > 1:
                raise DataError(
                    f"{self.what}: '{path}' can be {' or '.join(near)}", "Write the name as the file is called."
                )
            found.append(near[0])
            assumed[path] = near[0]
        if assumed:
            path, file = next(iter(assumed.items()))
            note = f"of {len(paths)} names are spelled differently from their files (case or suffix)"
            self.notes.append(f"{len(assumed)} {note}: '{path}' is {file}")
            taken = pd.Series(found)[pd.Series(found).duplicated(keep=False)].unique()
            if len(taken):
                raise DataError(f"{self.what}: several rows mean the file {listed(taken)}", "Keep one row per video.")
        return self.inside(self.root / path for path in found)

    def videos(self, folder: str) -> list[Path]:
        """The video files directly in a folder, by name; raises DataError if there is none."""
        entries = sorted(self.folder(folder).iterdir())
        paths = [path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
        if not paths:
            raise DataError(f"{self.what}: no video in {self.root / folder}", self.how_to_get)
        return self.inside(paths)

    def inside(self, paths: Iterable[Path]) -> list[Path]:
        """`paths`; raises DataError naming those that leave the root by "..", a drive or a link.

        A link into DVC's cache counts as the file itself: DVC makes such links to save space.
        """
        paths, real_root = list(paths), os.path.realpath(self.root)
        outside = []
        for path in paths:
            real = os.path.realpath(path)
            if os.path.commonpath([real, real_root]) != real_root and not (
                path.is_symlink() and DVC_OBJECT.search(real)
            ):
                outside.append(path)
        if outside:
            raise DataError(
                f"{self.what}: videos must be inside {self.root}: {listed(outside)}",
                "Copy them there, or set `root` to a folder that holds them all.",
            )
        return paths

    def license(self, published: str) -> str:
        """The licence of the videos: what the first line of LICENSE says, else the `published` one."""
        path = self.root / "LICENSE"
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else ""
        return first.removeprefix(LICENSE_LINE).strip() if first.startswith(LICENSE_LINE) else published

    def numbers(
        self, table: str, texts: pd.Series, low: float, high: float, names: pd.Series, whole: bool = False
    ) -> pd.Series:
        """Cells as numbers in [low, high], missing where they are empty; raises DataError naming rows that are not.

        A decimal comma is read where it cannot be a thousands separator. `names` are the rows' names for the error;
        `whole` asks for integers.
        """
        decimal = texts.str.fullmatch(r"[+-]?\d+,\d+")
        if high >= 1000:
            decimal &= ~texts.str.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}")
        if decimal.any():
            self.notes.append(f"{table}, column {texts.name}: decimal commas ('{texts[decimal].iloc[0]}')")
        points = texts.where(~decimal, texts.str.replace(",", "."))
        values = pd.to_numeric(points.where(texts != ""), errors="coerce").astype("Float64")
        wrong = (texts != "") & ~values.between(low, high).fillna(False)
        if whole:
            wrong |= (values % 1 != 0).fillna(False)
        kind = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
        self._refuse(table, texts, wrong, names, kind)
        return values

    def choices(self, table: str, texts: pd.Series, meaning: dict[str, object], names: pd.Series) -> pd.Series:
        """Cells replaced by their meaning (keys in lower case), missing where empty; DataError naming other cells."""
        lower = texts.str.lower()
        self._refuse(table, texts, (texts != "") & ~lower.isin(list(meaning)), names, f"one of {', '.join(meaning)}")
        return lower.map(meaning)

    def _refuse(self, table: str, texts: pd.Series, wrong: pd.Series, names: pd.Series, kind: str) -> None:
        if wrong.any():
            rows = listed(f"{name} = '{text}'" for name, text in zip(names[wrong], texts[wrong], strict=True))
            raise DataError(f"{self.root / table}, column {texts.name} must be {kind}: {rows}", "Correct these rows.")

    def _table_path(self, name: str) -> Path:
        """Where the table is, whatever the case of its name."""
        path = self.root / name
        if os.path.lexists(path):
            return path
        there = [entry for entry in self.files if Path(entry).parent == Path(name).parent]
        same = [entry for entry in there if entry.casefold() == name.casefold()]
        if len(same) == 1:
            self.notes.append(f"{same[0]} is read as {name}")
            return self.root / same[0]
        books = [entry for entry in there if Path(entry).suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers")]
        if books:
            raise DataError(f"{self.what}: no file {path}, but {listed(books)}", f"Save the spreadsheet as {path}.")
        raise DataError(f"{self.what}: no file {path}", self.how_to_get)

    def _text(self, path: Path) -> str:
        """The text of a table, decoded; raises DataError if it is not text."""
        try:
            with regular(path) as stream:
                content = stream.read(TABLE_BYTES + 1) or b""
        except VideoError as error:
            raise DataError(f"{self.what}: {error.problem}", self.how_to_get) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})", self.how_to_get) from None
        if len(content) > TABLE_BYTES:
            raise DataError(f"{path} is larger than {TABLE_BYTES >> 20} MB: not a list of videos", self.how_to_get)
        if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise DataError(f"{path} is a spreadsheet or an archive, not a csv table", UTF8_REMEDY)
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        if b"\x00" in content and not wide:
            raise DataError(f"{path} is not a csv table in UTF-8: it holds NUL bytes", UTF8_REMEDY)
        for encoding, name in (("utf-16", "UTF-16"),) if wide else (("utf-8-sig", ""), ("cp1252", "Windows-1252")):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if name:
                self.notes.append(f"{path.name} is not UTF-8: read as {name}")
            if not text.strip():
                raise DataError(f"{path} is not a csv table: it is empty", self.how_to_get)
            return text
        raise DataError(f"{path} is text in an unknown encoding", UTF8_REMEDY)

    def _cells(
        self, path: Path, text: str, separator: str, places: dict[str, int], columns: tuple[str, ...]
    ) -> pd.DataFrame:
        """The cells at `places`; raises csv.Error, or DataError if the header lacks one of `columns`."""
        reader = _rows(text, separator)
        header = [name.strip() for name in next(reader, (0, []))[1]]
        if len(header) > TABLE_COLUMNS:
            raise DataError(f"{path} has {len(header)} columns; at most {TABLE_COLUMNS} are read", "Keep those needed.")
        if missing := [name for name in columns if name not in places]:
            require_columns(header, missing, str(path))
        if twice := [name for name in places if header.count(name) > 1]:
            raise DataError(f"{path} has the column {listed(twice)} more than once", "Keep one of them.")
        cells: dict[str, list[str]] = {name: [] for name in places}
        lines = []
        for line, row in reader:
            if any(map(str.strip, row[len(header) :])):
                raise csv.Error(f"line {line} has {len(row)} cells, and there are {len(header)} columns")
            for name, place in places.items():
                cells[name].append(row[place].strip() if place < len(row) else "")
            lines.append(line)
        return pd.DataFrame(cells, index=lines, dtype=str)


def stem(path: str) -> str:
    """A path without its suffix of a video, or suffixes: `X.AVI.avi` is X."""
    while Path(path).suffix.lower() in VIDEO_SUFFIXES:
        path = str(Path(path).with_suffix(""))
    return path


def _key(path: str) -> str:
    """What two spellings of one path have in common: no suffix, no case, one form of each accent."""
    return unicodedata.normalize("NFC", stem(path)).casefold()


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv that are not blank, each with the number of its line; raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return ((reader.line_num, row) for row in reader if any(map(str.strip, row)))


def _places(
    rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...], also: Iterable[str], prefix: str
) -> dict[str, int]:
    """Where the header has each wanted column, whatever its case; exact names come first."""
    try:
        header = [name.strip() for name in next(rows, (0, []))[1]]
    except csv.Error:
        return {}
    places: dict[str, int] = {}
    lower = [name.casefold() for name in header]
    for name in (*columns, *also):
        if name in header:
            places[name] = header.index(name)
        elif lower.count(name.casefold()) == 1:
            places[name] = lower.index(name.casefold())
    if prefix:
        places |= {prefix + name[len(prefix) :]: at for at, name in enumerate(header) if lower[at].startswith(prefix)}
    return dict(sorted(places.items(), key=lambda place: place[1]))


def _tree(root: Path) -> list[str]:
    """Every file below `root`, relative to it; DataError naming what DVC cannot read, and would stop at or hang on."""
    files, stray = [], []

    def unreadable(error: OSError) -> None:
        stray.append(f"{_plain(os.path.relpath(error.filename, root))} ({error.strerror})")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        below = [os.path.relpath(os.path.join(folder, name), root) for name in (*names, *folders)]
        stray += [f"{_plain(path)} ({fault})" for path in below if (fault := _fault(os.path.join(root, path)))]
        files += below[: len(names)]
    if stray:
        raise DataError(
            f"{root} holds what DVC cannot read: {listed(stray)}", "Remove, repair or rename it, and run again."
        )
    return files


def _fault(path: str) -> str:
    """Why DVC cannot hash a file or folder; "" if it can."""
    try:
        path.encode()
        mode = os.stat(path).st_mode
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except FileNotFoundError:
        return f"broken link to {os.readlink(path)}" if os.path.islink(path) else ""
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISDIR(mode):
        return ""  # one that cannot be read is reported by os.walk
    if not stat.S_ISREG(mode):
        return "a pipe, socket or device"
    return "" if os.access(path, os.R_OK) else "this user may not read it"


def _plain(path: str) -> str:
    """A path that prints on one line, whatever its name."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in path)
