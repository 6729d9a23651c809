"""What every stage needs from the machine: seeds, digests, atomic writes and locks."""

import ast
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import random
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from echolung.core.errors import BusyError, DataError, DiskError, EcholungError


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


_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_REFUSALS |= {errno.ENOTDIR, errno.EEXIST, errno.EIO}
_CUT = re.compile(r"\d+ requested and \d+ written")  # numpy, which does not say why


def disk_error(error: BaseException, path: Path | None = None) -> DiskError | None:
    """The DiskError for an error of the disk, or of a library that repeats its text; None for any other error."""
    if isinstance(error, EcholungError):
        return error if isinstance(error, DiskError) else None
    texts = [os.strerror(code) for code in _REFUSALS if os.strerror(code) in str(error)]
    if isinstance(error, OSError) and _CUT.search(str(error)):
        texts = ["a file could not be written to its end"]
    if not texts:
        return None
    place = path or getattr(error, "filename", None) or error
    remedy = "Free space or correct the permissions, and run again: finished work is kept, and nothing was overwritten."
    return DiskError(f"{texts[0]}: {place}", remedy)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        told = disk_error(error, path)
        if told is None or told is error:
            raise
        raise told from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` only if the block succeeds.

    A reader sees the old file, the new one or none, never half of one. Permissions follow the umask. Raises DiskError,
    and keeps the old file, where the disk is full or refuses.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: writers choose the format by it.
        temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
        temporary.touch(exist_ok=False)  # tempfile would make it private to this user
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a directory, which is replaced as a whole. Callers hold a lock: nobody else writes it."""
    temporary, old = path.with_name(f".{path.name}-new"), path.with_name(f".{path.name}-old")
    with _disk_errors(path):
        if old.exists() and not path.exists():  # killed between the two renames below
            old.replace(path)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists():
                path.replace(old)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def stop_asked(path: Path | None) -> bool:
    """Whether something is written in the file that asks work to stop; see `stage.Stage.stopping`."""
    try:
        return path is not None and bool(path.read_bytes())  # opened: a network disk then asks its server
    except OSError:
        return False


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` without a second copy; a copy where the disk cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write `value`, with paths, numpy's scalars and arrays in it, atomically as readable JSON."""
    text = json.dumps(value, indent=2, default=lambda one: str(one) if isinstance(one, Path) else one.tolist())
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DataError naming it if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "Run `dvc repro` to make it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})", "Delete it and run `dvc repro` again.") from None


def workspace(root: Path) -> Path:
    """Where runs, models and cached results belong: `root`, or what `dvc exp run --temp` has copied it from."""
    root = root.absolute()
    for parent in root.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return root


@contextlib.contextmanager
def exclusive(path: Path, work: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for `work`; raises BusyError if another process keeps it for `patience` seconds."""
    from filelock import FileLock, Timeout

    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=patience, on_acquired=_sign)
        try:
            lock.acquire()
        except Timeout:
            holder = path.read_text(errors="replace").strip() or "another process"
            raise BusyError(f"{work} is already running ({holder})", "Wait for it, or stop it first.") from None
    try:
        yield
    finally:
        lock.release()


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock works without the name of its holder
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)


def code_digest(*modules: str) -> str:
    """A digest of what the named modules or packages do: their syntax trees without comments and docstrings.

    It is in the key of cached work (checkpoints, trials, decoded clips): changed code makes it again, comments do not.
    """
    trees: dict[str, str] = {}
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, f"no module {module}"
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                if isinstance(node, documented):
                    node.body = [one for one in node.body if not _is_text(one)]
            trees[f"{module}:{file.relative_to(origin.parent)}"] = ast.dump(tree)
    return digest(trees)


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone: a docstring, also of a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def used_modules(*start: str, within: tuple[str, ...], without: Collection[str] = ()) -> list[str]:
    """These imported modules, and those below `within`, but for `without`, whose classes and functions they use."""
    found: set[str] = set()
    waiting = set(start)
    while waiting:
        found |= waiting
        values = [value for module in waiting for value in vars(sys.modules[module]).values()]
        used = {str(getattr(value, "__module__", "")) for value in values}
        used |= {value.__name__ for value in values if isinstance(value, type(sys))}
        waiting = {module for module in used if module.startswith(within)} - found - {*without}
    return sorted(found)
