"""Tables of videos that point elsewhere, are none, or would like to be more than a table"""

from __future__ import annotations

import os
from collections.abc import Callable

from hostile_corpus.cases import Case, Place, Wrong, scanned

from echolung.data.manifest import conform
from echolung.data.sources.folder import scan

HEADER = b"path,patient,label\n"
FORMULAS = b'"=HYPERLINK(""b.mp4"")",@P1,+1\n"-2+3+cmd|\' /C calc\'!A0",=P2,sick\n'
OUTSIDE = "stay inside|must lie inside"
ROWS: list[tuple[str, str, bytes, str]] = [
    ("up.csv", "a path with ../", b"../../etc/passwd,P1,sick\n", OUTSIDE),
    ("absolute.csv", "an absolute path", b"/etc/passwd,P1,sick\n", OUTSIDE),
    ("drive.csv", "a path with a drive's letter", b"C:\\scans\\a.mp4,P1,sick\n", OUTSIDE),
    ("address.csv", "an address", b"http://127.0.0.1/a.mp4,P1,sick\n", OUTSIDE),
    ("nul.csv", "NUL bytes", b"a\x00.mp4,P1,sick\n", "NUL bytes"),
    ("utf-16.csv", "UTF-16", "a.mp4,P1,kr\u00e4nk\n".encode("utf-16-le"), "NUL bytes"),
    ("latin-1.csv", "Latin-1", "a.mp4,P1,kr\u00e4nk\n".encode("latin-1"), "not in UTF-8 \\(line 2\\)"),
    ("ragged.csv", "a row with more cells than columns", b"a,b.mp4,P1,sick\n", "line 2 has 4 cells"),
    ("open.csv", "a quote that never ends", b'"a.mp4,P1,sick\n', "is not a csv table"),
    ("long.csv", "a cell of a million letters", b"a" * 10**6 + b".mp4,P1,sick\n", "is not a csv table"),
    ("twice.csv", "one name under two suffixes", b"a.mp4,P1,sick\na.avi,P2,well\n", "stand more than once"),
]


def tables() -> list[Case]:
    """videos.csv of a folder of one's own videos."""
    columns = b",".join([b"path,patient,label", *(b"%d" % column for column in range(10**6))]) + b"\n"
    return [
        *(Case(name, f"table: {what}", _table(HEADER + row), scanned, refused) for name, what, row, refused in ROWS),
        Case("columns.csv", "table: 1,000,003 columns", _table(columns), scanned, "has 1000003 columns"),
        Case("formulas.csv", "table: cells that a spreadsheet would run", _table(HEADER + FORMULAS), _formulas),
        Case(
            "pipe.csv", "table: a named pipe", lambda place: os.mkfifo(place.folder / "videos.csv"), scanned, "a pipe"
        ),
        Case("link-out.csv", "table: a link that leads out of the folder", _linked, scanned, OUTSIDE),
        Case("loop.csv", "table: a folder that links to itself", _looped, scanned),
    ]


def _table(contents: bytes) -> Callable[[Place], object]:
    return lambda place: (place.folder / "videos.csv").write_bytes(contents)


def _formulas(place: Place) -> str:
    table = conform(scan(place.folder, "mine"))
    if table["label"].tolist() != ["+1", "sick"] or table["patient_id"].tolist() != ["mine/@P1", "mine/=P2"]:
        raise Wrong(f"cells became {table[['patient_id', 'label']].to_dict('list')}")
    return f"{len(table)} rows, every cell a text"


def _linked(place: Place) -> None:
    (place.folder / "out").symlink_to("/etc")
    _table(HEADER + b"out/passwd,P1,sick\n")(place)


def _looped(place: Place) -> None:
    (place.folder / "loop").symlink_to(".")
    _table(HEADER + b"loop/loop/a.mp4,P1,sick\n")(place)
