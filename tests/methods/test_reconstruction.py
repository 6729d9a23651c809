"""Anomalies by reconstruction: normals alone are learnt, the error is that of a naive loop, a kill changes no bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import manifest_of, outer_fold_of, recordings_of
from sklearn.metrics import roc_auc_score

from echolung.core.errors import CheckpointError, DataError
from echolung.embedding.embed import evaluation_clips
from echolung.embedding.recordings import Recordings
from echolung.kinds.anomaly import AnomalyTask
from echolung.methods import reconstruction
from echolung.methods.reconstruction import Reconstruction, ReconstructionSettings

TASK = AnomalyTask(kind="anomaly", source="s", label="l", normal="class 0", unit="video")
QUICK = ReconstructionSettings.parse(
    {
        "encoder": {"width": 24, "depth": 1, "heads": 2, "image_size": 16, "patch": 4, "frames": 4, "clip_fps": 25.0},
        "mae": {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "visible": 0.5},
        "steps": 200, "learning_rate": 1e-2, "validate_every": 40, "precision": "float32",
    },
    "",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> tuple[Recordings, pd.DataFrame, pd.DataFrame, list[str]]:
    """A wave that runs to the right; in anomalies, which are as bright, every frame is in another order of columns."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 0, 0, 1], 15)
    names, shown = [f"s/{at}" for at in range(len(y))], {}
    for name, abnormal in zip(names, y, strict=True):
        phase = np.arange(16) * 0.8 - np.arange(6)[:, None] * 0.5 + random.uniform(0, 6)
        rows = np.sin(phase) * 90 + 120
        if abnormal:
            rows = np.stack([random.permutation(row) for row in rows])
        shown[name] = np.repeat(rows[:, None], 16, axis=1).astype(np.uint8)
    manifest = manifest_of(names, names)
    return recordings_of(manifest, frames=shown), *outer_fold_of(manifest, y)


def test_what_no_normal_looks_like_is_far_and_anomalies_have_no_part(drawn, tmp_path: Path) -> None:
    recordings, training, test, names = drawn
    fitted = Reconstruction.fit(QUICK, TASK, recordings, training, 0, tmp_path / "run")
    found = fitted.predict(recordings, names)
    assert roc_auc_score(test["y"], found[:, 0]) > 0.99
    assert (found[test["y"] == 1, 1] > TASK.specificity).mean() > 0.8, "flagged by what normals taught alone"
    assert fitted.search()["error"].iloc[-1] < fitted.search()["error"].iloc[0]
    fitted.save(tmp_path)
    np.testing.assert_array_equal(Reconstruction.load(tmp_path).predict(recordings, names), found)
    normals = training[training["y"] == 0]
    alone = Reconstruction.fit(QUICK, TASK, recordings, normals, 0, tmp_path / "alone")
    np.testing.assert_array_equal(alone.predict(recordings, names), found)
    known, weight = np.array(fitted.held["distances"]), np.array(fitted.held["weights"])
    held = list(normals[normals["inner"] == normals["inner"].min()]["sample_id"])
    np.testing.assert_allclose(known, fitted.predict(recordings, held)[:, 0])
    np.testing.assert_allclose(found[:, 1], [(weight * (known <= one)).sum() for one in found[:, 0]])


def test_the_error_is_that_of_a_loop_over_views_masks_and_hidden_tubelets(drawn, tmp_path: Path) -> None:
    recordings, training, *_ = drawn
    fitted = Reconstruction.fit(QUICK.model_copy(update={"steps": 2}), TASK, recordings, training, 0, tmp_path)
    name, net = training["sample_id"].iloc[0], fitted.net
    clips = evaluation_clips(recordings.frames(name), 25.0, QUICK.encoder, QUICK.views)
    visible = net.draw(QUICK.views * QUICK.masks, torch.Generator().manual_seed(0))
    errors = []
    for mask in range(QUICK.masks):
        for view in range(QUICK.views):
            shown = visible[mask * QUICK.views + view][None]
            pixels = net.encoder.pixels(torch.from_numpy(clips[view : view + 1]))
            with torch.no_grad():
                told = net.decoder(net.encoder(pixels, shown), shown, 0)
            target = net.encoder.tubelets(pixels)[0][~shown[0]]
            centred = target - target.mean(dim=1, keepdim=True)
            target = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
            errors.append(float((told - target).square().mean()))
    assert fitted.predict(recordings, [name])[0, 0] == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_killed_fit_ends_with_the_same_bits_and_another_fit_is_refused(drawn, tmp_path, monkeypatch) -> None:
    recordings, training, _, names = drawn
    whole = Reconstruction.fit(QUICK, TASK, recordings, training, 0, tmp_path / "a").predict(recordings, names)
    drawn_batch, steps = reconstruction.batch_of, []

    def until_90(*given: object) -> np.ndarray:
        steps.append(given)
        if len(steps) > 90:
            raise KeyboardInterrupt
        return drawn_batch(*given)

    monkeypatch.setattr(reconstruction, "batch_of", until_90)
    with pytest.raises(KeyboardInterrupt):
        Reconstruction.fit(QUICK, TASK, recordings, training, 0, tmp_path / "b")
    monkeypatch.setattr(reconstruction, "batch_of", drawn_batch)
    again = Reconstruction.fit(QUICK, TASK, recordings, training, 0, tmp_path / "b")
    np.testing.assert_array_equal(again.predict(recordings, names), whole)
    with pytest.raises(CheckpointError, match="something else"):
        Reconstruction.fit(QUICK, TASK, recordings, training, 1, tmp_path / "b")
    few = training[training["y"] == 0].assign(inner=0)
    with pytest.raises(DataError, match="in one inner fold"):
        Reconstruction.fit(QUICK, TASK, recordings, few, 0, tmp_path / "c")
