"""Joint-embedding prediction: the loss against a naive loop, and how the teacher follows."""

import copy
import math

import pytest
import torch

from echolung.core.errors import SettingsError
from echolung.models.encoders import ENCODERS, initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining.jepa import Jepa, JepaSettings

torch.set_num_threads(1)

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=32, frames=4, clip_fps=8.0, patch=8)
SETTINGS = JepaSettings(predictor_width=24, predictor_depth=1, predictor_heads=2, ema=0.9)


@pytest.fixture
def jepa() -> Jepa:
    module = Jepa(ENCODER, SETTINGS, seed=0, steps=10)
    with torch.no_grad():  # differs from the student, so that a mix-up shows
        for weight in module.teacher.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return module


def batch(clips: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (clips, 4, 32, 32), dtype=torch.uint8, generator=generator)


def masks(jepa: Jepa, clips: int = 6) -> list[torch.Tensor]:
    return jepa.draw(clips, torch.Generator().manual_seed(1))


def test_loss_is_the_mean_distance_of_the_hidden_tokens(jepa: Jepa) -> None:
    """Clip by clip and token by token: |prediction - LN(target)| over all hidden tokens, mean of the two generators."""
    clips = batch()
    pixels = jepa.encoder.pixels(clips)
    teacher = jepa.teacher(pixels)
    means = []
    for number, mask in enumerate(masks(jepa)):
        distances = []
        for clip in range(len(clips)):
            one = mask[[clip]]
            predicted = jepa.predictor(jepa.encoder(pixels[[clip]], one), one, number)
            target = teacher[clip][~mask[clip]]
            centred = target - target.mean(-1, keepdim=True)
            normed = centred / (target.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            distances.extend((predicted - normed).abs().mean(-1).tolist())
        means.append(sum(distances) / len(distances))
    loss, diagnostics = jepa(clips, masks(jepa), slice(0, 6))
    assert float(loss.detach()) == pytest.approx(sum(means) / 2, rel=1e-4)
    assert 0 < float(diagnostics["target_std"]) < 1.1
    judged, _ = jepa(clips, masks(jepa), slice(0, 6), jepa.teacher)
    assert not torch.equal(judged, loss), "the teacher in the place of the student"


def test_teacher_follows_after_the_step(jepa: Jepa) -> None:
    before, student = (copy.deepcopy(part.state_dict()) for part in (jepa.teacher, jepa.encoder))
    assert jepa.after_step(0) == {"ema": 0.9}
    for name, weight in jepa.teacher.state_dict().items():
        torch.testing.assert_close(weight, 0.9 * before[name] + 0.1 * student[name], atol=1e-7, rtol=1e-6)
    assert all(torch.equal(weight, student[name]) for name, weight in jepa.encoder.state_dict().items())


def test_starts_from_the_untrained_encoder_of_the_same_seed() -> None:
    """Pretrained and untrained encoders of one seed differ only by the training."""
    untrained = initial_encoder(ENCODER, 3).state_dict()
    jepa = Jepa(ENCODER, SETTINGS, seed=3, steps=10)
    for encoder in (jepa.encoder, jepa.teacher):
        assert all(torch.equal(weight, untrained[name]) for name, weight in encoder.state_dict().items())
    assert jepa.encoder.norm.weight.data_ptr() != jepa.teacher.norm.weight.data_ptr()


@pytest.mark.parametrize(("steps", "first", "last"), [(200, 0.9, 0.999), (1000, 0.98, 0.999), (40_000, 0.9995, 0.9995)])
def test_a_horizon_from_the_length_of_the_run_leaves_nothing_of_the_first_teacher(
    steps: int, first: float, last: float
) -> None:
    jepa = Jepa(ENCODER, SETTINGS.model_copy(update={"ema": None}), seed=0, steps=steps)
    momenta = [jepa.momentum(step) for step in range(steps)]
    assert (momenta[0], momenta[-1]) == (pytest.approx(first), pytest.approx(last))
    assert momenta == sorted(momenta)
    assert math.prod(momenta) < 0.01, "a third is left by .99925 after 1,400 steps"


def test_encoders_that_cannot_be_masked_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="single token"):
        Jepa(ENCODER.model_copy(update={"patch": 32}), SETTINGS, seed=0, steps=10)
    monkeypatch.setitem(ENCODERS, "video-vit", type("Whole", (VideoViT,), {"maskable": False}))
    with pytest.raises(SettingsError, match="kind 'video-vit', which takes no masks"):
        Jepa(ENCODER, SETTINGS, seed=0, steps=10)
