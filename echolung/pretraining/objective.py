"""What the training loop asks of a self-supervised objective.

Dimension letters in `echolung.pretraining`: B clips of the batch over all workers, b those of this worker, T frames,
S side of the encoder's frames, N tokens of a clip, D width.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import Dataset

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters
from echolung.data.clips import ClipStore
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.encoders import initial_encoder
from echolung.pretraining.sampling import TrainingClips


class Objective(nn.Module):
    """All parts that one objective trains or keeps, as submodules: their weights are what a checkpoint holds.

    `forward(views, drawn, rows)` returns the loss and diagnostics (numbers by name; they become columns of the history)
    of `views`, an item of `dataset`. They are `rows` of the batch that `drawn`, made by `draw`, is for. The mean of the
    loss over workers must be the loss of the whole batch. Diagnostics are those of the first worker.
    """

    Settings: ClassVar[type[Parameters]]
    idle: ClassVar[bool] = False  # some parameters take no part in some steps

    def __init__(self, encoder: ClipSettings, settings: Any, seed: int, steps: int) -> None:
        """Build the parts of a run of `steps` steps; torch's default generator is seeded from `seed`."""
        super().__init__()
        self.settings, self.steps = settings, steps

    @property
    def handed_on(self) -> Encoder:
        """The encoder that training is for: what is saved in the end, and measured on the way."""
        raise NotImplementedError

    @property
    def choices(self) -> dict[str, Encoder]:
        """Encoders that may be handed on: the one with the lowest loss on held-out videos, without those the first.
        With more than one, `forward` takes one of them as `context`, to be judged in the place of what it trains."""
        return {"": self.handed_on}

    def dataset(self, store: ClipStore, seed: int, batch: int, rows: slice) -> Dataset[Any]:
        """A dataset whose item `step` is this worker's `rows` of the batch of that step, in all views of `forward`. A
        pure function of (seed, step): a resumed run then sees the same clips. By default random crops of videos."""
        return TrainingClips(store, self.handed_on.settings, self.settings.crop, seed=seed, batch=batch, rows=rows)

    def draw(self, clips: int, generator: torch.Generator) -> Any:
        """The random part of a step (masks), drawn for the whole batch, so that it is the same in every worker."""
        return None

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW. `lr_scale` in a group multiplies its learning rate; `betas` and `eps` may differ, too. By
        default matrices decay and one-dimensional parameters (biases and norms) do not."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    def lr_scale(self, step: int, group: dict[str, Any]) -> float:
        """What a group's learning rate is multiplied by at a step."""
        return float(group.get("lr_scale", 1.0))

    def after_step(self, step: int) -> dict[str, float]:
        """What follows the optimizer's step number `step` (from 0), such as the update of a teacher; diagnostics."""
        return {}


def maskable_encoder(settings: ClipSettings, seed: int, objective: str) -> Any:
    """The untrained encoder, for an objective that hides tokens; raises SettingsError if this kind takes no masks."""
    encoder = initial_encoder(settings, seed)
    if not encoder.maskable:
        raise SettingsError(
            f"the objective {objective} cannot train an encoder of kind '{settings.kind}', which takes no masks",
            "Choose another kind of encoder, or another objective for it.",
        )
    if encoder.grid[1] * encoder.grid[2] < 2:
        raise SettingsError(
            "a frame of a single token cannot be masked", "Choose a smaller encoder.patch or a larger image_size."
        )
    return encoder


def following(step: int, steps: int) -> float:
    """Fraction of a teacher to keep at a step, by the length of the run: its horizon is 5% of the steps at first, 1,000
    steps (.999) at the end."""
    start = 1 - 1 / max(2.0, 0.05 * steps)
    return start + (max(0.999, start) - start) * step / max(1, steps - 1)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student."""
    theirs, ours = tuple(teacher.parameters()), tuple(student.parameters())
    torch._foreach_lerp_(theirs, ours, 1 - momentum)  # one kernel launch for all tensors
