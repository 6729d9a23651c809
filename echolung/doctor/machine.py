"""The machine: Python and its packages, FFmpeg, cores, memory, GPU, Ray, and the programs that a study calls"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from echolung.core.errors import EcholungError
from echolung.doctor.findings import Finding, wrong

GROUP = "machine"
PYTHONS = ((3, 11), (3, 13))
NEEDED = ("torch", "torchcodec", "mlflow", "ray", "dvc", "great-expectations", "safetensors", "timm")
"""Packages whose version decides whether a study runs at all; others of the lock matter less."""
REPAIR = "Install what requirements.lock says: ./bootstrap.sh"
REACHED_WITHIN = 2.0  # seconds


def python() -> Finding:
    """This interpreter, against those that the packages are locked for."""
    version = ".".join(map(str, sys.version_info[:3]))
    low, high = (".".join(map(str, pair)) for pair in PYTHONS)
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding(
            GROUP, "Python", "missing", f"{version}, and {low} to {high} are known to work", "Use one of them.", True
        )
    return Finding(GROUP, "Python", "ok", f"{version} ({sys.executable})")


def packages(root: Path) -> Finding:
    """The installed packages, against requirements.lock."""
    lock = root / "requirements.lock"
    if not lock.is_file():
        return Finding(
            GROUP, "packages", "warning", f"{lock} is not there", "Restore it: git checkout requirements.lock"
        )
    absent, other = [], []
    locked = _locked(lock.read_text())
    for name, version in locked.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        # A local build (2.15.0+cpu) is the same release.
        if installed.partition("+")[0] != version:
            other.append(f"{name} {installed} (locked: {version})")
    if lost := [name for name in absent if name in NEEDED]:
        return Finding(GROUP, "packages", "missing", f"not installed: {', '.join(lost)}", REPAIR, True)
    if absent or other:
        said = "; ".join(filter(None, [", ".join(other[:6]), f"not installed: {', '.join(absent[:6])}" * bool(absent)]))
        more = len(other[6:]) + len(absent[6:])
        return Finding(GROUP, "packages", "warning", said + (f"; and {more} more" if more else ""), REPAIR)
    main = ", ".join(f"{name} {locked[name]}" for name in ("torch", "mlflow", "ray", "dvc") if name in locked)
    return Finding(GROUP, "packages", "ok", f"{len(locked)} as locked ({main})")


def _locked(text: str) -> dict[str, str]:
    """Name -> version of a lock file, of the lines that hold for this interpreter and system."""
    from packaging.markers import Marker

    found = {}
    for line in text.splitlines():
        requirement, _, condition = line.partition(";")
        name, _, version = requirement.partition("==")
        if version and not line.startswith("#") and (not condition or Marker(condition).evaluate()):
            found[name.strip()] = version.strip()
    return found


def ffmpeg() -> Finding:
    """FFmpeg's libraries, without which no video is read or written."""
    from echolung.data.ffmpeg import require_ffmpeg

    try:
        return Finding(GROUP, "FFmpeg", "ok", f"version {require_ffmpeg()}")
    except EcholungError as error:
        return wrong(GROUP, "FFmpeg", error, blocks=True)


def processors(gpu_wanted: bool) -> list[Finding]:
    """Cores, memory and GPUs; a study whose parameters ask for a GPU cannot run without one."""
    import torch

    memory, cores, load = psutil.virtual_memory(), os.cpu_count() or 1, psutil.getloadavg()[0]
    said = f"{cores} cores, {memory.total / 2**30:.0f} GB of memory, {memory.available / 2**30:.1f} GB free"
    remedies = []
    if is_busy():
        said += f"; busy (load {load:.0f})"
        remedies.append("Other programs take the cores: a study, and what is said of its time, will be slow.")
    if memory.available < 3 * 2**30:
        remedies.append("A study at the scale `demo` takes up to 4 GB: close other programs.")
    found = [Finding(GROUP, "cores", "warning" if remedies else "ok", said, " ".join(remedies))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            used = free < 0.5 * total
            found.append(
                Finding(
                    GROUP,
                    "GPU",
                    "warning" if used else "ok",
                    f"{name}: {total / 2**30:.0f} GB, {free / 2**30:.0f} GB free",
                    "Another program holds half of it or more: see nvidia-smi." if used else "",
                )
            )
    elif gpu_wanted:
        found.append(
            Finding(
                GROUP,
                "GPU",
                "missing",
                "pretrain.compute.gpu asks for one and torch sees none",
                "Set pretrain.compute.gpu to false, or install a driver that torch can use (nvidia-smi).",
                True,
            )
        )
    else:
        found.append(Finding(GROUP, "GPU", "ok", "none: everything runs on the cores"))
    return found


def is_busy() -> bool:
    """Whether other programs leave a study less than its share of the cores."""
    return bool(psutil.getloadavg()[0] > 1.5 * (os.cpu_count() or 1))


def ray(deep: bool, workers: int) -> Finding:
    """Ray: here, or the cluster that RAY_ADDRESS names; `deep` starts it, or connects."""
    version = importlib.metadata.version("ray")
    address = os.environ.get("RAY_ADDRESS", "")
    where = f"cluster {address}" if address else "on this machine alone"
    if fault := _unreachable(address):
        return Finding(
            GROUP,
            "Ray",
            "missing",
            f"{version}: RAY_ADDRESS is {address}, and it does not answer ({fault})",
            "Start the cluster (ray start --head), or unset RAY_ADDRESS to run on this machine alone.",
            True,
        )
    if not deep:
        return Finding(GROUP, "Ray", "ok", f"{version}, {where} (not started: --deep does)")
    from echolung.compute.session import ray_session

    begun = time.monotonic()
    try:
        with ray_session(workers):
            pass
    except Exception as error:  # whatever Ray raises, it is what a study would meet
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        remedy = "Free /tmp and memory, or set RAY_TMPDIR to a folder with a short name."
        return Finding(GROUP, "Ray", "missing", f"{version} does not start: {line}", remedy, True)
    return Finding(GROUP, "Ray", "ok", f"{version}, {where}: started and stopped in {time.monotonic() - begun:.0f} s")


def _unreachable(address: str) -> str:
    """Why the head of a cluster does not answer, "" if it does or none is named by host and port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN).close()
    except OSError as error:
        return str(error.strerror or error)
    return ""


def programs(root: Path) -> list[Finding]:
    """Git and DVC: a study is run by one and its versions are kept by the other."""
    found = []
    beside = Path(sys.executable).parent / "dvc"
    if shutil.which("dvc"):
        found.append(Finding(GROUP, "DVC", "ok", importlib.metadata.version("dvc")))
    else:
        there = f": it is {beside}" if beside.exists() else ""
        found.append(
            Finding(
                GROUP,
                "DVC",
                "missing",
                f"`dvc` is not on the path{there}",
                f"source {beside.parent / 'activate'}" if there else REPAIR,
                True,
            )
        )
    if not shutil.which("git"):
        remedy = "Install it: apt-get install git"
        return [*found, Finding(GROUP, "Git", "missing", "`git` is not on the path", remedy, True)]
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    if told.returncode:
        remedy = "Clone the repository instead of copying its files, or: git init && git add -A && git commit -m start"
        return [*found, Finding(GROUP, "Git", "missing", f"{root} is no repository with a commit", remedy, True)]
    revision = told.stdout.strip()
    dirty = " with changes that are not committed" if revision.endswith("-dirty") else ""
    return [*found, Finding(GROUP, "Git", "ok", f"revision {revision.removesuffix('-dirty')}{dirty}")]
