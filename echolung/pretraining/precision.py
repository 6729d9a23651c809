"""Which arithmetic a run uses, by what its device has in hardware."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")


def resolve(precision: str, device: str) -> Literal["bf16", "float32"]:
    """`precision` (auto, bf16 or float32) on a device of type cuda or cpu, as bf16 or float32.

    auto means bfloat16 on a GPU and on CPUs with bfloat16 instructions, where a training step is about twice as fast;
    emulated bfloat16 would be slower than float32.
    """
    if precision == "auto":
        return "bf16" if device == "cuda" or (device == "cpu" and cpu_has_bf16()) else "float32"
    return "bf16" if precision == "bf16" else "float32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware; False where Linux does not say."""
    try:
        return re.search(r"\b(amx_bf16|avx512_bf16)\b", CPUINFO.read_text()) is not None
    except OSError:
        return False
