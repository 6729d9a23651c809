"""The hybrid: it finds what no average shows, goes on after a kill bit by bit, and freezes its threshold."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import features_of, folds_of, manifest_of
from sklearn.metrics import roc_auc_score

from echolung.compute.trials import run_trials
from echolung.core.errors import CheckpointError, DataError
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.classification import ClassificationTask
from echolung.methods.fitting import outer_fold
from echolung.methods.hybrid import EndToEnd, HybridSettings, OnTokens, TemporalSettings, drawn, threshold
from echolung.pretraining import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = ClassificationTask(kind="classification", source="s", label="l", classes=["a", "b"], unit="video")
QUICK = {"width": 16, "layers": 1, "heads": 2, "batch": 8, "learning_rate": 3e-3, "precision": "float32"}


def made(videos: int) -> tuple[Recordings, pd.DataFrame]:
    """Six frames of noise; in a third of the videos (class 1) a pulse goes up and then as far down.

    The last two frames of every fourth video repeat the one before: it is shorter than the clip.
    """
    random, names = np.random.default_rng(0), [f"s/{number:03d}" for number in range(videos)]
    y = (np.arange(videos) % 3 == 0).astype(int)
    tokens = random.normal(size=(videos, 6, 2, 4))
    for one in tokens[y == 1]:
        at = random.integers(0, 3)
        one[at : at + 2, :, 0] += [[4], [-4]]
    tokens[::4, 4:] = tokens[::4, 3:4]
    shown = {name: (random.integers(0, 255, (4 + number % 3, 16, 16), np.uint8), 25.0)
             for number, name in enumerate(names)}  # fmt: skip
    features = features_of(names, tokens.reshape(videos, 1, 12, 4), (6, 2, 1))
    manifest = manifest_of(names, np.arange(videos))
    return Recordings([Part(manifest, HeldClips(shown), features)]), folds_of(manifest, y)


def test_the_pulse_is_found_and_the_threshold_moves_decisions_only(tmp_path: Path) -> None:
    recordings, folds = made(120)
    training, test = outer_fold(folds, 0, 0)
    names, told = list(test["sample_id"]), {}
    for cut in ("half", "validation"):
        settings = TemporalSettings(**QUICK, steps=120, cut=cut)
        told[cut] = OnTokens.fit(settings, TASK, recordings, training, 0, tmp_path / cut)
    assert [told["half"].reader(recordings)(name, None)[1].sum() for name in ("s/004", "s/005")] == [4, 6]
    p = {cut: one.predict(recordings, names)[:, 1] for cut, one in told.items()}
    assert roc_auc_score(test["y"], p["half"]) > 0.85
    np.testing.assert_array_equal(p["half"].argsort(), p["validation"].argsort())
    frozen = told["validation"].search()["threshold"].iloc[0]
    assert frozen != 0.5 and ((p["validation"] > 0.5) == (p["half"] > frozen)).all()
    assert threshold(np.array([0, 1, 0, 1, 1], bool), np.array([-3.0, -2, -1, 0, 1])) == -0.5


def test_the_sampler_evens_classes_and_every_row_is_drawn_once_an_epoch() -> None:
    weights = np.array([0.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.0])  # 0: held out
    found = np.concatenate([drawn(TemporalSettings(balance="sampler"), weights, 0, step)[0] for step in range(100)])
    np.testing.assert_allclose(np.bincount(found, minlength=8) / len(found), weights / 2, atol=0.03)
    epoch = [drawn(TemporalSettings(balance="weights", batch=3), weights, 0, step) for step in (2, 3)]
    rows, counts = (np.concatenate(part) for part in zip(*epoch, strict=True))
    assert sorted(rows) == [1, 2, 3, 4, 5, 6] and counts[np.argsort(rows)].tolist() == [1.5, 1.5, *[0.75] * 4]


def fit(configuration: dict[str, Any]) -> dict[str, Any]:
    """The predictions of one fold; where it is asked for, the process dies at the second look, once."""
    torch.set_num_threads(1)
    place, fold, save = Path(configuration["place"]), configuration["fold"], checkpoint.save

    def saved(*arguments: Any) -> None:
        save(*arguments)
        (place / f"look-{fold}-{arguments[1].step}").touch(exist_ok=False)
        if configuration["kill"] == fold and arguments[1].step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    recordings, folds = made(60)
    training, test = outer_fold(folds, 0, fold)
    settings = TemporalSettings(**QUICK, steps=8, validate_every=2, balance="sampler", dropout=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", saved)
        one = OnTokens.fit(settings, TASK, recordings, training, 3, place / str(fold))
    return {"p": pd.DataFrame(one.predict(recordings, list(test["sample_id"])), columns=["a", "b"])}


def test_folds_that_are_killed_go_on_inside_and_end_with_the_same_bits(tmp_path: Path) -> None:
    killed = [{"fold": fold, "place": str(tmp_path), "kill": 1} for fold in range(3)]
    results = run_trials(fit, killed, tmp_path / "t", "fit", 1)
    assert run_trials(fit, killed, tmp_path / "t", "fit", 1)[1]["p"].equals(results[1]["p"]), "no look is taken twice"
    (tmp_path / "whole").mkdir()
    for fold, result in enumerate(results):
        whole = fit({"fold": fold, "place": str(tmp_path / "whole"), "kill": None})
        pd.testing.assert_frame_equal(whole["p"], result["p"], check_exact=True)


def test_end_to_end_it_reads_frames_and_says_what_is_wrong(tmp_path: Path) -> None:
    recordings, folds = made(60)
    training, test = outer_fold(folds, 0, 0)
    spatial = {"model": "test_resnet", "image_size": 32, "frames": 5, "clip_fps": 25.0}
    settings = HybridSettings.parse({**QUICK, "steps": 4, "validate_every": 2, "spatial": spatial, "views": 2}, "x")
    one = EndToEnd.fit(settings, TASK, recordings, training, 0, tmp_path / "work")
    clips = [one.reader(recordings)(name, None) for name in ("s/000", "s/002")]  # of four and of six frames
    assert [valid.sum(axis=1).tolist() for _, valid in clips] == [[4, 4], [5, 5]]
    np.testing.assert_array_equal(clips[1][0], np.stack([recordings.frames("s/002")[at : at + 5] for at in (0, 1)]))
    one.save(tmp_path)
    names = list(test["sample_id"])
    np.testing.assert_array_equal(EndToEnd.load(tmp_path).predict(recordings, names), one.predict(recordings, names))
    with pytest.raises(CheckpointError, match="holds a fit of another split"):
        EndToEnd.fit(settings, TASK, recordings, training[1:], 0, tmp_path / "work")
    (tmp_path / "hybrid.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="does not hold a hybrid"):
        EndToEnd.load(tmp_path)
    absent = training.assign(y=training["y"] * (training["inner"] > 0))
    with pytest.raises(DataError, match="a fold has no recording of b to stop on"):
        EndToEnd.fit(settings, TASK, recordings, absent, 0, tmp_path)
