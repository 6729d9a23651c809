"""A frozen pixel teacher: its phase is masked reconstruction, the student's is prediction of its tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import save_clips

from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining.jepa import Jepa
from echolung.pretraining.loop import train
from echolung.pretraining.mae import Mae, MaeSettings
from echolung.pretraining.run import SeedRun
from echolung.pretraining.salt import Salt, SaltSettings
from echolung.pretraining.settings import PretrainSettings

torch.set_num_threads(1)

ENCODER = VideoViT.Settings(width=24, depth=2, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)
TEACHER = MaeSettings(decoder_width=24, decoder_depth=1, decoder_heads=2, visible=0.5)
SETTINGS = SaltSettings(
    predictor_width=24, predictor_depth=1, predictor_heads=2, teacher=TEACHER, teacher_share=0.5
)  # fmt: skip


def test_the_phases_are_those_of_mae_and_of_jepa_with_a_frozen_teacher() -> None:
    salt = Salt(ENCODER, SETTINGS, seed=1, steps=4)
    clips = torch.randint(0, 256, (5, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn = salt.draw(5, torch.Generator().manual_seed(3))
    mae = Mae(ENCODER, TEACHER, seed=1, steps=4)
    torch.testing.assert_close(salt(clips, drawn, slice(0, 5))[0], mae(clips, drawn[0], slice(0, 5))[0])
    with torch.no_grad():
        for weight in salt.pixel.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    for step in (0, 1):
        salt.after_step(step)
    jepa = Jepa(ENCODER, SETTINGS, seed=1, steps=4)
    jepa.teacher.load_state_dict(salt.pixel.encoder.state_dict())
    loss, _ = salt(clips, drawn, slice(0, 5))
    torch.testing.assert_close(loss, jepa(clips, drawn[1], slice(0, 5))[0])
    loss.backward()
    assert all(weight.grad is None for weight in salt.pixel.parameters()), "frozen"
    untrained = initial_encoder(ENCODER, 1).state_dict()
    assert all(torch.equal(weight, untrained[name]) for name, weight in salt.handed_on.state_dict().items())


def test_the_teacher_cools_down_at_the_end_of_its_own_phase() -> None:
    salt = Salt(ENCODER, SETTINGS, seed=0, steps=40)
    groups = salt.parameter_groups(0.1)
    together = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(together) == len(set(together)) == sum(1 for one in salt.parameters() if one.requires_grad)
    teacher = set(map(id, salt.pixel.parameters()))
    scales = [[salt.lr_scale(step, group) for step in (0, 14, 17, 20, 39)] for group in groups]
    for group, scale in zip(groups, scales, strict=True):
        wanted = [1, 1, 0.5, 0, 0] if id(group["params"][0]) in teacher else [1] * 5
        assert scale == pytest.approx(wanted)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_run_stopped_in_either_phase_ends_bit_for_bit_where_it_would_have(tmp_path: Path, stopped: int) -> None:
    rng = np.random.default_rng(0)
    save_clips(tmp_path, {f"s/{n}": rng.integers(0, 256, (20, 24, 24), dtype=np.uint8) for n in range(5)}, 20.0)
    values = {
        "encoders": {"salt": {"objective": "salt", "pool": "s"}},
        "training": {"steps": 4, "batch": 4, "learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 1},
        "objectives": {"salt": SETTINGS.model_dump()},
    }

    def run(folder: str, stop: int = 0) -> dict[str, torch.Tensor]:
        def on_metrics(step: int, values: Any) -> None:
            if step == stop:
                raise Stop

        settings = PretrainSettings.parse(values, "pretrain")
        return train(
            SeedRun("salt", settings, ENCODER, (tmp_path,), 0, tmp_path / folder), on_metrics
        ).encoder.state_dict()

    whole = run("whole")
    with pytest.raises(Stop):
        run("cut", stopped)
    assert all(torch.equal(weight, whole[name]) for name, weight in run("cut").items())
