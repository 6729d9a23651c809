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

UNKNOWN = "-"
WRITTEN = ("params.yaml", "dvc.lock", "README.md", "reports")
"""What DVC (`dvc exp run`) and `echolung publish` write into the working tree themselves: no code is changed by it."""


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
        kept = (f":(exclude){path}" for path in WRITTEN)
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
    """Machine, boot, process namespace, process id and start: names this process and no other, ever."""
    return " ".join([_machine(), _boot(), _namespace(), str(os.getpid()), _started(os.getpid())])


def gone(process: str) -> bool:
    """Whether the process that wrote this tag is certainly there no more.

    Of another machine, or of another container on this one, nothing is known: False. A machine that was restarted has
    none of its former processes.
    """
    try:
        machine, boot, namespace, pid, started = process.split()
    except ValueError:
        return False
    here = (boot, namespace) == (_boot(), _namespace()) and boot != UNKNOWN  # whatever the host is called by now
    if not here and machine != _machine():
        return False
    if boot != _boot():
        return True
    if namespace != _namespace():
        return False
    try:
        os.kill(int(pid), 0)  # signal 0 only asks
        return _started(int(pid)) != started
    except (ProcessLookupError, psutil.NoSuchProcess):
        return True
    except (OSError, ValueError, psutil.Error):  # it is there and somebody else's
        return False


def _machine() -> str:
    """Machines may share a host's name: on Linux its identity tells them apart."""
    return f"{socket.gethostname()}/{_first_line('/etc/machine-id')[:8]}"


def _boot() -> str:
    return _first_line("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    """Containers count processes for themselves."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return UNKNOWN


def _started(pid: int) -> str:
    """When a process started. Raises NoSuchProcess where it has ended and nobody has asked how.

    On Linux in ticks since boot: the time of day that psutil derives from them moves when the clock is set.
    """
    if not sys.platform.startswith("linux"):
        return f"{psutil.Process(pid).create_time():.0f}"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        # Hidden, where /proc shows everybody only their own; the caller knows that it is there.
        raise PermissionError(pid) from None
    if fields[0] in "ZX":
        raise psutil.NoSuchProcess(pid)
    return fields[19]


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().split()[0]
    except (OSError, IndexError):
        return UNKNOWN
