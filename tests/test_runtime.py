"""Atomic writes, locks, seeds and digests: what a killed, repeated or parallel run may rely on."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from echolung import errors, runtime


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="No space"), runtime.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_an_interrupted_directory_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "features"
    with runtime.atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), runtime.atomic_directory(path) as temporary:
        (temporary / "b").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["a"]
    with runtime.atomic_directory(path) as temporary:
        (temporary / "c").write_text("3")
    assert [p.name for p in path.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["features"]


def write_and_wait(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with runtime.atomic_directory(path) as temporary:
        (temporary / "half").write_text("x")
        ready.set()
        multiprocessing.Event().wait()


def test_a_killed_writer_leaves_nothing_for_the_next_one_to_read(tmp_path: Path) -> None:
    path = tmp_path / "features"
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    writer = spawn.Process(target=write_and_wait, args=(path, ready))
    writer.start()
    assert ready.wait(60)
    writer.kill()
    writer.join()
    assert len(list(tmp_path.iterdir())) == 1
    with runtime.atomic_directory(path) as temporary:
        (temporary / "whole").write_text("y")
    assert [p.name for p in tmp_path.iterdir()] == ["features"]
    # Killed between the two renames: the old one comes back.
    (tmp_path / ".features-old-abcdefgh").mkdir()
    path.rename(tmp_path / ".features-old-abcdefgh" / "features")
    with pytest.raises(OSError, match="full"), runtime.atomic_directory(path):
        raise OSError("full")
    assert [p.name for p in path.iterdir()] == ["whole"]


def hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with runtime.exclusive(path, "stage probe"):
        ready.set()
        ready_forever = multiprocessing.Event()
        ready_forever.wait()


def test_a_lock_refuses_a_second_holder_by_name_and_dies_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "probe.lock"
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    holder = spawn.Process(target=hold, args=(lock, ready))
    holder.start()
    assert ready.wait(60)
    with (
        pytest.raises(errors.BusyError, match=f"stage probe is already running .process {holder.pid}"),
        runtime.exclusive(lock, "stage probe"),
    ):
        pass
    holder.kill()
    holder.join()
    with runtime.exclusive(lock, "stage probe"):
        pass


def test_digest_depends_on_values_and_not_on_order() -> None:
    assert runtime.digest({"a": 1, "b": [2, 3]}) == runtime.digest({"b": [2, 3], "a": 1})
    assert runtime.digest({"a": 1}) != runtime.digest({"a": 2})
    assert len({runtime.derived_seed("fold", i, j) for i in range(20) for j in range(20)}) == 400
    # The value itself is a promise: other machines draw the same phantoms and folds.
    assert runtime.derived_seed("phantom", 1) == runtime.derived_seed("phantom", 1) < 2**31


def test_code_digest_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "sample_module.py"
    digests = []
    for text in (
        'def f(x):\n    """Doc."""\n    return x + 1\n',
        "def f(x):\n    # why\n    return x + 1\n",
        "def f(x):\n    return x + 2\n",
    ):
        module.write_text(text)
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


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type)])
def test_errors_cross_process_borders_whole(kind: type[errors.EcholungError]) -> None:
    error = pickle.loads(pickle.dumps(kind("clip.mp4 has no frames", "Export it again.")))
    assert (type(error), str(error)) == (kind, "clip.mp4 has no frames. Export it again.")
