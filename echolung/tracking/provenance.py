"""Where a result comes from, and whether the process that was making it is still there."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

import echolung


def provenance(root: Path) -> dict[str, str]:
    """Where this process's results come from: git revision, DVC stage and experiment, package version, command."""
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "echolung_version": echolung.__version__,
    }
    revision = _git(root, "rev-parse", "HEAD")
    if revision:
        # DVC writes these two as it runs, and keeps them with what it made: they do not change the code.
        kept = (":(exclude)params.yaml", ":(exclude)dvc.lock")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *kept)
        tags["mlflow.source.git.commit"] = revision
        tags["git_revision"] = revision + ("+changed" if changed else "")
    for tag, variable in (("dvc_stage", "DVC_STAGE"), ("dvc_experiment", "DVC_EXP_NAME")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def process() -> str:
    """Host, process id and start time: names this process and no later one that is given the same id."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def gone(process: str) -> bool:
    """Whether the process that wrote this tag ran here and is there no more."""
    try:
        host, pid, started = process.split()
    except ValueError:
        return False
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != started
    except psutil.Error:
        return True
