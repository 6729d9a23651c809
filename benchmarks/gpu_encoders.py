"""Long pretraining on a machine that has a GPU and torch, and neither this project's data nor Ray nor MLflow.

    python benchmarks/gpu_encoders.py pack DATA/ingest/blues/clips blues.pack       # here: 8 frames/s, 96 pixels
    python benchmarks/gpu_encoders.py train OUT blues.pack pocus.pack               # there
    python benchmarks/gpu_encoders.py unpack OUT public_sets/gpu                    # here: FOLDER/<name>/seed<k>

`train` runs the recipe of scale `laptop` (conf/scale/laptop.yaml: masked reconstruction) for 256,000 clips, and a
ViT-Ti of 12 blocks for 512,000, all at once, and writes history and weights, rounded to half precision to be carried.
"""

from __future__ import annotations

import functools
import json
import lzma
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
import yaml

FPS, SIDE = 8.0, 96
RUNS = [("blues", 12, 0, 40)] + [(pool, 6, seed, 20) for seed in (0, 1, 2) for pool in ("blues", "pocus")]
"""Pool, blocks of the encoder, seed, how many times the clips of scale laptop."""


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("store", type=Path)
@click.argument("target", type=Path)
def pack(store: Path, target: Path) -> None:
    """A clip store at FPS and SIDE in one file, without loss: differences to the neighbours, then LZMA."""
    from echolung.data.clips import ClipStore

    clips = ClipStore.open(store)
    rows, parts = {}, []
    for name in clips.sample_ids:
        frames, fps = clips.frames(name), clips.fps(name)
        shown = np.floor(np.arange(max(1, int(len(frames) / fps * FPS))) / FPS * fps + 1e-6).astype(int)
        pixels = torch.from_numpy(frames[np.minimum(shown, len(frames) - 1)])[:, None].float()
        small = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0].round().byte().numpy()
        rows[name] = {"sha256": clips.sha256(name), "fps": FPS, "frames": len(small)}
        across = np.diff(small, axis=2, prepend=np.uint8(0))  # modulo 256
        parts.append(np.diff(across, axis=1, prepend=np.uint8(0)))
    packed = lzma.compress(np.concatenate(parts).tobytes(), preset=6)
    target.write_bytes(json.dumps(rows).encode() + b"\n" + packed)
    print(f"{target}: {len(rows)} videos, {len(packed) / 2**20:.1f} MiB")


def expand(packed: Path, folder: Path) -> Path:
    """What `pack` wrote, as a clip store."""
    from echolung.data.clips import write_index

    head, _, body = packed.read_bytes().partition(b"\n")
    rows = json.loads(head)
    frames = np.frombuffer(lzma.decompress(body), np.uint8).reshape(-1, SIDE, SIDE)
    folder.mkdir(parents=True)
    begin = 0
    for row in rows.values():
        one = frames[begin : begin + row["frames"]]
        np.save(folder / f"{row['sha256']}.npy", one.cumsum(1, dtype=np.uint8).cumsum(2, dtype=np.uint8))
        begin += row["frames"]
    write_index(folder, SIDE, rows, f"{FPS:g} frames/s")
    return folder


def train_one(chosen: tuple[str, int, int, int], work: Path, device: str) -> tuple[str, str]:
    """One run of `RUNS` to the end."""
    from echolung.models.vit import VideoViTSettings
    from echolung.pretraining.run import SeedRun, finish
    from echolung.pretraining.settings import PretrainSettings

    pool, depth, seed, longer = chosen
    torch.set_num_threads(1)
    scale = yaml.safe_load(Path("conf/scale/laptop.yaml").read_text())
    pretrain, shape = scale["pretrain"], VideoViTSettings.parse({**scale["encoder"], "depth": depth}, "the encoder")
    training = pretrain["training"]
    training |= {key: longer * training[key] for key in ("steps", "warmup_steps", "cooldown_steps")}
    training |= {"log_every": 200, "rank_every": 1600, "checkpoint_every": 10**9, "loaders": 2}
    name = f"mae-{pool}" + ("-12" if depth == 12 else "")
    pretrain |= {"encoders": {name: {"objective": "mae", "pool": pool}}, "compute": {"gpu": device == "cuda"}}
    settings = PretrainSettings.parse(pretrain, "the run")
    run = SeedRun(name, settings, shape, (work / pool,), seed, work / "runs" / f"{name}-{seed}")
    begun = time.monotonic()
    finish(run, lambda step, values: None, device)
    target = work / "out" / f"{name}-{seed}"
    shutil.copytree(run.result, target)
    halve(target / "encoder.safetensors", torch.float16)
    clips, seconds = settings.training.steps * settings.training.batch, time.monotonic() - begun
    return target.name, f"{target.name}: {clips:,} clips in {seconds:.0f} s beside the others, {clips / seconds:.0f}/s"


def halve(path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)


@main.command()
@click.argument("out", type=Path)
@click.argument("packs", nargs=-1, type=Path)
@click.option("--device", default="cuda", show_default=True)
def train(out: Path, packs: tuple[Path, ...], device: str) -> None:
    """Every run of RUNS whose pool is among the PACKS, side by side on one GPU."""
    work = Path("/tmp/gpu-encoders")
    shutil.rmtree(work, ignore_errors=True)
    workers = functools.partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))
    with workers(len(packs)) as pool:
        list(pool.map(expand, packs, [work / packed.stem for packed in packs]))
    print(torch.cuda.get_device_name() if device == "cuda" else device, os.cpu_count(), torch.__version__, flush=True)
    jobs = [(run, work, device) for run in RUNS if (work / run[0]).is_dir()]
    out.mkdir(parents=True, exist_ok=True)
    with workers(len(jobs)) as pool:
        for done in as_completed([pool.submit(train_one, *job) for job in jobs]):
            name, said = done.result()
            print(said, flush=True)
            subprocess.run(["tar", "-C", work / "out", "-cf", out / f"{name}.tar", name], check=True)


@main.command()
@click.argument("found", type=Path)
@click.argument("target", type=Path)
def unpack(found: Path, target: Path) -> None:
    """The encoders in FOUND as folders that `encoder: imported` reads: TARGET/<name>/seed<k>."""
    from echolung.core.runtime import read_json, sha256_file, write_json

    for archive in sorted(found.glob("*.tar")):
        name, _, seed = archive.stem.rpartition("-")
        folder = target / name / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-C", folder, "--strip-components=1", "-xf", archive], check=True)
        halve(folder / "encoder.safetensors", torch.float32)
        record = read_json(folder / "encoder.json") | {"weights_sha256": sha256_file(folder / "encoder.safetensors")}
        write_json(folder / "encoder.json", record)
        print(folder)


if __name__ == "__main__":
    sys.exit(main())
