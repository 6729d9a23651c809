"""Static-teacher latent prediction, SALT (Li et al. 2025, arXiv 2509.24317): no moving target, no collapse.

For a share of the steps a teacher learns to reconstruct masked pixels. Then it is frozen, and a student that starts
from the same weights as every other encoder of its seed predicts the teacher's tokens as in V-JEPA 2. The two phases
are one run: the teacher's learning rate cools down at the end of its own.
"""

from typing import Any

import pydantic
import torch

from echolung.models.encoder import ClipSettings, Encoder
from echolung.pretraining.jepa import Jepa, JepaSettings
from echolung.pretraining.mae import Mae, MaeSettings

COOLDOWN = 0.3  # share of the teacher's steps in which its learning rate falls to zero


class SaltSettings(JepaSettings):
    """The student's as in `jepa`, without the EMA."""

    ema: None = None
    teacher: MaeSettings = MaeSettings()
    teacher_share: float = pydantic.Field(0.3, gt=0, lt=1)  # share of the steps that train the teacher


class Salt(Jepa):
    """A pixel teacher, then a student and its predictor; the student is handed on."""

    Settings = SaltSettings
    idle = True
    settings: SaltSettings
    done: torch.Tensor

    def __init__(self, encoder: ClipSettings, settings: SaltSettings, seed: int, steps: int) -> None:
        super().__init__(encoder, settings, seed, steps)
        self.pixel = Mae(encoder, settings.teacher, seed, steps)
        del self._modules["teacher"]  # Jepa's copy of the student; `teacher` below is the one that learns pixels
        self.teacher_steps = max(1, round(settings.teacher_share * steps))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))  # a checkpoint knows the phase

    @property
    def teacher(self) -> Encoder:
        return self.pixel.encoder

    @property
    def handed_on(self) -> Encoder:
        return self.encoder

    @property
    def choices(self) -> dict[str, Encoder]:
        return {"student": self.encoder}

    def draw(self, clips: int, generator: torch.Generator) -> Any:
        """The teacher's tubes and the student's blocks, each bool (B, N)."""
        return self.pixel.draw(clips, generator), super().draw(clips, generator)

    def forward(
        self, views: torch.Tensor, drawn: Any, rows: slice, context: Encoder | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """The teacher's loss in its phase, then the student's."""
        tubes, blocks = drawn
        if self.done < self.teacher_steps:
            return self.pixel(views, tubes, rows)[0], {"target_std": 0.0}
        return super().forward(views, blocks, rows)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The teacher's groups apart from the student's, and marked."""
        teacher, groups = set(self.pixel.parameters()), []
        for group in super().parameter_groups(weight_decay):
            for its in (True, False):
                mine = [one for one in group["params"] if (one in teacher) == its]
                groups.append(group | {"params": mine, "teacher": its})
        return groups

    def lr_scale(self, step: int, group: dict[str, Any]) -> float:
        left = (self.teacher_steps - step) / max(1, COOLDOWN * self.teacher_steps)
        return min(1.0, max(0.0, left)) if group["teacher"] else 1.0

    def after_step(self, step: int) -> dict[str, float]:
        self.done += 1
        return {}
