"""Copies of a video are found whatever was done to them, strangers on the same machine are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import save_clips
from scipy import ndimage

from echolung.data import leakage
from echolung.data.geometry import letterbox
from echolung.data.leakage import find_pairs, near_duplicates, split_groups
from echolung.data.splits import SplitSettings
from echolung.data.video import decode, encode

SIZE = 96
THRESHOLD = SplitSettings().near_duplicate


def ultrasound(seed: int, total: int = 40, size: int = SIZE) -> np.ndarray:
    """A sector of anatomy under speckle that slides and breathes; the sector is the same in all videos."""
    random = np.random.default_rng(seed)
    speckle = ndimage.gaussian_filter(random.standard_normal((3 * size, 3 * size)), 1.2)
    anatomy = ndimage.gaussian_filter(random.standard_normal((3 * size, 3 * size)), 5)
    depth, across = np.mgrid[0:size, 0:size] / size - np.array([0, 0.5])[:, None, None]
    sector = (np.abs(across) < 0.15 + 0.45 * depth) & (np.hypot(depth, across) < 0.95)
    frames = []
    for time in range(total):
        y, x = (np.array([np.sin(time / 7 + seed), np.cos(time / 9)]) * 6 + size).round().astype(int)
        speckled = speckle[y : y + size, x : x + size] / speckle.std()
        layered = anatomy[y : y + size, x : x + size] / anatomy.std()
        frames.append(sector * np.clip(255 * (1 - depth) * np.exp(0.5 * speckled + 0.7 * layered - 1.5), 0, 255))
    return np.array(frames).astype(np.uint8)


def reencoded(frames: np.ndarray, folder: Path) -> np.ndarray:
    encode(folder / "copy.mp4", frames, 25.0, "h264")
    return decode(folder / "copy.mp4").frames


COPIES: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "trimmed": lambda frames, _: frames[13:29],
    "re-encoded": reencoded,
    "half the size": lambda frames, _: letterbox(letterbox(frames, SIZE // 2), SIZE),
    "brighter": lambda frames, _: (255 * (frames / 255) ** 0.7).astype(np.uint8),
    "cropped by 3%": lambda frames, _: letterbox(np.ascontiguousarray(frames[:, 3:-3, 3:-3]), SIZE),
    "followed by something else": lambda frames, _: np.concatenate([frames[10:], ultrasound(99, 30)]),
    "backwards": lambda frames, _: frames[::-1],
}


def table(*samples: str, patients: list[str] | None = None, digests: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": samples, "patient_id": patients or samples, "sha256": digests or samples})


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found(change: str, tmp_path: Path) -> None:
    original = ultrasound(1)
    videos = {"a": original, "b": COPIES[change](original, tmp_path), "c": ultrasound(2), "d": ultrasound(3)}
    (pair,) = near_duplicates(table(*videos), videos.__getitem__, THRESHOLD).itertuples()
    assert (pair.sample_a, pair.sample_b) == ("a", "b") and THRESHOLD <= pair.similarity <= 1


def test_strangers_on_one_machine_are_not_copies() -> None:
    videos = {f"s{n:02d}": ultrasound(n + 10, 24) for n in range(24)}
    assert near_duplicates(table(*videos), videos.__getitem__, THRESHOLD).empty


def test_strangers_that_look_alike_are_left_out_before_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ultrasound(0, 2)
    videos = {f"s{n:02d}": (0.45 * shared + 0.55 * ultrasound(n + 1, 2)).astype(np.uint8) for n in range(12)}
    videos["copy"] = COPIES["cropped by 3%"](videos["s05"], Path())
    calls, registered = [], leakage._registered
    monkeypatch.setattr(leakage, "_registered", lambda *looks: calls.append(looks) or registered(*looks))
    pairs = near_duplicates(table(*videos), videos.__getitem__, THRESHOLD)
    assert pairs.iloc[:, :2].to_numpy().tolist() == [["copy", "s05"]]
    few = len(calls)
    monkeypatch.setattr(leakage, "MOVED_FLOOR", 0.0)
    pd.testing.assert_frame_equal(near_duplicates(table(*videos), videos.__getitem__, THRESHOLD), pairs)
    assert len(calls) - few > 10 * few


def test_identical_files_are_pairs_whatever_they_look_like() -> None:
    black = np.zeros((5, SIZE, SIZE), np.uint8)
    pairs = near_duplicates(table("a", "b", "c", digests=["x", "y", "x"]), lambda _: black, THRESHOLD)
    assert pairs.to_dict("records") == [{"sample_a": "a", "sample_b": "c", "similarity": 1.0, "same_patient": False}]


def test_pairs_within_a_patient_are_marked_and_single_frames_are_found() -> None:
    one = ultrasound(1)
    videos = {"a": one, "b": one[3:], "c": one[20:21], "d": ultrasound(2)[:1]}
    pairs = near_duplicates(table(*videos, patients=["p", "p", "q", "r"]), videos.__getitem__, THRESHOLD)
    marked = pairs.set_index(["sample_a", "sample_b"])["same_patient"].to_dict()
    assert marked == {("a", "b"): True, ("a", "c"): False, ("b", "c"): False}


def test_pairs_across_sources_are_found_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {"one": save_clips(tmp_path / "one", {"a": ultrasound(1), "b": ultrasound(2)})}
    stores["two"] = save_clips(tmp_path / "two", {"c": ultrasound(1)[5:], "d": ultrasound(3)})
    rows = table("a", "b", "c", "d").assign(source=["one", "one", "two", "two"])
    pairs = find_pairs(rows, stores, THRESHOLD, tmp_path / "cache")
    assert pairs[["sample_a", "sample_b"]].to_numpy().tolist() == [["a", "c"]]
    monkeypatch.setattr(leakage, "near_duplicates", lambda *_: pytest.fail("searched again"))
    pd.testing.assert_frame_equal(find_pairs(rows.iloc[::-1], stores, THRESHOLD, tmp_path / "cache"), pairs)
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        find_pairs(rows.assign(patient_id="p"), stores, THRESHOLD, tmp_path / "cache")


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_joined_until_no_pair_and_no_patient_is_in_two(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = [f"s{n}" for n in range(90)]
    patients, sets = random.integers(0, 40, 90), random.integers(0, 60, 90)
    rows = table(*ids, patients=[f"p{n:02d}" for n in patients])
    rows["split_group"] = rows["patient_id"].where(sets > 5, [f"q{n}" for n in sets])
    first, second = random.integers(0, 90, (2, 25))
    named = {"sample_a": [*(ids[n] for n in first), "other"], "sample_b": [*(ids[n] for n in second), "s0"]}
    expected = rows["split_group"].to_numpy(object)
    together = [rows[name].to_numpy() == one for name in ("split_group", "patient_id") for one in set(rows[name])]
    together += [np.isin(np.arange(90), pair) for pair in zip(first, second, strict=True)]
    for _ in range(90):  # until nothing changes
        for same in together:
            expected[same] = min(expected[same])
    assert split_groups(rows, pd.DataFrame(named)).tolist() == expected.tolist()
