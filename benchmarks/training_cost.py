"""What pretraining costs by size, counted, not measured: python benchmarks/training_cost.py

The FLOPs of a V-JEPA 2 step (two masks, a predictor of 12 x 384, the teacher's pass over the whole clip, backward;
matrix products and attention, as torch counts them) are counted on the meta device, where nothing is computed. Hours
are these FLOPs at the share of an H100's dense bf16 peak that ViT-L was measured to reach (docs/benchmarks.md). Memory
is weights, gradients, AdamW's moments and teacher in float32, without activations.
"""

from __future__ import annotations

import argparse

import torch

from echolung.models.vit import VideoViT
from echolung.pretraining.cost import counted
from echolung.pretraining.jepa import Jepa, JepaSettings

SIZES = {  # width, depth, heads, mlp_ratio
    "Ti": (192, 12, 3, 4.0), "S": (384, 12, 6, 4.0), "B": (768, 12, 12, 4.0), "L": (1024, 24, 16, 4.0),
    "H": (1280, 32, 16, 4.0), "g": (1408, 40, 22, 48 / 11),
}  # fmt: skip
PEAK = 989e12  # an H100's, dense bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=17_840)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--share", type=float, default=0.25, help="of the GPU's peak that is reached")
    parser.add_argument("--draws", type=int, default=2)
    chosen = parser.parse_args()
    clips = chosen.videos * chosen.epochs
    speed = PEAK * chosen.share
    print("| ViT | parameters | TFLOP a clip | EFLOP in all | H100 hours | on 8 | GB of state |")
    print("|---|---|---|---|---|---|---|")
    for name, (width, depth, heads, ratio) in SIZES.items():
        shape = VideoViT.Settings(
            width=width, depth=depth, heads=heads, mlp_ratio=ratio, image_size=chosen.size, frames=chosen.frames,
            clip_fps=8.0, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3,
        )  # fmt: skip
        with torch.device("meta"):
            jepa = Jepa(shape, JepaSettings(), 0, 1)
        flops = counted(jepa, 4, chosen.draws)
        encoder = sum(one.numel() for one in jepa.encoder.parameters())
        state = sum(one.numel() * (16 if one.requires_grad else 4) for one in jepa.parameters()) / 1e9
        hours = flops * clips / speed / 3600
        print(
            f"| {name} | {encoder / 1e6:.1f}M | {flops / 1e12:.3f} | {flops * clips / 1e18:.2f} | {hours:.1f} |"
            f" {hours / 8:.1f} | {state:.1f} |"
        )
    print(f"{clips:,} clips of {chosen.frames} frames of {chosen.size} pixels at {speed / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
