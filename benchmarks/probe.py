"""The search of an attentive probe against the loops that a user would write: python benchmarks/probe.py

Learning rates x weight decays x inner folds on drawn clips, from the same initial weights, on the same batches:

    batched     all heads in one pass over tokens that were encoded once, with absorbed attention
    solo loop   one head after the other on the same tokens, nn.MultiheadAttention and torch.optim.AdamW
    re-encode   the same, with the frozen backbone run again for every batch, as fine-tuning scripts do

Timed in turns within one run, so that whatever else the machine does slows all alike; ratios are of the medians. The
losses agree but for the solo probe's query projection, which is redundant beside a learned query;
tests/methods/test_probe_heads.py holds the exact equality. Only two heads are re-encoded, and counted as two.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echolung.methods.probes.heads import NORM_EPSILON, HeadwiseAdamW, ProbeForm, ProbeHeads
from echolung.models.encoder import Encoder
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViTSettings

RATES, DECAYS, FOLDS = (3e-4, 1e-3, 3e-3), (0.1, 10.0), 3
CLASSES, BATCH, HEAD_WIDTH = 3, 16, 64


class SoloProbe(nn.Module):
    """LayerNorm, one learned query, nn.MultiheadAttention, linear classifier."""

    def __init__(self, start: ProbeHeads) -> None:
        super().__init__()
        width = start.form.width
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.query = nn.Parameter(start.query[0].detach().reshape(1, 1, width).clone())
        self.classifier = nn.Linear(width, CLASSES)
        with torch.no_grad():
            eye, key, value = torch.eye(width), start.key[0].flatten(0, 1), start.value[0].flatten(0, 1)
            self.attention.in_proj_weight.copy_(torch.cat([eye, key, value]))
            self.attention.in_proj_bias.zero_()
            self.attention.out_proj.weight.copy_(eye)
            self.classifier.weight.zero_()
            self.classifier.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(tokens)
        return self.classifier(self.attention(self.query.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0])


def search(videos: int) -> tuple[list[tuple[float, float]], Tensor]:
    """Configurations of all heads and the weight (H, V) of every video in each: zero in the fold it is held out of."""
    fold = torch.arange(videos) % FOLDS
    configurations = [(rate, decay) for _ in range(FOLDS) for rate in RATES for decay in DECAYS]
    held_out = torch.arange(FOLDS).repeat_interleave(len(RATES) * len(DECAYS))
    return configurations, (fold[None] != held_out[:, None]).float()


def batches(videos: int, epochs: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [part for _ in range(epochs) for part in torch.randperm(videos, generator=generator).split(BATCH)]


def together(tokens: Tensor, y: Tensor, epochs: int) -> Tensor:
    """Final training loss (H,) of all heads, trained in one pass."""
    configurations, weights_HV = search(len(tokens))
    form = ProbeForm(width=tokens.shape[-1], classes=CLASSES, attention_head_width=HEAD_WIDTH)
    heads = ProbeHeads(form, len(configurations))
    rates, decays = torch.tensor(configurations).unbind(dim=1)
    optimiser = HeadwiseAdamW(heads, rates, decays)

    def losses(chosen: Tensor) -> Tensor:
        log_p_BHC = heads(heads.inputs(tokens[chosen])).log_softmax(dim=-1)
        log_p_BH = log_p_BHC[torch.arange(len(chosen)), :, y[chosen]]
        return -(log_p_BH * weights_HV[:, chosen].T).mean(dim=0)

    for chosen in batches(len(tokens), epochs):
        losses(chosen).sum().backward()
        optimiser.step()
        heads.zero_grad()
    with torch.no_grad():
        return losses(torch.arange(len(tokens)))


def one_by_one(tokens: Tensor, y: Tensor, epochs: int) -> Tensor:
    """The same by a loop over heads. A solo head need not look at the videos it is held out of, and does not."""
    configurations, weights_HV = search(len(tokens))
    form = ProbeForm(width=tokens.shape[-1], classes=CLASSES, attention_head_width=HEAD_WIDTH)
    start, final = ProbeHeads(form, 1), []
    for (rate, decay), weights in zip(configurations, weights_HV, strict=True):
        probe = SoloProbe(start)
        matrices = [probe.attention.in_proj_weight, probe.classifier.weight]
        others = [probe.query, probe.attention.in_proj_bias, *probe.norm.parameters(), probe.classifier.bias]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate)

        def loss(chosen: Tensor, probe: SoloProbe = probe, weights: Tensor = weights) -> Tensor:
            mine = chosen[weights[chosen] > 0]
            return F.cross_entropy(probe(tokens[mine]), y[mine], reduction="sum") / len(chosen)

        for chosen in batches(len(tokens), epochs):
            optimiser.zero_grad()
            loss(chosen).backward()
            optimiser.step()
        with torch.no_grad():
            final.append(loss(torch.arange(len(tokens))))
    return torch.stack(final)


def re_encode(clips: Tensor, y: Tensor, epochs: int, encoder: Encoder) -> int:
    """Two heads, each with its own passes of the backbone; returns how many were trained."""
    for _ in range(2):
        form = ProbeForm(width=encoder.width, classes=CLASSES, attention_head_width=HEAD_WIDTH)
        probe = SoloProbe(ProbeHeads(form, 1))
        optimiser = torch.optim.AdamW(probe.parameters(), lr=1e-3)
        for chosen in batches(len(clips), epochs):
            optimiser.zero_grad()
            F.cross_entropy(probe(encoder.encode(clips[chosen])), y[chosen]).backward()
            optimiser.step()
    return 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=88, help="training videos of a trial")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    shape = VideoViTSettings(width=192, depth=12, heads=3, image_size=112, frames=16, clip_fps=8.0)
    encoder = initial_encoder(shape, 0).eval()
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(chosen.videos) % CLASSES
    clips = torch.randint(0, 256, (chosen.videos, 16, 112, 112), dtype=torch.uint8, generator=generator)
    tokens = torch.cat([encoder.encode(part) for part in clips.split(BATCH)])
    heads = len(search(len(tokens))[0])
    contestants: dict[str, Callable[[], Any]] = {
        "batched": lambda: together(tokens, y, chosen.epochs),
        "solo loop": lambda: one_by_one(tokens, y, chosen.epochs),
        "re-encode": lambda: re_encode(clips, y, chosen.epochs, encoder),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(chosen.rounds):
        for name, contestant in contestants.items():
            begun = time.perf_counter()
            found = contestant()
            trained = found if isinstance(found, int) else heads
            rates[name].append(trained * chosen.epochs / (time.perf_counter() - begun))
    print(f"{platform.machine()}, {chosen.threads} threads, torch {torch.__version__}, {datetime.date.today()}")
    print(f"{heads} heads, {chosen.videos} clips of {tokens.shape[1]} x {tokens.shape[2]}; median of {chosen.rounds}")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, median in medians.items():
        print(f"{name:10} {median:9.2f} head-epochs/s   batched is {medians['batched'] / median:6.1f}x")


if __name__ == "__main__":
    main()
