"""Novelty: the distance is Mahalanobis', the threshold holds for new patients, and hearts are outside for lungs."""

from pathlib import Path

import numpy as np
import pytest
from drawn import manifest_of, recordings_of
from scipy import stats
from sklearn.covariance import LedoitWolf

from echolung.core.errors import DataError
from echolung.embedding.embed import encode_clips, evaluation_clips
from echolung.methods.novelty import Novelty, NoveltySettings, Usual, describe, fit_novelty
from echolung.models.encoder import Encoder
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViTSettings
from echolung.phantom.findings import draw_findings
from echolung.phantom.heart import draw_heart
from echolung.phantom.lung import LungPatient, draw_lung


def patients(count: int, videos: int, seed: int, dimensions: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Descriptions (count * videos, dimensions) that differ between patients more than within, and the patients."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions))
    own = np.repeat(random.normal(size=(count, dimensions)), videos, axis=0)
    return (own + 0.3 * random.normal(size=own.shape)) @ mixing + 5, np.repeat(np.arange(count), videos)


def both(x: np.ndarray) -> dict[str, np.ndarray]:
    """Recordings of which both descriptions say the same."""
    return {"tokens": x, "handmade": x}


def described(frames: list[np.ndarray], encoder: Encoder | None) -> dict[str, np.ndarray]:
    shown = {f"s/{place}": video for place, video in enumerate(frames)}
    given = {}
    if encoder:
        views = [encode_clips(encoder, evaluation_clips(video, 25.0, encoder.settings, 2)).numpy() for video in frames]
        given = {"tokens": np.stack(views), "grid": encoder.grid}
    return describe(recordings_of(manifest_of(list(shown), list(shown)), **given, frames=shown), list(shown))


@pytest.mark.parametrize("dimensions", [12, 90])  # fewer and more than there are recordings
def test_the_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance(dimensions: int) -> None:
    known, fresh = patients(30, 2, 1, dimensions)[0] / 10, patients(5, 1, 2, dimensions)[0] / 10
    axes = Usual.axes("tokens", known)
    found = axes.fitted(axes.coordinates(known)).distances(axes.coordinates(fresh))
    # The same in all directions of the space: those in which the known recordings differ, then the others.
    full = np.linalg.svd(known - known.mean(0))[2]
    z, asked = (known - known.mean(0)) @ full.T, (fresh - known.mean(0)) @ full.T
    k = min(len(known) - 1, dimensions)
    reference = LedoitWolf().fit(z[:, :k])
    floor = reference.shrinkage_ * np.diag(reference.covariance_).mean()
    expected = np.sqrt((reference.mahalanobis(asked[:, :k]) + (asked[:, k:] ** 2).sum(1) / floor) / k)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_new_patients_are_flagged_about_as_often_as_was_wanted_and_as_was_measured() -> None:
    wanted, flagged, measured = 0.1, [], []
    for seed in range(8):
        known, groups = patients(40, 2, seed)
        novelty = fit_novelty(both(known), groups, NoveltySettings(false_alarms=wanted))
        record = novelty.record
        flagged.append((novelty.distances(both(patients(300, 2, seed + 1000)[0])) > record.threshold).mean())
        measured.append(record.measured)
        low, high = stats.binomtest(round(record.measured * 40), 40).proportion_ci(method="wilson")
        assert (record.measured_low, record.measured_high) == pytest.approx((low, high), abs=0.02)
        assert (record.videos, record.groups, record.wanted) == (80, 40, wanted)
    # Means over 8 draws of 40 groups: the standard error is about 0.017.
    assert np.mean(flagged) == pytest.approx(wanted, abs=0.05)
    assert np.mean(measured) == pytest.approx(np.mean(flagged), abs=0.05)


@pytest.mark.parametrize("name", ["tokens", "handmade"])
def test_what_is_far_away_by_either_description_is_flagged(name: str) -> None:
    known, groups = patients(30, 2, seed=1)
    other = patients(30, 2, seed=2)[0]
    novelty = fit_novelty({**both(other), name: known}, groups, NoveltySettings())
    far = known.mean(0) + 12 * known.std(0)
    assert novelty.distances({**both(other[:1]), name: far[None]})[0] > novelty.record.threshold
    # A direction in which the known recordings do not differ: each value is usual, together they are not.
    flat, groups = patients(150, 1, seed=1)
    flat[:, 1] = flat[:, 0]
    novelty = fit_novelty(both(flat), groups, NoveltySettings())
    torn = flat[:1].copy()
    torn[0, 0], torn[0, 1] = np.quantile(flat[:, 0], [0.1, 0.9])
    assert novelty.distances(both(torn))[0] > novelty.record.threshold
    torn[0, 0] = torn[0, 1]
    assert novelty.distances(both(torn))[0] < novelty.record.threshold


def test_many_videos_of_one_patient_do_not_widen_the_threshold_and_the_disk_keeps_all(tmp_path: Path) -> None:
    known, groups = patients(20, 1, seed=4)
    strange = np.repeat(known[:1] + 10 * known.std(0), 15, axis=0)
    settings = NoveltySettings(false_alarms=0.1)
    alone = fit_novelty(both(known), groups, settings)
    everyone, of = np.concatenate([known, strange]), np.concatenate([groups, np.full(15, 99)])
    together = fit_novelty(both(everyone), of, settings)
    assert together.record.threshold < alone.distances(both(strange[:1]))[0]
    together.save(tmp_path)
    again = Novelty.load(tmp_path, together.record)
    np.testing.assert_array_equal(again.distances(both(known)), together.distances(both(known)))


def test_few_patients_cannot_show_a_small_rate_and_nonsense_is_refused() -> None:
    known, groups = patients(9, 1, seed=6)
    assert fit_novelty(both(known), groups, NoveltySettings(false_alarms=0.01)).record.wanted == pytest.approx(1 / 10)
    few, of = patients(4, 3, seed=6)
    with pytest.raises(DataError, match="4 groups of patients are too few"):
        fit_novelty(both(few), of, NoveltySettings())
    known[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_novelty(both(known), groups, NoveltySettings())


@pytest.mark.parametrize("with_encoder", [True, False])
def test_hearts_are_outside_for_a_model_of_lungs_and_other_lungs_are_not(with_encoder: bool) -> None:
    def lung(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        findings = draw_findings(("regular", "covid", "pneumonia")[seed % 3], 2, rng)
        return draw_lung(findings, LungPatient.draw(rng), 10, 25.0, (64, 64), seed).frames

    shape = VideoViTSettings(width=24, depth=1, heads=2, image_size=48, frames=8, clip_fps=25.0)
    encoder = initial_encoder(shape, 0).eval() if with_encoder else None
    known = described([lung(seed) for seed in range(30)], encoder)
    novelty = fit_novelty(known, np.arange(30), NoveltySettings(false_alarms=0.1))
    hearts = [draw_heart(40 + seed, 10, 25.0, 64, seed, view=("a4c", "psax")[seed % 2]).frames for seed in range(6)]
    assert (novelty.distances(described(hearts, encoder)) > novelty.record.threshold).mean() >= 5 / 6
    fresh = described([lung(seed) for seed in range(100, 110)], encoder)
    assert (novelty.distances(fresh) > novelty.record.threshold).mean() <= 0.4
