"""What a training step computes: matrix products, convolutions and attention, as torch counts them."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echolung.models.encoder import ClipSettings
from echolung.pretraining.objective import Objective
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.settings import PretrainSettings


def counted(objective: Objective, clips: int = 2, draws: int = 1) -> float:
    """FLOPs of a step, forward and backward, per clip: the mean over `draws` batches of masks."""
    shape, device, total = objective.handed_on.settings, next(objective.parameters()).device, 0
    views = torch.zeros(clips, shape.frames, shape.image_size, shape.image_size, dtype=torch.uint8, device=device)
    for number in range(draws):
        drawn = objective.draw(clips, torch.Generator().manual_seed(number))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            objective(views, drawn, slice(0, clips))[0].backward()
        total += counter.get_total_flops()
    return total / draws / clips


def flops_per_clip(name: str, settings: PretrainSettings, encoder: ClipSettings) -> float:
    """Of one clip that `settings.encoders[name]`, of the shape `encoder`, is trained on."""
    blank = encoder.model_copy(update={"weights": ""})
    build = OBJECTIVES[settings.encoders[name].objective]
    return counted(build(blank, settings.objective(name), 0, settings.of(name).steps))
