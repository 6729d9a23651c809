"""Frames a second that a U-Net draws, beside its bare network: python benchmarks/segmenter.py

`all` is what `predict` and the method `ejection-fraction` do with frames (resizing, network, label maps at the size of
the store), `network` segmentation-models-pytorch's net alone on frames that are ready. Interleaved, median.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from echolung.methods.segmentation import UNetSettings, unet
from echolung.methods.traced import CHUNK


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tu-tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    net = unet(UNetSettings.parse({"encoder": given.encoder, "image_size": given.size}, "the command")).eval()
    frames = torch.randint(256, (CHUNK, given.size, given.size), dtype=torch.uint8)
    ready = (frames[:, None].float() / 255).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    works: dict[str, Callable[[], object]] = {
        "all": lambda: net(frames).softmax(dim=1).numpy().argmax(axis=1).astype(np.uint8),
        "network": lambda: net.net(ready),
    }
    took = [{name: seconds(work) for name, work in works.items()} for _ in range(1 + given.rounds)][1:]
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}, {given}")
    for name in works:
        rates = np.quantile([CHUNK / one[name] for one in took], [0.5, 0.25, 0.75])
        print(f"{name}: {rates[0]:.0f} frames/s [{rates[1]:.0f}, {rates[2]:.0f}]")
    print(f"all / network: {np.median([one['network'] / one['all'] for one in took]):.2f}x")


if __name__ == "__main__":
    main()
