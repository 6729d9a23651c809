"""Steps for equal minutes: python benchmarks/minutes.py --study objectives --scale laptop --minutes 3

For every encoder that a study pretrains: seconds of a training step (forward, backward, optimizer and what follows it,
on random clips, one thread), the objectives in turn, median of the rounds; and how many steps fit into the minutes
beside how many the study gives. Nothing is read or written; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time

import torch

from echolung.composition import compose
from echolung.pretraining.cost import counted
from echolung.pretraining.objectives import OBJECTIVES
from echolung.settings import Settings
from echolung.stage import project_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="objectives")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of echolung run")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    values, _ = compose(project_root(), chosen.study, chosen.scale, chosen.set)
    study = Settings.parse(values, "the study")
    pretrain, steps, seconds, flops = study.pretrain, {}, {}, {}
    for name, encoder in pretrain.encoders.items():
        training, shape = pretrain.of(name), study.shape(name)
        objective = OBJECTIVES[encoder.objective](shape, pretrain.objective(name), 0, training.steps)
        flops[name] = counted(objective)
        groups = objective.parameter_groups(training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=training.betas, fused=True)
        size = (training.batch, shape.frames, shape.image_size, shape.image_size)
        clips = torch.randint(0, 256, size, dtype=torch.uint8)
        steps[name], seconds[name] = (objective, optimizer, clips, training.precision_on("cpu") == "bf16"), []
    for turn in range(chosen.rounds + 1):
        for name, (objective, optimizer, clips, bf16) in steps.items():
            begun = time.perf_counter()
            drawn = objective.draw(len(clips), torch.Generator().manual_seed(turn))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss, _ = objective(clips, drawn, slice(0, len(clips)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            objective.after_step(turn)
            seconds[name] += [time.perf_counter() - begun] * (turn > 0)  # the first is a warm-up
    print(f"{platform.machine()}, 1 of {os.cpu_count()} threads, torch {torch.__version__}, {datetime.date.today()}")
    print(f"| encoder | s a step | clips/s | GFLOP a clip | steps in {chosen.minutes:g} min | steps of the study |")
    print("|---|---|---|---|---|---|")
    for name, all_of_it in seconds.items():
        median, training = statistics.median(all_of_it), pretrain.of(name)
        print(
            f"| {name} | {median:.3f} ({min(all_of_it):.3f} to {max(all_of_it):.3f}) | {training.batch / median:.1f} |"
            f" {flops[name] / 1e9:.2f} | {60 * chosen.minutes / median:.0f} | {training.steps} |"
        )


if __name__ == "__main__":
    main()
