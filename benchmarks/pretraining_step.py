"""A V-JEPA 2 step here against a good plain one: python benchmarks/pretraining_step.py

ViT-Ti on 16 frames of 112 pixels, batch 16, predictor 4 x 96, two mask generators; on a GPU ViT-L, predictor 12 x 384:
python benchmarks/pretraining_step.py --device cuda --encoder L --size 224. The plain step is what one would write from
the reference: a dense pass per mask, contexts and targets cut to the shortest of the batch in raster
order, scaled_dot_product_attention, fused AdamW, the same dtype. All run in turns in one process, on the same clips and
masks; ratios are of medians. Cutting throws context tokens away: tokens per second count those that were encoded.
The FLOPs of either step are counted, too: they say what the ratios would be at equal speed per FLOP, and on a GPU what
share of its dense bf16 peak is used. --grow measures speed and memory at other sizes instead.
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

from echolung.models import vit
from echolung.models.rope import rotation
from echolung.models.vit import VideoViT, VideoViTSettings
from echolung.pretraining.jepa import Jepa, JepaSettings
from echolung.pretraining.loop import compile_blocks
from echolung.pretraining.settings import TrainingSettings

ENCODERS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
PEAK = 989e12
"""Dense bf16 FLOP/s of an H100 or H200 (SXM)."""
GROWTH = ((16, 224, 16), (16, 224, 32), (16, 224, 64), (16, 336, 16), (32, 224, 16), (64, 224, 8))
"""Frames, side, batch."""
Step = Callable[[torch.Tensor, list[torch.Tensor]], int]


def ours(jepa: Jepa, optimizer: torch.optim.Optimizer, bf16: bool) -> Step:
    def step(clips: torch.Tensor, masks: list[torch.Tensor]) -> int:
        with torch.autocast("cuda" if clips.is_cuda else "cpu", torch.bfloat16, enabled=bf16):
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
            context, hidden = cut(visible).to(pixels.device), cut(~visible).to(pixels.device)
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
        with torch.autocast("cuda" if clips.is_cuda else "cpu", torch.bfloat16, enabled=bf16):
            kept, vit.SHORT = vit.SHORT, 0  # torch's own attention
            loss, seen = forward(clips, masks)
            vit.SHORT = kept
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        jepa.after_step(0)
        return seen

    return step


def jepa_of(size: str, frames: int, side: int, device: str) -> Jepa:
    width, depth, heads = ENCODERS[size]
    shape = VideoViTSettings(width=width, depth=depth, heads=heads, image_size=side, frames=frames, clip_fps=8.0)
    small = JepaSettings(predictor_width=96, predictor_depth=4, predictor_heads=3)
    with torch.device(device):
        return Jepa(shape, small if size in ("Ti", "S") else JepaSettings(), seed=0, steps=100)


def batch_of(jepa: Jepa, clips: int, turn: int, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(turn)
    shape = clips, jepa.encoder.settings.frames, jepa.encoder.settings.image_size, jepa.encoder.settings.image_size
    drawn = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return drawn.to(device), jepa.draw(clips, generator)


def optimizer_of(jepa: Jepa) -> torch.optim.Optimizer:
    return torch.optim.AdamW(jepa.parameter_groups(0.04), lr=1e-4, fused=jepa.teacher.norm.weight.device.type != "meta")


def counted(jepa: Jepa, build: Callable[..., Step], clips: int) -> tuple[float, float]:
    """GFLOP and context tokens a clip, of a batch with no data behind it."""
    ghost = copy.deepcopy(jepa).to("meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        seen = build(ghost, optimizer_of(ghost), False)(*batch_of(jepa, clips, 0, "meta"))
    return counter.get_total_flops() / clips / 1e9, seen / clips


def timed(step: Step, clips: torch.Tensor, masks: list[torch.Tensor]) -> tuple[float, int]:
    synchronize = torch.cuda.synchronize if clips.is_cuda else lambda: None
    synchronize()
    begun = time.perf_counter()
    seen = step(clips, masks)
    synchronize()
    return time.perf_counter() - begun, seen


def contest(chosen: argparse.Namespace, bf16: bool) -> None:
    start = jepa_of(chosen.encoder, chosen.frames, chosen.size, chosen.device)
    contestants: dict[str, Step] = {}
    flops: dict[str, tuple[float, float]] = {}
    for name, build in (("plain", plain), ("echolung", ours)):
        flops[name] = counted(start, build, chosen.batch)
        for compiled in (False, True) if chosen.device == "cuda" else (False,):
            jepa = copy.deepcopy(start)
            if compiled:
                compile_blocks(jepa)
            contestants[name + ", compiled" * compiled] = build(jepa, optimizer_of(jepa), bf16)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, list[int]] = {name: [] for name in contestants}
    warm = 3 if chosen.device == "cuda" else 1
    for turn in range(chosen.rounds + warm):
        clips, masks = batch_of(start, chosen.batch, turn, chosen.device)
        for name, step in contestants.items():
            took, seen = timed(step, clips, masks)
            if turn >= warm:
                seconds[name].append(took)
                tokens[name].append(seen)
    rate = {name: chosen.batch / statistics.median(times) for name, times in seconds.items()}
    fed = {
        name: statistics.median(n / s for n, s in zip(tokens[name], seconds[name], strict=True)) for name in contestants
    }
    for name in contestants:
        gflop, seen = flops[name.partition(",")[0]]
        used = f"  {rate[name] * gflop * 1e9 / PEAK:4.0%} of peak" if chosen.device == "cuda" else ""
        print(
            f"{name:18} {rate[name]:6.1f} clips/s  {fed[name]:8.0f} context tokens/s"
            f"  {gflop:7.1f} GFLOP and {seen:.0f} context tokens a clip{used}"
        )
    for end in ("", ", compiled"):
        if f"plain{end}" in rate:
            ours_, theirs = f"echolung{end}", f"plain{end}"
            print(f"ratio{end:12} {rate[ours_] / rate[theirs]:6.2f}          {fed[ours_] / fed[theirs]:8.2f}")
    equal = flops["plain"][0] / flops["echolung"][0]
    print(f"at equal speed per FLOP {equal:.2f} and {equal * flops['echolung'][1] / flops['plain'][1]:.2f}")


def growth(chosen: argparse.Namespace, bf16: bool) -> None:
    """Speed, memory and share of the peak of the compiled step as clips grow in number, time and space."""
    for frames, side, batch in GROWTH:
        jepa = jepa_of(chosen.encoder, frames, side, chosen.device)
        gflop, _ = counted(jepa, ours, batch)
        compile_blocks(jepa)
        step = ours(jepa, optimizer_of(jepa), bf16)
        torch.cuda.reset_peak_memory_stats()
        try:
            times = [timed(step, *batch_of(jepa, batch, turn, chosen.device))[0] for turn in range(3 + chosen.rounds)]
        except torch.OutOfMemoryError:
            print(f"{frames} x {side}, batch {batch}: out of memory")
            continue
        rate = batch / statistics.median(times[3:])
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{frames:2} x {side}, batch {batch:2}: {rate:6.1f} clips/s, {gflop / 1000:5.2f} TFLOP a clip, "
            f"{rate * gflop * 1e9 / PEAK:4.0%} of peak, {peak:5.1f} GiB ({peak / batch:.2f} a clip)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--encoder", default="Ti", choices=ENCODERS)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--grow", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    bf16 = TrainingSettings(steps=1, learning_rate=1.0, batch=1).precision_on(chosen.device) == "bf16"
    machine = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{chosen.threads} threads"
    print(
        f"{platform.machine()}, {machine}, {'bf16' if bf16 else 'float32'}, torch {torch.__version__},"
        f" {datetime.date.today()}; ViT-{chosen.encoder}; median of {chosen.rounds}"
    )
    (growth if chosen.grow else contest)(chosen, bf16)


if __name__ == "__main__":
    main()
