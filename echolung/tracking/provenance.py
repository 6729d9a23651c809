"""Where a result comes from, and whether the process that was making it still exists."""

import os
import socket
import subprocess
from pathlib import Path

import psutil

import echolung

WRITTEN = ("params.yaml", "dvc.lock", "README.md", "reports")  # a change in them is no change of the code


def provenance(root: Path) -> dict[str, str]:
    """Tags that say where this process's results come from: version, git revision, DVC stage and experiment.
    `git_revision` ends in "+changed" if tracked files differ from it."""
    tags = {"echolung_version": echolung.__version__}
    if revision := _git(root, "rev-parse", "HEAD"):
        kept = (f":(exclude){path}" for path in WRITTEN)
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *kept)
        tags["git_revision"] = revision + ("+changed" if changed else "")
    variables = {"dvc_stage": "DVC_STAGE", "dvc_experiment": "DVC_EXP_NAME"}
    return tags | {tag: os.environ[variable] for tag, variable in variables.items() if os.environ.get(variable)}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def process() -> str:
    """Host, process id and start time: identifies this process."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.1f}"


def gone(process: str) -> bool:
    """Whether the process that wrote this tag has ended. False if it ran on another host."""
    try:
        host, pid, started = process.split()
        if host != socket.gethostname():
            return False
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
