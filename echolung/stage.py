"""What every pipeline script has in common: parameters, a lock, a tracked run, the gate, and one line per error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echolung.core.errors import DataError, EcholungError
from echolung.core.runtime import Progress, disk_error, exclusive, seed_everything

if TYPE_CHECKING:
    import pandas as pd

    from echolung.settings import Settings
    from echolung.tracking.run import StageRun
    from echolung.tracking.store import Store


PATIENCE = 15.0
"""Seconds that a stage of a new `dvc repro` waits for the one that a killed DVC has left to end."""


def project_root() -> Path:
    """The folder that holds dvc.yaml: where DVC runs the stage, or the nearest one above the current folder.

    Raises DataError outside a project.
    """
    start = Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise DataError(f"{start} is not inside an EchoLung project", "Change to the folder that holds dvc.yaml.")


@dataclass(frozen=True)
class Stage:
    """One execution of a stage on one item: where things are, and how its work is recorded and judged."""

    name: str
    key: str
    root: Path
    settings: Settings
    store: Store
    run: StageRun

    def data(self, *parts: str) -> Path:
        """A path below data/<study>/."""
        return self.root.joinpath("data", self.settings.study, *parts)

    def scratch(self, *parts: str) -> Path:
        """A path for work in progress that survives a killed stage; DVC does not know it."""
        return self.root.joinpath("data", f"{self.settings.study}-runs", *parts)

    @property
    def validation(self) -> Path:
        """Where the gates leave their findings."""
        return self.root / "reports" / self.settings.study / "validation"

    def check(self, tables: dict[str, pd.DataFrame], **facts: Any) -> None:
        """Run this stage's validation suite; raises GateError, and keeps the findings with the run either way."""
        from echolung.gates.gate import check

        name = f"{self.name}-{self.key or 'all'}"
        try:
            check(self.name, self.key or "all", tables, self.validation, **facts)
        finally:
            for suffix in ("json", "html"):
                if (self.validation / f"{name}.{suffix}").is_file():
                    self.run.attach(self.validation / f"{name}.{suffix}", "validation")

    def trial(self, arm: str, seed: int, resume_key: str) -> contextlib.AbstractContextManager[StageRun]:
        """The tracked run of one pretraining trial; the same `resume_key` again goes on in the same run."""
        from echolung.tracking import experiments

        section = self.settings.section(self.name, arm)
        return experiments.trial_run(self.store, self.settings.study, arm, seed, section, resume_key)

    def progress(self, label: str) -> Progress:
        """A progress bar with the time left, as a callable(done, total)."""
        return progress_bar(label)


def progress_bar(label: str) -> Progress:
    """A bar on the terminal; one line every ten seconds where the output is a file."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10.0
    bars: list[tqdm[Any]] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc=label, mininterval=interval, smoothing=0.1, dynamic_ncols=True))
        bar = bars[0]
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return advance


@contextlib.contextmanager
def stage(name: str, key: str = "") -> Iterator[Stage]:
    """Run a stage's work: one process at a time, recorded in the tracking store, errors as one line and exit code 1.

    The run ends FINISHED, FAILED, or KILLED by Ctrl-C, SIGTERM, or the death of the DVC that started the stage.
    """
    with exit_cleanly():
        _end_with_dvc()
        root = project_root()
        from echolung.settings import load
        from echolung.tracking import experiments
        from echolung.tracking.store import store

        settings = load(root)
        title = f"{name}@{key}" if key else name
        lock = root / "data" / "locks" / f"{settings.study}-{title}.lock"
        with exclusive(lock, f"stage {title}", PATIENCE if "DVC_STAGE" in os.environ else 0):
            seed_everything(0)
            tracking = store(root, settings.tracking)
            section = settings.section(name, key)
            with experiments.stage_run(tracking, settings.study, name, key, section) as run:
                yield Stage(name, key, root, settings, tracking, run)


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """The one place where errors become a line with the remedy and an exit code: 1, or 130 for Ctrl-C and SIGTERM."""
    try:
        yield
    except KeyboardInterrupt:
        print("echolung: stopped; call again to go on.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        told = error if isinstance(error, EcholungError) else disk_error(error)
        if told is None:
            raise
        print(f"echolung: {told.problem}.", file=sys.stderr)
        if told.remedy:
            print(told.remedy, file=sys.stderr)
        sys.exit(1)


def _end_with_dvc() -> None:
    """Stop this process when the `dvc` that started it ends: killed by SIGTERM, DVC leaves its stage running."""
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    parents = psutil.Process().parents()
    above = next((parent for parent in parents if "dvc" in " ".join(_command(parent)[:3])), None)
    if above is None:  # it was killed before this process could look for it
        raise KeyboardInterrupt

    def watch(process: psutil.Process) -> None:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=(above,), daemon=True).start()


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
