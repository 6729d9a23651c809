"""Hostile inputs: each ends in the right frames or in one line that refuses it, and at which cost.

    python benchmarks/hostile.py            # the table, as Markdown
    python benchmarks/hostile.py --write    # the same into docs/hostile-inputs.md

Every input is made in one process and read in another, which ends with it; a reader that takes longer than a minute is
killed. Memory is the peak of the reader's resident set above what it held before, so that the interpreter and the
libraries, which are the same for all, do not count. Exit code 1 if anything came out wrong, ran code or called an
address, or took over 5 seconds or 512 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from hostile_corpus import cases, disguises, tables, videos, weights

from echolung.data.ffmpeg import require_ffmpeg
from echolung.data.video import decode, encode

ROOT = Path(__file__).parents[1]
MOST_SECONDS, MOST_MEGABYTES, KILLED_AFTER = 5.0, 512, 60.0
CORPUS = [
    *videos.kinds(),
    *videos.shapes(),
    *videos.lies(),
    *videos.huge(),
    *videos.cut(),
    *disguises.disguised(),
    *disguises.not_files(),
    *tables.tables(),
    *weights.weights(),
]


@dataclasses.dataclass(frozen=True)
class Result:
    """How one case ended."""

    name: str
    what: str
    outcome: str
    right: bool
    seconds: float
    megabytes: float


def run(case: cases.Case, port: int) -> Result:
    """Make the case, read it, and see what came of it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as outside:
        place = cases.Place(Path(folder) / case.name, Path(outside) / "canary", port)
        made = _elsewhere(lambda: f"made {case.make(place)}")
        if not made["right"]:
            return Result(case.name, case.what, f"not made: {made['outcome']}", False, 0.0, 0.0)
        ended = _elsewhere(lambda: cases.settle(case, place))
        if place.canary.exists():
            ended |= {"right": False, "outcome": "ran code"}
        return Result(name=case.name, what=case.what, **ended)


def _elsewhere(work: Callable[[], str]) -> dict[str, object]:
    """What `work` returns or raises in a process of its own, with its seconds and its peak of megabytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, writer)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], KILLED_AFTER)
    if not ready:
        os.kill(child, signal.SIGKILL)
    said = b"".join(iter(lambda: os.read(reader, 1 << 16), b""))
    os.close(reader)
    os.waitpid(child, 0)
    if not said:
        end = "it died" if ready else f"it hung for {KILLED_AFTER:.0f} seconds and was killed"
        return {"outcome": end, "right": False, "seconds": 0.0 if ready else KILLED_AFTER, "megabytes": 0.0}
    return dict(json.loads(said))


def _child(work: Callable[[], str], writer: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # encoders chat
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, begun = _resident("VmRSS"), time.monotonic()
    try:
        outcome, right = work(), True
    except BaseException as error:  # whatever is not expected is the finding
        outcome, right = f"{type(error).__name__}: {error}", False
    ended = {"outcome": outcome, "right": right, "seconds": time.monotonic() - begun}
    os.write(writer, json.dumps({**ended, "megabytes": _resident("VmHWM") - before}).encode())
    os._exit(0)


def _resident(kind: str) -> float:
    """Resident megabytes of this process: now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(kind))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and the peak since the process began
    return peak / (1 << 20)


def warm_up() -> None:
    """Load what is loaded once, before anything is measured, and start no thread that a child would miss."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        encode(Path(folder) / "warm.mp4", cases.speckle(4), 25, "mpeg4")
        decode(Path(folder) / "warm.mp4")


def run_all(corpus: list[cases.Case]) -> list[Result]:
    """Every case, one after the other, while a port of this machine listens for anybody who calls an address."""
    warm_up()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        results = []
        for case in corpus:
            result = run(case, server.getsockname()[1])
            if select.select([server], [], [], 0)[0]:
                server.accept()[0].close()
                result = dataclasses.replace(result, right=False, outcome="called an address")
            results.append(result)
    return results


def table(results: list[Result]) -> str:
    """The results as a page of Markdown."""
    right = sum(result.right for result in results)
    slowest, largest = max(result.seconds for result in results), max(result.megabytes for result in results)
    lines = [
        "# Hostile inputs",
        "",
        "Inputs that are odd, lie about themselves, are cut off, huge, something else, or would like to run code. Each",
        "must end in the right frames (held against what was encoded, within the codec's loss), or in one line that",
        "refuses it, or in the frames that are there, with what is missing or wrong named; `ingest` refuses such a",
        "video. MPEG streams declare no length: a clean cut there goes unnoticed. Each takes less than",
        f"{MOST_SECONDS:.0f} seconds and {MOST_MEGABYTES} MB above the interpreter's own memory; no code may run, and",
        "no address be called.",
        "",
        "`forbidden.mp4` is refused because it may not be read, unless the benchmark runs as root, who may read all.",
        "",
        "Written by `python benchmarks/hostile.py --write`; `tests/test_hostile.py` holds all but the seconds.",
        "",
        f"**{right} of {len(results)} ended right**; the slowest took {slowest:.1f} s, the largest {largest:.0f} MB"
        f" ({datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, torch {torch.__version__}, torchcodec {version('torchcodec')},"
        f" FFmpeg {require_ffmpeg()}).",
        "",
        "| input | what it is | what comes of it | s | MB |",
        "|---|---|---|--:|--:|",
    ]
    for result in results:
        cells = [_cell(text) for text in (result.name, result.what, result.outcome)]
        wrong = "" if result.right else "**WRONG** "
        lines.append(
            f"| `{cells[0]}` | {cells[1]} | {wrong}{cells[2]} | {result.seconds:.2f} | {result.megabytes:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    short = text if len(text) <= 160 else text[:157] + "..."
    return short.replace("|", "\\|").replace("\n", "\\n").replace("<", "&lt;")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/hostile-inputs.md")
    parser.add_argument("--json", action="store_true", help="print the results for programs")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    chosen = parser.parse_args()
    results = run_all([case for case in CORPUS if chosen.only in case.name])
    if chosen.json:
        print(json.dumps([dataclasses.asdict(result) for result in results]))
        return
    page = table(results)
    if chosen.write:
        (ROOT / "docs" / "hostile-inputs.md").write_text(page)
    print(page)
    within = all(result.seconds < MOST_SECONDS and result.megabytes < MOST_MEGABYTES for result in results)
    sys.exit(0 if within and all(result.right for result in results) else 1)


if __name__ == "__main__":
    main()
