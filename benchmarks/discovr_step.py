"""A DISCOVR step at the paper's size: python benchmarks/discovr_step.py --device cuda --batch 32

Four ViT-B on 64 frames of 112 pixels, one global and four local masks, 3,000 prototypes, heads to 16,384. Prints
clips/s (median over the rounds), peak memory of the device, and the FLOPs of a clip, counted on a batch of 2 with plain
attention. `--toy` is the same step at a size for two cores.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echolung.models.vit import VideoViTSettings
from echolung.pretraining.discovr import Discovr, DiscovrSettings

PAPER = VideoViTSettings(width=768, depth=12, heads=12, image_size=112, frames=64, clip_fps=16.0, class_token=True)
TOY = PAPER.model_copy(update={"width": 96, "depth": 4, "heads": 3, "frames": 8})
SMALL = DiscovrSettings(
    decoder_width=48, decoder_depth=2, decoder_heads=3, prototypes=64,
    head_hidden=128, head_bottleneck=64, head_out=256,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s of the device, for MFU")
    parser.add_argument("--toy", action="store_true")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    shape, settings = (TOY, SMALL) if chosen.toy else (PAPER, DiscovrSettings())
    objective = Discovr(shape, settings, seed=0, steps=100).to(device)
    optimizer = torch.optim.AdamW(objective.parameter_groups(0.05), lr=1e-5, betas=(0.9, 0.95), fused=True)

    def step(clips: torch.Tensor, turn: int) -> float:
        drawn = objective.draw(len(clips), torch.Generator().manual_seed(turn))
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = objective(clips, drawn, slice(0, len(clips)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(turn)
        return float(loss.detach())  # waits for the device

    def drawn_clips(count: int) -> torch.Tensor:
        size = (count, shape.frames, shape.image_size, shape.image_size)
        return torch.randint(0, 256, size, dtype=torch.uint8).to(device)

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(drawn_clips(2), 0)
    flops = counter.get_total_flops() / 2
    clips = drawn_clips(chosen.batch)
    step(clips, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for turn in range(chosen.rounds):
        begun = time.perf_counter()
        loss = step(clips, turn + 2)
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    trained = sum(one.numel() for one in objective.parameters() if one.requires_grad)
    print(
        f"{name}, torch {torch.__version__}, {datetime.date.today()}; batch {chosen.batch}, median of {chosen.rounds}"
    )
    print(f"{trained / 1e6:.1f}M parameters trained, {flops / 1e12:.3f} TFLOP a clip, loss {loss:.2f}")
    rate = chosen.batch / median
    print(f"{rate:.2f} clips/s ({min(seconds):.3f} to {max(seconds):.3f} s a step), {rate * flops / 1e12:.1f} TFLOP/s")
    if chosen.peak:
        print(f"MFU {rate * flops / 1e12 / chosen.peak:.1%} of {chosen.peak:.0f} TFLOP/s")
    if device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most")


if __name__ == "__main__":
    main()
