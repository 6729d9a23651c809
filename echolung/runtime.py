"""What every stage needs from the machine: seeds, digests, atomic writes and locks."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from echolung.errors import BusyError, DataError

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` while long work advances."""


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on all parts and is the same in every process and on every machine."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed python, numpy's legacy generator and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A 16-digit hexadecimal digest of anything JSON can hold, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name only if the block succeeds.

    A reader therefore sees the old file, the new one or none, never half of one; a full disk leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a directory: what stood there before is replaced as a whole.

    Leftovers of a writer that was killed are removed: callers hold a lock, so nobody else is writing here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recover(path: Path) -> None:
    """Put back what a killed `atomic_directory` had moved aside, and remove what it had half written."""
    left = re.compile(rf"\.{re.escape(path.name)}-(old-)?\w{{8}}")
    for entry in [entry for entry in path.parent.iterdir() if left.fullmatch(entry.name)]:
        if not path.exists() and (entry / path.name).is_dir():
            (entry / path.name).replace(path)
        shutil.rmtree(entry, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as readable JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DataError naming it if it is missing or damaged."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", "Remove it and run `dvc repro` again.")
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "Run `dvc repro` to make it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})", "Delete it and run `dvc repro` again.") from None


def _plain(value: Any) -> Any:
    """JSON for numpy scalars and arrays, paths, and whatever else has an exact text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextlib.contextmanager
def exclusive(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` while doing `work`; raises BusyError at once if another process holds it.

    The kernel releases the lock when its holder ends, however it ends: there is nothing to clean up by hand.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise BusyError(f"{work} is already running ({holder})", "Wait for it, or stop it first.") from None
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()}")
        stream.flush()
        try:
            yield
        finally:
            stream.seek(0)
            stream.truncate()


def code_digest(*modules: str) -> str:
    """A digest of what the named modules or packages do: their syntax trees without comments and docstrings.

    Work that is kept across runs (checkpoints, finished trials, decoded clips) carries it in its fingerprint, so that
    changed code is never answered with an old result, while a changed comment costs nothing.
    """
    trees: dict[str, str] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, f"no module {module}"
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                    and ast.get_docstring(node) is not None
                ):
                    node.body = node.body[1:]
            trees[f"{module}:{file.relative_to(origin.parent)}"] = ast.dump(tree)
    return digest(trees)
