"""Atomic writes, locks, seeds and digests: what a killed, repeated or parallel run may rely on."""

import contextlib
import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from echolung.core import errors, runtime


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), runtime.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


FRAME = pd.DataFrame({"x": np.random.default_rng(0).random(50_000)})
WRITERS: dict[str, Callable[[Path], object]] = {
    "numpy": lambda path: np.save(path, FRAME["x"].to_numpy()),
    "safetensors": lambda path: save_file({"x": torch.ones(100_000)}, path),
    "parquet": lambda path: FRAME.to_parquet(path),
    "text": lambda path: path.write_text("x" * 400_000),
    "copy": lambda path: shutil.copyfile(pd.core.frame.__file__, path),
}


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Larger ones are refused by the system, as a full disk refuses them: half way through their being written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("writer", WRITERS)
def test_whatever_library_writes_to_a_full_disk_ends_in_one_typed_line(tmp_path: Path, writer: str) -> None:
    path = tmp_path / f"old.{'npy' if writer == 'numpy' else 'png'}"  # both choose or complete the name by it
    path.write_text("old")
    told = "a file could not be written to its end" if writer == "numpy" else "File too large"  # NumPy gives no reason
    with (
        files_of_at_most(20_000),
        pytest.raises(errors.DiskError, match=rf"{told}: .*/old\.(png|npy)\.") as error,
        runtime.atomic_path(path) as temporary,
    ):
        WRITERS[writer](temporary)
    assert "run again" in error.value.remedy and path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with runtime.atomic_path(path) as temporary:
        WRITERS[writer](temporary)
    assert path.stat().st_size > 20_000


@contextlib.contextmanager
def another_process(block: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has entered `with runtime.<block>` and stays there until it is killed."""
    script = f"from pathlib import Path; from echolung.core import runtime; path = Path({str(path)!r})\n"
    script += f"with runtime.{block} as target:\n    print('inside', flush=True)\n    input()\n"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "inside\n"
        yield process
        process.kill()


def test_a_killed_writer_leaves_nothing_for_the_next_one_to_read(tmp_path: Path) -> None:
    path = tmp_path / "features"
    with another_process("atomic_directory(path)", path):
        pass
    assert len(list(tmp_path.iterdir())) == 1
    with runtime.atomic_directory(path) as temporary:
        (temporary / "whole").write_text("y")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(errors.DiskError, match=r"No space left on device: .*features"), runtime.atomic_directory(path):
        raise OSError(28, "No space left on device")
    assert list(path.iterdir()) == [path / "whole"]


def test_a_folder_whose_replacement_is_cut_short_is_whole_again(tmp_path, monkeypatch) -> None:
    path, replace = tmp_path / "features", Path.replace
    with runtime.atomic_directory(path) as temporary:
        (temporary / "first").write_text("x")

    def killed(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt), runtime.atomic_directory(path):
            pass
    assert not path.exists()  # nothing, rather than half of it
    with pytest.raises(errors.DiskError), runtime.atomic_directory(path):
        raise OSError(28, "No space left on device")
    assert list(path.iterdir()) == [path / "first"]


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "fit.lock"
    with another_process("exclusive(path, 'stage fit')", lock) as holder:
        said = rf"stage fit is already running \(process {holder.pid}\)"
        with pytest.raises(errors.BusyError, match=said), runtime.exclusive(lock, "stage fit"):
            pass
    with runtime.exclusive(lock, "stage fit"):
        assert lock.read_text() == f"process {os.getpid()}"


SEED = int.from_bytes(hashlib.sha256(b'["phantom", "1"]').digest()[:4], "little") & 0x7FFFFFFF


def test_digests_see_values_and_code_and_not_order_and_comments(tmp_path: Path, monkeypatch) -> None:
    assert runtime.digest({"a": 1, "b": [2, 3]}) == runtime.digest({"b": [2, 3], "a": 1})
    assert runtime.digest({"a": 1}) != runtime.digest({"a": 2})
    assert len({runtime.derived_seed("fold", i, j) for i in range(20) for j in range(20)}) == 400
    assert runtime.derived_seed("phantom", 1) == SEED, "other machines draw the same phantoms and folds"
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for field, text in (
        ('"""Of f."""', '"""Doc."""\n    return x + 1'),
        ("", "# why\n    return x + 1"),
        ("", "return x + 2"),
    ):
        (tmp_path / "sample_module.py").write_text(f"ONE = 1\n{field}\ndef f(x):\n    {text}\n")
        sys.modules.pop("sample_module", None)
        digests.append(runtime.code_digest("sample_module"))
    assert digests[0] == digests[1] != digests[2]


def test_json_round_trip_of_numpy_and_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    runtime.write_json(path, {"a": np.float32(0.5), "b": np.arange(3), "p": Path("q")})
    assert runtime.read_json(path) == {"a": 0.5, "b": [0, 1, 2], "p": "q"}
    path.write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(errors.DataError, match=r"x\.json is not JSON.*dvc repro"):
        runtime.read_json(path)
    with pytest.raises(errors.DataError, match=r"missing\.json does not exist"):
        runtime.read_json(tmp_path / "missing.json")


@pytest.mark.parametrize("kind", [errors.EcholungError, *errors.EcholungError.__subclasses__()])
def test_errors_cross_process_borders_whole(kind: type[errors.EcholungError]) -> None:
    error = pickle.loads(pickle.dumps(kind("clip.mp4 has no frames", "Export it again.")))
    assert (type(error), str(error)) == (kind, "clip.mp4 has no frames. Export it again.")
