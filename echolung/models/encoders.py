"""The kinds of encoder. A new kind is one file with its class and settings, and one line here."""

import torch

from echolung.core.runtime import derived_seed
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.frames import Frames
from echolung.models.vit import VideoViT

ENCODERS: dict[str, type[Encoder]] = {"video-vit": VideoViT, "frames": Frames}


def initial_encoder(settings: ClipSettings, seed: int) -> Encoder:
    """An encoder as it is before training; a seed gives the same weights to the untrained arm and every objective."""
    encoder = drawn_encoder(settings, seed)
    encoder.start()
    return encoder


def drawn_encoder(settings: ClipSettings, seed: int) -> Encoder:
    """An encoder of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("encoder", seed))
        return ENCODERS[settings.kind](settings)
