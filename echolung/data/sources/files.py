"""What every layout is read from: folders, tables and video files.

A data set that is not as its layout says is a DataError that tells how to get it right. What can only mean one thing is
read although it is written differently (Excel's semicolons, a suffix in capitals), and noted.
"""

import dataclasses
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.manifest import require_columns
from echolung.data.masks import Tracing

LICENSE_LINE = "License of these videos:"
"""First line of the LICENSE of a set in a public layout that is not the public set itself, for example a phantom."""
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".gif", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv"))
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where a link made by DVC leads
UTF8_REMEDY = "Save it again as CSV in UTF-8 (in a spreadsheet: Save as, CSV UTF-8)."


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a layout's reader found: the manifest's rows, tracings and what was assumed."""

    manifest: pd.DataFrame
    tracings: Sequence[Tracing] = ()
    notes: tuple[str, ...] = ()
    further: Mapping[str, tuple[Path, ...]] = dataclasses.field(default_factory=dict)
    """By sample id the files of a recording after its `path`: their frames follow those of the first."""


class Layout:
    """The files of one data set: what it is called and how to get it, for errors, and `notes` on what was assumed.

    Raises DataError if `root` is not a folder, or naming what in it could only be passed over: broken links, links to
    folders, pipes, folders that may not be read.
    """

    def __init__(self, root: Path, what: str, how_to_get: str) -> None:
        self.root, self.what, self.how_to_get = root, what, how_to_get
        self.notes: list[str] = []
        self.folder(".")
        every = list(root.rglob("*"))
        self.files = {str(path.relative_to(root)) for path in every if path.is_file()}
        read = {path for path in every if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK)}
        if stray := [ascii(str(path.relative_to(root))) for path in every if not path.is_file() and path not in read]:
            problem = f"{root} holds links, pipes or folders that cannot be read: {listed(stray)}"
            raise DataError(problem, "Remove them, or put the files themselves there, and run again.")
        self._alike: dict[str, list[str]] = {}
        for file in self.files:
            self._alike.setdefault(_key(file), []).append(file)

    def folder(self, name: str) -> Path:
        """A folder of the data set; raises DataError saying where it was looked for and what is there instead."""
        path = self.root / name
        if not path.is_dir():
            raise self._absent("folder", path)
        return path

    def table(
        self, name: str, columns: Iterable[str], also: Iterable[str] = (), prefix: str = "", repeats: bool = False
    ) -> pd.DataFrame:
        """The `columns` of a csv, those of `also` that it has, and those that begin with `prefix` (if any), as text.

        Every cell is a stripped string, "" where it is empty: `no`, `NA`, `007` and formulas stay what is written.
        Separator, encoding and the case of the header are detected. Equal rows are read once, unless `repeats`. The
        index is the number of the line. Raises DataError if the file is missing, not a csv, or lacks one of `columns`.
        """
        path, columns = self.root / name, list(columns)
        text = self.text(name)
        separator = max(SEPARATORS, key=text.partition("\n")[0].count)
        if separator != ",":
            self.notes.append(f"{path.name}: cells are separated by {SEPARATORS[separator]}")
        try:
            cells = pd.read_csv(
                io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False, skip_blank_lines=False
            ).apply(lambda column: column.str.strip())
        except ValueError as error:
            remedy = f"Put cells that contain the separator in quotes. {self.how_to_get}"
            raise DataError(f"{path} is not a csv table ({' '.join(str(error).split())})", remedy) from None
        cells.index += 1
        header, table = cells.iloc[0].tolist(), cells.iloc[1:]
        wanted = [*columns, *also]
        spelled = {name.casefold(): name for name in wanted if name not in header}
        header = [spelled.get(name.casefold(), name) for name in header]
        if prefix:
            header = [prefix + name[len(prefix) :] if name.casefold().startswith(prefix) else name for name in header]
        require_columns(header, columns, str(path))
        chosen = [name for name in header if name in wanted or (prefix and name.startswith(prefix))]
        if len(chosen) > len(set(chosen)):
            raise DataError(f"{path} has a column more than once: {listed(chosen)}", "Keep one of them.")
        table = table.set_axis(header, axis=1)[chosen]
        table = table[(table != "").any(axis=1)]
        if not repeats and (again := int(table.duplicated().sum())):
            self.notes.append(f"{path.name}: {again} rows are repetitions of others")
            table = table.drop_duplicates()
        if table.empty:
            raise DataError(f"{path} has no row", self.how_to_get)
        return table

    def match(self, paths: pd.Series) -> list[Path]:
        """The file of each path (relative to the root); one that is not there stays as it is.

        A path may lack the suffix of its file, have it twice, or differ in case, as long as only one file can be meant.
        Raises DataError if two paths then mean one file, or if one leads out of the root.
        """
        near = [self._alike.get(_key(path), []) for path in paths]
        found = [path if path in self.files or len(one) != 1 else one[0] for path, one in zip(paths, near, strict=True)]
        if assumed := [(path, file) for path, file in zip(paths, found, strict=True) if path != file]:
            note = f"of {len(paths)} names are spelled differently from their files (case or suffix)"
            self.notes.append(f"{len(assumed)} {note}: '{assumed[0][0]}' is {assumed[0][1]}")
            if taken := sorted({file for _, file in assumed if found.count(file) > 1}):
                raise DataError(f"{self.what}: several rows mean the file {listed(taken)}", "Keep one row per video.")
        return self._inside(self.root / path for path in found)

    def videos(self, folder: str) -> list[Path]:
        """The video files directly in a folder, by name; raises DataError if there is none."""
        entries = sorted(self.folder(folder).iterdir())
        paths = [path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
        if not paths:
            raise DataError(f"{self.what}: no video in {self.root / folder}", self.how_to_get)
        return self._inside(paths)

    def license(self, published: str) -> str:
        """The licence of the videos: what the first line of LICENSE says, else the `published` one."""
        path = self.root / "LICENSE"
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else ""
        return first.removeprefix(LICENSE_LINE).strip() if first.startswith(LICENSE_LINE) else published

    def numbers(
        self, table: str, texts: pd.Series, low: float, high: float, names: pd.Series, whole: bool = False
    ) -> pd.Series:
        """Cells as numbers in [low, high], missing where they are empty; raises DataError naming rows that are not.

        `names` are the rows' names for the error; `whole` asks for integers.
        """
        values = pd.to_numeric(texts.where(texts != ""), errors="coerce").astype("Float64")
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

    def _absent(self, kind: str, path: Path) -> DataError:
        there = listed(sorted(os.listdir(path.parent))) if path.parent.is_dir() else ""
        return DataError(f"{self.what}: no {kind} {path} ({path.parent} holds: {there or 'nothing'})", self.how_to_get)

    def text(self, name: str) -> str:
        """The text of a file, decoded; raises DataError if it is missing or not text."""
        path = self.root / name
        if name not in self.files:
            raise self._absent("file", path)
        content = path.read_bytes()
        if b"\x00" in content:
            raise DataError(f"{path} is not text, but a spreadsheet or something else", UTF8_REMEDY)
        for encoding, name in (("utf-8-sig", ""), ("cp1252", "Windows-1252")):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if name:
                self.notes.append(f"{path.name} is not UTF-8: read as {name}")
            return text.lstrip("\r\n")
        raise DataError(f"{path} is text in an unknown encoding", UTF8_REMEDY)

    def _inside(self, paths: Iterable[Path]) -> list[Path]:
        """`paths`; raises DataError naming those that leave the root by "..", a drive or a link.

        A link into DVC's cache counts as the file itself: DVC makes such links to save space.
        """
        paths, root = list(paths), self.root.resolve()
        leaving = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(root)]
        outside = [path for path in leaving if not (path.is_symlink() and DVC_OBJECT.search(os.path.realpath(path)))]
        if outside:
            problem = f"{self.what}: videos must be inside {self.root}: {listed(outside)}"
            raise DataError(problem, "Copy them there, or set `root` to a folder that holds them all.")
        return paths


def stem(path: str) -> str:
    """A path without its suffix of a video, or suffixes: `X.AVI.avi` is X."""
    while Path(path).suffix.lower() in VIDEO_SUFFIXES:
        path = str(Path(path).with_suffix(""))
    return path


def _key(path: str) -> str:
    """What two spellings of one path have in common: no suffix, no case, one form of each accent."""
    return unicodedata.normalize("NFC", stem(path)).casefold()
