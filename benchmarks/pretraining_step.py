"""A V-JEPA 2 step here against a good plain one: python benchmarks/pretraining_step.py

ViT-Ti on 16 frames of 112 pixels, batch 16, predictor 4 x 96, two mask generators. The plain step is what one would
write from the reference: a dense pass per mask, contexts and targets cut to the shortest of the batch in raster order,
scaled_dot_product_attention, fused AdamW, the same dtype. Both run in turns in one process, on the same clips and
masks; the ratio is of the medians. Cutting throws context tokens away: tokens per second count those that were encoded.
The FLOPs of either step are counted, too: they say what the ratios would be at equal speed per FLOP.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echolung.models.rope import rotation
from echolung.models.vit import VideoViT, VideoViTSettings
from echolung.pretraining.jepa import Jepa, JepaSettings
from echolung.pretraining.settings import TrainingSettings

SHAPE = VideoViTSettings(width=192, depth=12, heads=3, image_size=112, frames=16, clip_fps=8.0)
SETTINGS = JepaSettings(predictor_width=96, predictor_depth=4, predictor_heads=3)
Step = Callable[[torch.Tensor, list[torch.Tensor]], int]


def ours(jepa: Jepa, optimizer: torch.optim.Optimizer, bf16: bool) -> Step:
    def step(clips: torch.Tensor, masks: list[torch.Tensor]) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = jepa(clips, masks, slice(0, len(clips)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        jepa.after_step(0)
        return sum(int(mask.sum()) for mask in masks)

    return step


def plain(jepa: Jepa, optimizer: torch.optim.Optimizer, bf16: bool) -> Step:
    encoder, predictor = jepa.encoder, jepa.predictor
    assert isinstance(encoder, VideoViT)

    def turn(ids: torch.Tensor, head_width: int) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = rotation(ids.flatten(), encoder.grid, head_width)
        return cos.unflatten(0, ids.shape)[:, None], sin.unflatten(0, ids.shape)[:, None]

    def gathered(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))

    def cut(mask: torch.Tensor) -> torch.Tensor:
        """Indices (B, n) of the first tokens that are set, as many as the clip with the fewest has."""
        fewest = int(mask.sum(dim=1).min())
        return torch.stack([one.nonzero()[:fewest, 0] for one in mask])

    def forward(clips: torch.Tensor, masks: list[torch.Tensor]) -> tuple[torch.Tensor, int]:
        pixels, losses, seen = encoder.pixels(clips), [], 0
        with torch.no_grad():
            teacher = jepa.teacher(pixels).float()
            targets = F.layer_norm(teacher, teacher.shape[-1:])
        for number, visible in enumerate(masks):
            context, hidden = cut(visible), cut(~visible)
            seen += context.numel()
            x = gathered(encoder.patch_embed(pixels), context)
            for block in encoder.blocks:
                x = block(x, turn(context, encoder.head_width))
            x = predictor.predictor_embed(encoder.norm(x))
            mask = predictor.mask_tokens[number].to(x.dtype).expand(len(x), hidden.shape[1], -1)
            x, both = torch.cat([x, mask], dim=1), torch.cat([context, hidden], dim=1)
            for block in predictor.predictor_blocks:
                x = block(x, turn(both, predictor.head_width))
            predicted = predictor.predictor_proj(predictor.predictor_norm(x[:, context.shape[1] :]))
            losses.append((predicted.float() - gathered(targets, hidden)).abs().mean())
        return torch.stack(losses).mean(), seen

    def step(clips: torch.Tensor, masks: list[torch.Tensor]) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, seen = forward(clips, masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        jepa.after_step(0)
        return seen

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    bf16 = TrainingSettings(steps=1, learning_rate=1.0, batch=1).precision_on("cpu") == "bf16"
    start = Jepa(SHAPE, SETTINGS, seed=0, steps=100)
    contestants: dict[str, Step] = {}
    for name, build in (("plain", plain), ("echolung", ours)):
        jepa = copy.deepcopy(start)
        groups = jepa.parameter_groups(0.04)
        contestants[name] = build(jepa, torch.optim.AdamW(groups, lr=1e-4, fused=True), bf16)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, list[int]] = {name: [] for name in contestants}
    counted: dict[str, tuple[float, float]] = {}
    for turn in range(chosen.rounds + 1):  # in the first, FLOPs are counted
        generator = torch.Generator().manual_seed(turn)
        clips = torch.randint(0, 256, (chosen.batch, 16, 112, 112), dtype=torch.uint8, generator=generator)
        masks = start.draw(chosen.batch, generator)
        for name, step in contestants.items():
            if not turn:
                with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                    seen = step(clips, masks)
                counted[name] = counter.get_total_flops() / chosen.batch / 1e9, seen / chosen.batch
                continue
            begun = time.perf_counter()
            seen = step(clips, masks)
            seconds[name].append(time.perf_counter() - begun)
            tokens[name].append(seen)
    print(
        f"{platform.machine()}, {chosen.threads} threads, {'bf16' if bf16 else 'float32'}, torch {torch.__version__},"
        f" {datetime.date.today()}; median of {chosen.rounds}"
    )
    clips_s = {name: chosen.batch / statistics.median(times) for name, times in seconds.items()}
    tokens_s = {
        name: statistics.median(n / s for n, s in zip(tokens[name], seconds[name], strict=True)) for name in contestants
    }
    for name in contestants:
        flops, seen = counted[name]
        print(
            f"{name:9} {clips_s[name]:6.1f} clips/s  {tokens_s[name]:8.0f} context tokens/s"
            f"  {flops:6.1f} GFLOP and {seen:.0f} context tokens a clip"
        )
    print(
        f"ratio     {clips_s['echolung'] / clips_s['plain']:6.2f}          "
        f"{tokens_s['echolung'] / tokens_s['plain']:8.2f}"
    )
    equal = counted["plain"][0] / counted["echolung"][0]
    print(f"at equal speed per FLOP {equal:.2f} and {equal * counted['echolung'][1] / counted['plain'][1]:.2f}")


if __name__ == "__main__":
    main()
