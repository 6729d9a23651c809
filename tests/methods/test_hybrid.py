"""The hybrid: against loops over frames, blind to padding, the same bits after a kill, a frozen threshold."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import classes_of, manifest_of, outer_fold_of, recordings_of
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from echolung.compute.trials import run_trials
from echolung.core.errors import CheckpointError, DataError
from echolung.core.runtime import sha256_file
from echolung.embedding.recordings import Recordings
from echolung.methods.hybrid import EndToEnd, HybridSettings, OnTokens, TemporalSettings, drawn, threshold
from echolung.models.temporal import Layer, Temporal, TemporalShape, augmented_clips
from echolung.pretraining import checkpoint

TASK = classes_of()
QUICK = {"width": 16, "layers": 1, "heads": 2, "batch": 8, "learning_rate": 3e-3, "precision": "float32"}


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, every parameter and buffer random: batch norm's statistics, too."""
    for tensor in net.double().state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) + 0.2)
    return net.eval()


def test_a_layer_is_attention_and_depthwise_convolution_frame_by_frame() -> None:
    layer = randomised(Layer(TemporalShape(width=8, heads=2), local=True))
    p, x = layer.state_dict(), torch.randn(5, 8, dtype=torch.float64)

    def linear(name: str, one: torch.Tensor, what: str = ".") -> torch.Tensor:
        return F.linear(one, p[f"{name}{what}weight"], p[f"{name}{what}bias"])

    seen, other = (
        lambda v, n=n: F.layer_norm(v, (8,), p[f"{n}.weight"], p[f"{n}.bias"], 1e-6) for n in ("norm1", "norm2")
    )
    qkv = [linear("attention", seen(one), ".in_proj_").view(3, 2, 4) for one in x]
    spread = (p["norm.running_var"] + 1e-5).sqrt()
    lit = [(F.gelu(one) - p["norm.running_mean"]) / spread * p["norm.weight"] + p["norm.bias"] for one in x]
    for t, one in enumerate(x):
        shares = [torch.stack([qkv[t][0, h] @ k[1, h] / 2 for k in qkv]).softmax(0) for h in range(2)]
        heads = [sum(s * k[2, h] for s, k in zip(shares[h], qkv, strict=True)) for h in range(2)]
        near = sum(p["conv.weight"][:, 0, k] * lit[t + k - 1] for k in range(3) if 0 <= t + k - 1 < 5)
        mixed = one + linear("attention.out_proj", torch.cat(heads)) + near + p["conv.bias"]
        expected = mixed + linear("mlp.fc2", F.gelu(linear("mlp.fc1", other(mixed))))
        torch.testing.assert_close(layer(x[None], torch.ones(1, 5, dtype=torch.bool))[0, t], expected)


@pytest.mark.parametrize("pooling", ["mean", "attention", "max"])
@pytest.mark.parametrize("temporal", ["lstm", "global", "hybrid"])
def test_a_short_video_does_not_see_its_padding(temporal: Any, pooling: Any) -> None:
    shape = TemporalShape(width=8, heads=2, dropout=0.0, temporal=temporal, pooling=pooling)
    net, clips = randomised(Temporal(5, 7, 3, shape)), torch.randn(4, 7, 5, dtype=torch.float64)
    valid, whole = (torch.arange(7) < 4).expand(4, -1), {name: one.clone() for name, one in net.state_dict().items()}
    for training in (False, True):  # batch norm's statistics, too
        told = net.train(training)(clips, valid)
        after = {name: one.clone() for name, one in net.state_dict().items()}
        net.load_state_dict(whole)
        torch.testing.assert_close(told, net(clips[:, :4], valid[:, :4]))
        torch.testing.assert_close(dict(net.state_dict()), after)
        assert (net(clips, ~torch.zeros_like(valid)) - told).abs().max() > 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert net.float()(clips.float(), valid).isfinite().all()


def test_augmentation_is_one_draw_for_all_frames_of_a_clip() -> None:
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 24, 24), np.uint8))
    moved = augmented_clips(frame.expand(3, 5, -1, -1), torch.Generator().manual_seed(0))
    assert (moved == moved[:, :1]).all() and len({int(one.sum()) for one in [frame[0], *moved[:, :1]]}) == 4


def made(videos: int, fold: int = 0) -> tuple[Recordings, pd.DataFrame, pd.DataFrame, list[str]]:
    """Six frames of noise; in a third (class 1) a pulse up and as far down. Every fourth is two frames shorter."""
    random, names = np.random.default_rng(0), [f"s/{number:03d}" for number in range(videos)]
    tokens, y = random.normal(size=(videos, 6, 2, 4)), (np.arange(videos) % 3 == 0).astype(int)
    for number, at in zip(np.flatnonzero(y), random.integers(0, 3, videos), strict=False):
        tokens[number, at : at + 2, :, 0] += [[4], [-4]]
    tokens[::4, 4:] = tokens[::4, 3:4]
    shown = {name: random.integers(0, 255, (4 + int(name[-1]) % 3, 16, 16), np.uint8) for name in names}
    recordings = recordings_of(manifest_of(names, names), tokens.reshape(videos, 1, 12, 4), (6, 2, 1), shown)
    return recordings, *outer_fold_of(recordings.parts[0].manifest, y, fold)


def test_the_pulse_is_found_and_the_threshold_moves_decisions_only(tmp_path: Path) -> None:
    recordings, training, test, names = made(120)
    half, frozen = (
        OnTokens.fit(TemporalSettings(**QUICK, steps=100, cut=cut), TASK, recordings, training, 0, tmp_path / cut)
        for cut in ("half", "validation")
    )
    assert [half.reader(recordings)(name, None)[1].sum() for name in ("s/004", "s/005")] == [4, 6]
    p, moved = (one.predict(recordings, names)[:, 1] for one in (half, frozen))
    assert roc_auc_score(test["y"], p) > 0.85 and (p.argsort() == moved.argsort()).all()
    cut = frozen.search()["threshold"].iloc[0]
    assert cut != 0.5 and ((moved > 0.5) == (p > cut)).all()
    assert threshold(np.array([0, 1, 0, 1, 1], bool), np.array([-3.0, -2, -1, 0, 1])) == -0.5


def test_the_sampler_evens_classes_and_every_row_is_drawn_once_an_epoch() -> None:
    weights = np.array([0.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.0])  # 0: held out
    found = np.concatenate([drawn(TemporalSettings(balance="sampler"), weights, 0, step)[0] for step in range(100)])
    np.testing.assert_allclose(np.bincount(found, minlength=8) / len(found), weights / 2, atol=0.03)
    epoch = [drawn(TemporalSettings(balance="weights", batch=3), weights, 0, step) for step in (2, 3)]
    assert sorted(np.concatenate(epoch, axis=1).T.tolist()) == [[1, 1.5], [2, 1.5], *([k, 0.75] for k in range(3, 7))]


def fit(configuration: dict[str, Any]) -> dict[str, Any]:
    """The predictions of one fold; where it is asked for, the process dies at the second look, once."""
    place, fold, save = Path(configuration["place"]), configuration["fold"], checkpoint.save

    def saved(*arguments: Any) -> None:
        save(*arguments)
        (place / f"look-{fold}-{arguments[1].step}").touch(exist_ok=False)
        if configuration["kill"] == fold and arguments[1].step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    recordings, training, _, names = made(60, fold)
    settings = TemporalSettings(**QUICK, steps=8, validate_every=2, balance="sampler", dropout=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", saved)
        one = OnTokens.fit(settings, TASK, recordings, training, 3, place / str(fold))
    return {"p": pd.DataFrame(one.predict(recordings, names), columns=["a", "b"])}


def test_folds_that_are_killed_go_on_inside_and_end_with_the_same_bits(tmp_path: Path) -> None:
    killed = [{"fold": fold, "place": str(tmp_path), "kill": 1} for fold in range(3)]
    results = run_trials(fit, killed, tmp_path / "t", "fit", 1)
    assert run_trials(fit, killed, tmp_path / "t", "fit", 1)[1]["p"].equals(results[1]["p"]), "no look is taken twice"
    (tmp_path / "whole").mkdir()
    for fold, result in enumerate(results):
        whole = fit({"fold": fold, "place": str(tmp_path / "whole"), "kill": None})
        pd.testing.assert_frame_equal(whole["p"], result["p"], check_exact=True)


def test_end_to_end_it_reads_frames_and_says_what_is_wrong(tmp_path: Path) -> None:
    recordings, training, _, names = made(60)
    spatial = {"model": "test_resnet", "image_size": 32, "frames": 5, "clip_fps": 25.0}
    settings = HybridSettings.parse({**QUICK, "steps": 4, "validate_every": 2, "spatial": spatial, "views": 2}, "x")
    (tmp_path / "w.pt").write_bytes(b"weights")
    named = HybridSettings.parse({"spatial": {**spatial, "weights": str(tmp_path / "w.pt")}}, "x")
    found = [EndToEnd.files(settings), EndToEnd.files(named)]
    assert found == [[], [sha256_file(tmp_path / "w.pt")]], "another file of weights makes another fit"
    one = EndToEnd.fit(settings, TASK, recordings, training, 0, tmp_path / "work")
    clips = [one.reader(recordings)(name, None) for name in ("s/000", "s/002")]  # of four and of six frames
    assert [valid.sum(axis=1).tolist() for _, valid in clips] == [[4, 4], [5, 5]]
    np.testing.assert_array_equal(clips[1][0], np.stack([recordings.frames("s/002")[at : at + 5] for at in (0, 1)]))
    one.save(tmp_path)
    np.testing.assert_array_equal(EndToEnd.load(tmp_path).predict(recordings, names), one.predict(recordings, names))
    with pytest.raises(CheckpointError, match="holds a fit of something else"):
        EndToEnd.fit(settings, TASK, recordings, training[1:], 0, tmp_path / "work")
    absent = training.assign(y=training["y"] * (training["inner"] > 0))
    with pytest.raises(DataError, match="a fold has no recording of b to stop on"):
        EndToEnd.fit(settings, TASK, recordings, absent, 0, tmp_path)
