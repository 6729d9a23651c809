"""Novelty: the distance is Mahalanobis', and the threshold keeps its word on patients whom it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf

from echolung.core.errors import CheckpointError, DataError
from echolung.data.clips import ClipStore
from echolung.data.clips import write_index as write_clips_index
from echolung.embedding.features import Features, FeaturesRecord
from echolung.embedding.features import write_index as write_features_index
from echolung.methods.handmade import handmade_features
from echolung.methods.novelty import (
    FARTHEST,
    FILE,
    Descriptions,
    Novelty,
    NoveltySettings,
    Usual,
    describe,
    described_videos,
    fit_novelty,
    load_novelty,
    save_novelty,
)

P = 12


def patients(count: int, videos: int, seed: int, dimensions: int = P) -> tuple[np.ndarray, np.ndarray]:
    """Descriptions (count * videos, dimensions) that differ between patients more than within, and whose they are."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions))
    own = np.repeat(random.normal(size=(count, dimensions)), videos, axis=0)
    found = (own + 0.3 * random.normal(size=own.shape)) @ mixing + 5
    return found, np.repeat(np.arange(count), videos)


def twice(descriptions: np.ndarray) -> Descriptions:
    """Videos of which both descriptions say the same: their distance is that of either."""
    return Descriptions(descriptions, descriptions)


def fitted(known: np.ndarray, groups: np.ndarray, settings: NoveltySettings | None = None) -> Novelty:
    return fit_novelty(twice(known), groups, settings or NoveltySettings())


def test_a_description_is_mean_spread_and_change_of_normalised_tokens_by_region() -> None:
    views, (time, height, width), channels = 2, (3, 6, 6), 5
    tokens = torch.randn(views, time * height * width, channels, generator=torch.Generator().manual_seed(0)) * 3 + 1
    x = tokens.numpy().astype(np.float64)
    x = ((x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)).reshape(
        views, time, height, width, channels
    )

    def summed_up(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = x[:, :, rows, columns]
        flat = part.reshape(-1, channels)
        moved = [abs(part[v, t + 1] - part[v, t]).mean((0, 1)) for v in range(views) for t in range(time - 1)]
        return flat.mean(0), flat.std(0), np.mean(moved, axis=0)

    whole = summed_up(slice(None), slice(None))
    regions = [summed_up(slice(2 * r, 2 * r + 2), slice(2 * c, 2 * c + 2)) for r in range(3) for c in range(3)]
    by_region = [np.stack([region[kind] for region in regions], axis=1).ravel() for kind in range(3)]
    frames = np.random.default_rng(0).integers(0, 255, (9, 20, 20), dtype=np.uint8)
    found, looks = describe(tokens, (time, height, width), frames)
    assert found.shape == (30 * channels,)
    np.testing.assert_allclose(found, np.concatenate([*whole, *by_region]), atol=1e-5)
    np.testing.assert_array_equal(looks, list(handmade_features(frames).values()))
    still = tokens[:, : height * width].repeat(1, time, 1)
    assert (describe(still, (time, height, width), frames)[0][2 * channels : 3 * channels] == 0).all(), (
        "it stands still"
    )
    assert np.isfinite(describe(tokens, (1, 18, 6), frames)[0]).all(), "one tubelet has nothing to change to"


@pytest.mark.parametrize("dimensions", [12, 90])  # fewer and more than there are videos
def test_the_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance(dimensions: int) -> None:
    known, _ = patients(30, 2, 1, dimensions)
    usual = Usual.of(known)
    fresh = patients(5, 1, 2, dimensions)[0]
    standard = (known - known.mean(0)) / usual.scale
    reference = LedoitWolf(assume_centered=True).fit(standard)
    expected = np.sqrt(reference.mahalanobis((fresh - known.mean(0)) / usual.scale) / dimensions)
    np.testing.assert_allclose(usual.distances(fresh), expected, rtol=1e-4)
    np.testing.assert_allclose(usual.scale, known.std(0), rtol=0.02)


def test_directions_beyond_those_that_are_kept_share_their_mean_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = patients(40, 1, seed=3)
    monkeypatch.setattr("echolung.methods.novelty.DIRECTIONS", 4)
    usual = Usual.of(known)
    assert usual.directions.shape == (P, 4)
    standard = (known - known.mean(0)) / usual.scale
    reference = LedoitWolf(assume_centered=True).fit(standard)
    variances = np.sort(np.linalg.eigvalsh(reference.covariance_))[::-1]
    np.testing.assert_allclose(usual.variances, variances[:4], rtol=1e-6)
    np.testing.assert_allclose(usual.floor, variances[4:].mean(), rtol=1e-6)


def test_new_patients_are_flagged_about_as_often_as_was_wanted_and_as_was_measured() -> None:
    wanted, flagged, measured = 0.1, [], []
    for seed in range(16):
        known, groups = patients(40, 2, seed)
        record = (novelty := fitted(known, groups, NoveltySettings(false_alarms=wanted))).record
        flagged.append((novelty.usual.distances(twice(patients(300, 2, seed + 1000)[0])) > record.threshold).mean())
        measured.append(record.measured)
        assert record.measured_low <= record.measured <= record.measured_high
        assert (record.videos, record.groups, record.wanted) == (80, 40, wanted)
    # Means over 16 draws of 40 groups: the standard error is about 0.012.
    assert np.mean(flagged) == pytest.approx(wanted, abs=0.035)
    assert np.mean(measured) == pytest.approx(np.mean(flagged), abs=0.035)


def test_what_is_far_away_is_flagged() -> None:
    known, groups = patients(30, 2, seed=1)
    novelty = fitted(known, groups)
    far = known.mean(0) + 8 * known.std(0)
    assert (novelty.usual.distances(twice(np.stack([far, -far]))) > novelty.record.threshold).all()
    # A direction in which the known videos do not differ: each value is usual, together they are not.
    flat, groups = patients(150, 1, seed=1)
    flat[:, 1] = flat[:, 0]
    novelty = fitted(flat, groups)
    torn = flat[:1].copy()
    torn[0, 0], torn[0, 1] = np.quantile(flat[:, 0], [0.2, 0.8])
    assert novelty.usual.distances(twice(torn))[0] > novelty.record.threshold
    torn[0, 0] = torn[0, 1]
    assert novelty.usual.distances(twice(torn))[0] < novelty.record.threshold


def test_a_patients_own_videos_do_not_make_him_usual() -> None:
    """15 of 35 videos are one strange patient's: he is one of 21, and does not carry the threshold out to himself."""
    known, groups = patients(20, 1, seed=4)
    strange = np.repeat(known[:1] + 10 * known.std(0), 15, axis=0)
    settings = NoveltySettings(false_alarms=0.1)
    alone = fitted(known, groups, settings)
    together = fitted(np.concatenate([known, strange]), np.concatenate([groups, np.full(15, 99)]), settings)
    assert together.record.threshold < alone.usual.distances(twice(strange[:1]))[0]


def test_the_measured_rate_is_of_patients_whom_the_threshold_has_not_seen() -> None:
    """Two kinds of patients, one of them three strong: held out, all three are flagged, whatever the threshold."""
    known, groups = patients(27, 1, seed=5)
    random = np.random.default_rng(0)
    odd = known.mean(0) + 12 * known.std(0) * random.choice([-1, 1], (3, P)) + random.normal(size=(3, P))
    everyone = np.concatenate([known, odd])
    record = fitted(everyone, np.arange(30), NoveltySettings(false_alarms=0.1)).record
    assert record.measured == pytest.approx(0.1, abs=0.07)
    low, high = stats.binomtest(round(record.measured * 30), 30).proportion_ci(method="wilson")
    assert (record.measured_low, record.measured_high) == pytest.approx((low, high))
    assert len(groups) == 27


def test_so_few_patients_cannot_show_a_small_share() -> None:
    known, groups = patients(9, 1, seed=6)
    record = fitted(known, groups, NoveltySettings(false_alarms=0.01)).record
    assert record.wanted == pytest.approx(1 / 10)
    with pytest.raises(DataError, match="4 patients do not show what is usual"):
        fitted(*patients(4, 3, seed=6))
    known[3, 2] = np.nan
    with pytest.raises(DataError, match="not numbers"):
        fitted(known, groups)


def test_what_never_varies_divides_nothing_by_zero() -> None:
    known, groups = patients(12, 1, seed=7)
    known[:, 3] = 1.5
    novelty = fitted(known, groups)
    assert np.isfinite(novelty.usual.distances(twice(known))).all()
    moved = known[:1].copy()
    moved[0, 3] = 2.5
    assert novelty.usual.distances(twice(moved))[0] > 3 * novelty.usual.distances(twice(known[:1]))[0]


def test_the_distance_is_the_mean_of_both_descriptions_so_that_either_can_tell() -> None:
    tokens, groups = patients(40, 1, seed=11)
    looks, _ = patients(40, 1, seed=12, dimensions=7)
    known = Descriptions(tokens, looks)
    novelty = fit_novelty(known, groups, NoveltySettings())
    both = (Usual.of(tokens).distances(tokens) + Usual.of(looks).distances(looks)) / 2
    np.testing.assert_allclose(novelty.usual.distances(known), both)
    far = looks.mean(0) + 8 * looks.std(0)
    strange = Descriptions(tokens[:1], far[None])
    assert novelty.usual.distances(strange)[0] > novelty.record.threshold, "usual tokens, strange looks"
    strange = Descriptions(tokens.mean(0)[None] - 8 * tokens.std(0), looks[:1])
    assert novelty.usual.distances(strange)[0] > novelty.record.threshold


def test_one_value_that_hardly_ever_varied_does_not_decide_alone() -> None:
    """One patient of 30 has another value where all others have the same: things can still be outside."""
    known, groups = patients(30, 1, seed=13)
    known[:, 2] = 0.0
    known[4, 2] = 1.0
    usual = Usual.of(np.delete(known, 4, axis=0))
    assert usual.distances(known[4:5])[0] < 2 * FARTHEST / np.sqrt(P)
    novelty = fitted(known, groups, NoveltySettings(false_alarms=0.01))  # the farthest sets the threshold
    far = known[6:7] + 6 * known.std(0) * np.where(np.arange(P) % 2, 1, -1)
    assert novelty.usual.distances(twice(far))[0] > novelty.record.threshold


def test_the_studys_videos_are_described_from_both_stores_of_the_same_version(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tokens = random.normal(size=(3, 2, 8, 6)).astype(np.float16)
    ids, shas = ["a", "b", "c"], [name * 64 for name in "abc"]
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "tokens.npy", tokens)
    record = FeaturesRecord(
        key="k", arm="jepa", seed=0, encoder_sha256="e", shape=tokens.shape, effective_rank=1.0, seen_in_pretraining=[]
    )
    rows = pd.DataFrame({"sample_id": ids, "sha256": shas, "finite": True, "std": 1.0, "seen_in_pretraining": False})
    write_features_index(tmp_path / "features", record, rows)
    (tmp_path / "clips").mkdir()
    frames = random.integers(0, 255, (3, 5, 16, 16), dtype=np.uint8)
    for sha, video in zip(shas, frames, strict=True):
        np.save(tmp_path / "clips" / f"{sha}.npy", video)
    clips = {name: {"sha256": sha, "frames": 5, "fps": 10.0} for name, sha in zip(ids, shas, strict=True)}
    write_clips_index(tmp_path / "clips", 16, clips, "")
    features, grid = Features.open(tmp_path / "features"), (2, 2, 2)
    found = described_videos(features, ClipStore.open(tmp_path / "clips"), grid, ["c", "a"])
    for place, index in enumerate((2, 0)):
        own, looks = describe(torch.tensor(tokens[index]), grid, frames[index])
        np.testing.assert_array_equal(found.tokens[place], own)
        np.testing.assert_array_equal(found.handmade[place], looks)
    write_clips_index(tmp_path / "clips", 16, {**clips, "a": {**clips["a"], "sha256": "b" * 64}}, "")
    with pytest.raises(DataError, match="features of a were made from another version"):
        described_videos(features, ClipStore.open(tmp_path / "clips"), grid, ["c", "a"])


def test_it_comes_back_from_disk_to_the_last_digit_and_not_if_it_was_damaged(tmp_path: Path) -> None:
    known, groups = patients(12, 1, seed=8)
    novelty = fitted(known, groups)
    record = save_novelty(tmp_path, novelty)
    again = load_novelty(tmp_path, record)
    assert (again.usual.distances(twice(known)) == novelty.usual.distances(twice(known))).all()
    assert again.record.threshold == novelty.record.threshold
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-8] + b"\0" * 8)
    with pytest.raises(CheckpointError, match="not the file"):
        load_novelty(tmp_path, record)
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"novelty\.safetensors does not hold") as error:
        load_novelty(tmp_path, record)
    assert "promote" in error.value.remedy
