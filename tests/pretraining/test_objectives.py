"""Masked reconstruction, joint-embedding prediction and a frozen teacher: losses against naive loops, masks, phases."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import pretraining, save_clips

from echolung.core.errors import SettingsError
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining.jepa import Jepa, JepaSettings
from echolung.pretraining.loop import train
from echolung.pretraining.mae import EPSILON, Mae, MaeSettings
from echolung.pretraining.masking import MaskSettings, sample_masks, sample_tubes
from echolung.pretraining.run import SeedRun
from echolung.pretraining.salt import Salt, SaltSettings

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=32, frames=4, clip_fps=8.0, patch=8)
PREDICTOR = {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2}
DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2}
SMALL_BLOCKS, LARGE_BLOCKS = MaskSettings(blocks=8, scale=0.15), MaskSettings(blocks=2, scale=0.7)
GRID = (8, 14, 14)
BATCH = torch.randint(0, 256, (6, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def draw(settings: MaskSettings, clips: int, grid: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return sample_masks(settings, clips, grid, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("settings", "hidden"), [(SMALL_BLOCKS, 0.62), (LARGE_BLOCKS, 0.81)])
def test_the_published_fraction_is_hidden_in_all_frames_alike(settings: MaskSettings, hidden: float) -> None:
    """Late frames are seen as often as early ones, which truncation to a common length would break."""
    visible = torch.cat([draw(settings, 24, GRID, seed) for seed in range(100)]).unflatten(1, GRID)
    assert abs(1 - float(visible.float().mean()) - hidden) < 0.02
    assert torch.equal(visible, visible[:, :1].expand_as(visible))
    square = torch.cat([draw(settings, 64, (1, 8, 8), seed) for seed in range(100)]).float().mean(dim=0).view(8, 8)
    for mirrored in (square.flip(0), square.flip(1)):
        assert (square - mirrored).abs().max() < 0.05


@pytest.mark.parametrize("grid", [(2, 2, 2), (4, 1, 2), (4, 3, 3), (2, 6, 6)])
@pytest.mark.parametrize("settings", [SMALL_BLOCKS, LARGE_BLOCKS, MaskSettings(blocks=3, scale=1.0)])
def test_something_is_always_visible_and_something_hidden(settings: MaskSettings, grid: tuple[int, int, int]) -> None:
    for seed in range(20):
        visible = draw(settings, 16, grid, seed).sum(dim=1)
        assert (visible > 0).all() and (visible < grid[0] * grid[1] * grid[2]).all()


@pytest.mark.parametrize(("visible", "shown"), [(0.2, 3), (0.5, 8), (0.01, 1), (0.99, 15)])
def test_the_same_positions_are_visible_in_every_frame_and_as_many_in_every_clip(visible: float, shown: int) -> None:
    mask = sample_tubes(visible, 50, (3, 4, 4), torch.Generator().manual_seed(0)).unflatten(1, (3, 16))
    assert (mask == mask[:, :1]).all()
    assert (mask.sum(dim=2) == shown).all()
    even = mask[:, 0].float().mean(dim=0)
    assert even.std() < 0.15 and len(torch.unique(mask[:, 0], dim=0)) > min(shown, 16 - shown, 5)


def test_loss_is_the_squared_error_of_the_normalised_pixels_of_hidden_tubelets() -> None:
    mae = Mae(ENCODER, MaeSettings(**DECODER), seed=0, steps=10)
    clips = BATCH[:5].clone()
    clips[0, :, :8, :8] = 0  # a black corner is a tubelet without contrast
    mask = mae.draw(5, torch.Generator().manual_seed(1))
    pixels = mae.encoder.pixels(clips)
    errors = []
    for clip in range(5):
        one = mask[[clip]]
        predicted = iter(mae.decoder(mae.encoder(pixels[[clip]], one), one, 0))
        for token in range(32):
            time, row, column = token // 16, token % 16 // 4, token % 4
            if not mask[clip, token]:
                cut = pixels[clip, 0, 2 * time : 2 * time + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                target = cut.flatten() - cut.mean()
                target = target / (cut.var(correction=0) + EPSILON).sqrt()
                errors.append(float((next(predicted) - target).square().mean().detach()))
    loss, diagnostics = mae(clips, mask, slice(0, 5))
    assert float(loss.detach()) == pytest.approx(np.mean(errors), rel=1e-4)
    assert diagnostics == {} and mae.handed_on is mae.encoder


SETTINGS = JepaSettings(**PREDICTOR, ema=0.9)


@pytest.fixture
def jepa() -> Jepa:
    module = Jepa(ENCODER, SETTINGS, seed=0, steps=10)
    with torch.no_grad():  # differs from the student, so that a mix-up shows
        for weight in module.teacher.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return module


def test_loss_is_the_mean_distance_of_the_hidden_tokens(jepa: Jepa) -> None:
    """Clip by clip and token by token: |prediction - LN(target)| over all hidden tokens, mean of the two generators."""
    clips, masks, means = BATCH, jepa.draw(6, torch.Generator().manual_seed(1)), []
    pixels = jepa.encoder.pixels(clips)
    teacher = jepa.teacher(pixels)
    for number, mask in enumerate(masks):
        distances = []
        for clip in range(len(clips)):
            one = mask[[clip]]
            predicted = jepa.predictor(jepa.encoder(pixels[[clip]], one), one, number)
            target = teacher[clip][~mask[clip]]
            centred = target - target.mean(-1, keepdim=True)
            normed = centred / (target.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            distances.extend((predicted - normed).abs().mean(-1).tolist())
        means.append(sum(distances) / len(distances))
    loss, diagnostics = jepa(clips, masks, slice(0, 6))
    assert float(loss.detach()) == pytest.approx(sum(means) / 2, rel=1e-4)
    assert 0 < float(diagnostics["target_std"]) < 1.1
    judged, _ = jepa(clips, masks, slice(0, 6), jepa.teacher)
    assert not torch.equal(judged, loss), "the teacher in the place of the student"


def test_teacher_follows_after_the_step(jepa: Jepa) -> None:
    before, student = (copy.deepcopy(part.state_dict()) for part in (jepa.teacher, jepa.encoder))
    assert jepa.after_step(0) == {"ema": 0.9}
    for name, weight in jepa.teacher.state_dict().items():
        torch.testing.assert_close(weight, 0.9 * before[name] + 0.1 * student[name], atol=1e-7, rtol=1e-6)
    assert all(torch.equal(weight, student[name]) for name, weight in jepa.encoder.state_dict().items())


def test_it_starts_from_the_untrained_encoder_of_the_same_seed_and_refuses_a_frame_of_a_single_token() -> None:
    """Pretrained and untrained encoders of one seed differ only by the training."""
    untrained = initial_encoder(ENCODER, 3).state_dict()
    jepa = Jepa(ENCODER, SETTINGS, seed=3, steps=10)
    for encoder in (jepa.encoder, jepa.teacher):
        assert all(torch.equal(weight, untrained[name]) for name, weight in encoder.state_dict().items())
    assert jepa.encoder.norm.weight.data_ptr() != jepa.teacher.norm.weight.data_ptr()
    with pytest.raises(SettingsError, match="single token"):
        Jepa(ENCODER.model_copy(update={"patch": 32}), SETTINGS, seed=0, steps=10)


@pytest.mark.parametrize(("steps", "first", "last"), [(200, 0.9, 0.999), (1000, 0.98, 0.999), (40_000, 0.9995, 0.9995)])
def test_a_short_run_leaves_nothing_of_the_first_teacher(steps: int, first: float, last: float) -> None:
    jepa = Jepa(ENCODER, SETTINGS.model_copy(update={"ema": None}), seed=0, steps=steps)
    momenta = [jepa.momentum(step) for step in range(steps)]
    assert (momenta[0], momenta[-1]) == (pytest.approx(first), pytest.approx(last))
    assert momenta == sorted(momenta)
    assert math.prod(momenta) < 0.01, "a third is left by .99925 after 1,400 steps"


TEACHER = MaeSettings(**DECODER, visible=0.5)
FROZEN = SaltSettings(**PREDICTOR, teacher=TEACHER, teacher_share=0.5)


def test_the_phases_are_those_of_mae_and_of_jepa_with_a_frozen_teacher() -> None:
    salt = Salt(ENCODER, FROZEN, seed=1, steps=4)
    clips = BATCH[:5]
    drawn = salt.draw(5, torch.Generator().manual_seed(3))
    mae = Mae(ENCODER, TEACHER, seed=1, steps=4)
    torch.testing.assert_close(salt(clips, drawn, slice(0, 5))[0], mae(clips, drawn[0], slice(0, 5))[0])
    with torch.no_grad():
        for weight in salt.pixel.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    for step in (0, 1):
        salt.after_step(step)
    jepa = Jepa(ENCODER, FROZEN, seed=1, steps=4)
    jepa.teacher.load_state_dict(salt.pixel.encoder.state_dict())
    loss, _ = salt(clips, drawn, slice(0, 5))
    torch.testing.assert_close(loss, jepa(clips, drawn[1], slice(0, 5))[0])
    loss.backward()
    assert all(weight.grad is None for weight in salt.pixel.parameters()), "frozen"
    untrained = initial_encoder(ENCODER, 1).state_dict()
    assert all(torch.equal(weight, untrained[name]) for name, weight in salt.handed_on.state_dict().items())


def test_the_teacher_cools_down_at_the_end_of_its_own_phase() -> None:
    salt = Salt(ENCODER, FROZEN, seed=0, steps=40)
    groups = salt.parameter_groups(0.1)
    together = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(together) == len(set(together)) == sum(1 for one in salt.parameters() if one.requires_grad)
    teacher = set(map(id, salt.pixel.parameters()))
    scales = [[salt.lr_scale(step, group) for step in (0, 14, 17, 20, 39)] for group in groups]
    for group, scale in zip(groups, scales, strict=True):
        wanted = [1, 1, 0.5, 0, 0] if id(group["params"][0]) in teacher else [1] * 5
        assert scale == pytest.approx(wanted)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_run_stopped_in_either_phase_ends_bit_for_bit_where_it_would_have(tmp_path: Path, stopped: int) -> None:
    rng = np.random.default_rng(0)
    save_clips(tmp_path, {f"s/{n}": rng.integers(0, 256, (20, 24, 24), dtype=np.uint8) for n in range(5)}, 20.0)
    training = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 1}
    settings = pretraining(training, "salt", FROZEN.model_dump())

    def run(folder: str, stop: int = 0) -> dict[str, torch.Tensor]:
        def on_metrics(step: int, values: Any) -> None:
            if step == stop:
                raise KeyboardInterrupt

        one = SeedRun("hearts", settings, ENCODER, (tmp_path,), 0, tmp_path / folder)
        return train(one, on_metrics).encoder.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stopped)
    assert all(torch.equal(weight, whole[name]) for name, weight in run("cut").items())
