"""Wall time and peak memory of any command with all its child processes: python benchmarks/footprint.py make demo"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time

import psutil


def footprint(command: list[str], interval: float = 0.5) -> tuple[int, float, float]:
    """(exit code, seconds, peak bytes) of `command`.

    Memory is the sum of the proportional set sizes of the process and its descendants (pages that several share are
    counted once), sampled every `interval` seconds; where the system does not tell it, the resident set sizes.
    """
    started, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        total = 0.0
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.Error:
            break
        for member in family:
            try:
                memory = member.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
            except psutil.Error:
                continue  # it has ended
        peak = max(peak, total)
        time.sleep(interval)
    return process.wait(), time.monotonic() - started, peak


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: {sys.argv[0]} COMMAND ...")
    code, seconds, peak = footprint(sys.argv[1:])
    print(
        f"{' '.join(sys.argv[1:])}: exit code {code}, {seconds:.0f} s, peak {peak / 2**30:.2f} GiB"
        f" ({datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()})"
    )
    raise SystemExit(code)


if __name__ == "__main__":
    main()
