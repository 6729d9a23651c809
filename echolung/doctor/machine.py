"""The machine: Python and its packages, FFmpeg, GPU, Ray, Git and the disk"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from echolung.core.errors import EcholungError
from echolung.doctor.findings import Finding

ROOM = 5.0  # GB that should be free: the demo leaves about 1 GB, the lung study at the scale `laptop` about 3
SECONDS = 2.0  # within which a Ray cluster must answer


def python(root: Path) -> Finding:
    """Whether `echolung`, `python` and `dvc` are those of this folder and of one environment."""
    import echolung

    code, here = Path(echolung.__file__).parents[1], Path(sys.executable).parent
    if (root / "echolung").is_dir() and not code.samefile(root):
        said = f"`echolung` runs the code of {code}, not of {root}"
        return Finding("Python", "error", said, "Run ./bootstrap.sh")
    for program in ("python", "dvc"):
        found = shutil.which(program)
        if found is None or not Path(found).parent.samefile(here):
            said = f"`{program}` is {found or 'not on the path'}; stages need that of {here}"
            return Finding("Python", "error", said, f"source {shlex.quote(str(here / 'activate'))}")
    return Finding("Python", "ok", f"{sys.version.split()[0]} in {here.parent}")


def ffmpeg() -> Finding:
    """FFmpeg's libraries, without which no video is read or written."""
    from echolung.data.ffmpeg import require_ffmpeg

    try:
        return Finding("FFmpeg", "ok", f"version {require_ffmpeg()}")
    except EcholungError as error:
        return Finding("FFmpeg", "error", error.problem, error.remedy)


def gpu(wanted: bool) -> Finding:
    """The GPUs; a study that asks for one cannot run without."""
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))))
    if wanted:
        remedy = "Set pretrain.compute.gpu to false, or install a driver that torch can use (nvidia-smi)."
        return Finding("GPU", "error", "pretrain.compute.gpu asks for one, and torch finds none", remedy)
    return Finding("GPU", "ok", "none; the study runs on the CPU")


def ray() -> Finding:
    """Ray on this machine, or the cluster of RAY_ADDRESS, which must answer."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        remedy = "Start the cluster of RAY_ADDRESS (ray start --head), or: unset RAY_ADDRESS"
        return Finding("Ray", "error", f"{address} does not answer: {error}", remedy)
    return Finding("Ray", "ok", address or "on this machine")


def git(root: Path) -> list[Finding]:
    """A repository with a commit, and a user with a name and an address, whom `dvc exp run` needs."""
    if not shutil.which("git"):
        return [Finding("Git", "error", "`git` is not on the path", "apt-get install git")]
    head = _git(root, "log", "-1", "--format=%h")
    if head.returncode:
        said, _, remedy = " ".join(head.stderr.split()).partition(" call: ")  # for a repository of another user
        remedy = remedy or "Clone the project, or: git init && git add -A && git commit -m start"
        return [Finding("Git", "error", said, remedy)]
    found = [Finding("Git", "ok", f"revision {head.stdout.strip()}")]
    for key, example in (("name", '"Your Name"'), ("email", "you@example.org")):
        if not _git(root, "config", f"user.{key}").stdout and f"GIT_AUTHOR_{key.upper()}" not in os.environ:
            said = f"git has no user.{key}, which `dvc exp run` needs"
            found.append(Finding("Git user", "error", said, f"git config --global user.{key} {example}"))
    return found


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = ["git", "-C", str(root), *arguments], {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def folders(root: Path) -> Finding:
    """Where stages write: inside the repository, as DVC demands, and with some room left."""
    for name in ("data", "reports"):
        if not (root / name).resolve().is_relative_to(root.resolve()):
            said = f"{name} is a link to {(root / name).resolve()}, and DVC does not write outside the repository"
            return Finding("disk", "error", said, "Move the whole project to the larger disk and link to that.")
    free = shutil.disk_usage(root).free / 2**30
    if free < ROOM:
        return Finding("disk", "warning", f"{free:.1f} GB free", "Free some space before a longer run.")
    return Finding("disk", "ok", f"{free:.0f} GB free")
