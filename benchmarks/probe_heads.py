"""Probe heads trained together against one after the other.

    python benchmarks/probe_heads.py

The search of one probe trial (learning rates x weight decays x inner folds) on drawn tokens: all heads in one batched
pass with absorbed attention, against the loop that a user would write around nn.MultiheadAttention and
torch.optim.AdamW, on the same batches, from the same initial weights. Both are timed in turns within one run, so that
whatever else the machine does slows both alike; the ratio is of the medians. The losses agree but for the solo probe's
query projection, which is redundant beside a learned query; tests/models/test_probe_heads.py holds the exact equality.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echolung.methods.probes.heads import NORM_EPSILON, HeadwiseAdamW, ProbeForm, ProbeHeads

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=88, help="training videos of a trial")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a clip")
    parser.add_argument("--width", type=int, default=192, help="channels of a token")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(chosen.videos) % CLASSES
    shift = torch.randn(CLASSES, chosen.width, generator=generator)[y][:, None]
    tokens = torch.randn(chosen.videos, chosen.tokens, chosen.width, generator=generator).add_(0.1 * shift)
    contestants = {"batched": together, "solo loop": one_by_one}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    losses: dict[str, Tensor] = {}
    for _ in range(chosen.rounds):
        for name, contestant in contestants.items():
            begun = time.perf_counter()
            losses[name] = contestant(tokens, y, chosen.epochs)
            seconds[name].append(time.perf_counter() - begun)
    heads = len(losses["batched"])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {chosen.threads} threads, torch {torch.__version__}")
    print(f"{heads} heads, {chosen.videos} clips of {chosen.tokens} x {chosen.width}, {chosen.epochs} epochs")
    for name, times in seconds.items():
        print(f"{name:10} {statistics.median(times):7.2f} s (from {min(times):.2f} to {max(times):.2f})")
    ratio = statistics.median(seconds["solo loop"]) / statistics.median(seconds["batched"])
    apart = (losses["batched"] - losses["solo loop"]).abs().max().item()
    print(f"batched is {ratio:.1f} times as fast; final losses differ by at most {apart:.0e}")


if __name__ == "__main__":
    main()
