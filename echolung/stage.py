"""What every pipeline script needs: parameters, a lock, a tracked run, the gate, and one line per error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echolung.core.errors import DataError, EcholungError
from echolung.core.progress import Progress
from echolung.core.runtime import disk_error, exclusive, seed_everything

if TYPE_CHECKING:
    import pandas as pd

    from echolung.settings import Settings
    from echolung.tracking.run import Run
    from echolung.tracking.store import Store


PATIENCE = 15.0  # seconds that a stage of a new `dvc repro` waits for one that a killed DVC left behind


def project_root() -> Path:
    """The nearest folder, from the current one upwards, with dvc.yaml and params.yaml.
    DVC starts a stage there; DVC_ROOT is what an experiment's copy is made from. Raises DataError outside a project."""
    start = Path.cwd()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise DataError(f"{start} is not inside an EchoLung project", "Change to the folder that holds dvc.yaml.")


def project() -> tuple[Path, Settings]:
    """The project's folder and parameters."""
    from echolung.settings import load

    root = project_root()
    return root, load(root)


@dataclass(frozen=True)
class Stage:
    """One execution of a stage on one item: its paths, its tracked run and its gate."""

    name: str
    key: str
    root: Path
    settings: Settings
    store: Store
    run: Run
    began: float  # when `dvc repro` began, or the stage, if it was called by itself; seconds since 1970
    bars: contextlib.ExitStack  # closes progress bars before an error is told, so that nothing follows its last line

    def data(self, *parts: str) -> Path:
        """A path below data/<study>/."""
        return self.root.joinpath("data", self.settings.study, *parts)

    def scratch(self, *parts: str) -> Path:
        """A path for work in progress, which survives a killed stage; DVC does not know it."""
        return self.root.joinpath("data", f"{self.settings.study}-runs", *parts)

    @property
    def validation(self) -> Path:
        """Where the gates write their findings."""
        return self.root / "reports" / self.settings.study / "validation"

    def check(self, tables: dict[str, pd.DataFrame], **facts: Any) -> None:
        """Run this stage's validation suite and attach its findings to the run; raises GateError if it fails."""
        from echolung.gates.gate import check

        key = self.key or "all"
        try:
            check(self.name, key, tables, self.validation, **facts)
        finally:
            findings = self.validation / f"{self.name}-{key}.json"
            if findings.is_file():
                self.run.attach(findings, "validation")

    @contextlib.contextmanager
    def stopping(self, *parts: str, at_term: bool = False) -> Iterator[Path]:
        """A file in the scratch folder that asks work on any machine to stop, once something is written in it: when
        `stop_after` has passed and, with `at_term`, at SIGTERM; a second one ends the stage at once."""
        path, before = self.scratch(*parts, "stop").absolute(), signal.getsignal(signal.SIGTERM)
        end = self.began + (self.settings.stop_after or threading.TIMEOUT_MAX)
        limit = threading.Timer(end - time.time(), path.write_text, ["stop"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")  # from the start: a network disk remembers for a while that a file was not there

        def ask(*_: object) -> None:
            path.write_text("stop")
            signal.signal(signal.SIGTERM, before)

        limit.daemon = True
        limit.start()
        if at_term:
            signal.signal(signal.SIGTERM, ask)
        try:
            yield path
        finally:
            signal.signal(signal.SIGTERM, before)
            limit.cancel()

    def progress(self, label: str) -> Progress:
        """A progress bar that is closed with the stage."""
        return self.bars.enter_context(progress_bar(label))


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar, as a callable(done, total); one line every ten seconds where the output is a file."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(desc=label, mininterval=interval, delay=1e-3, smoothing=0.1, dynamic_ncols=True) as bar:

        def advance(done: float, total: int) -> None:
            bar.total, bar.n = total, int(done) if done == int(done) else round(done, 1)
            bar.update(0)
            if done >= total:
                bar.close()

        yield advance


@contextlib.contextmanager
def stage(name: str, key: str = "", lock: str = "", parameters: Mapping[str, Any] | None = None) -> Iterator[Stage]:
    """Run a stage's work: one process at a time per folder (per `lock`), recorded in the tracking store.
    The run ends as FINISHED, FAILED, or KILLED (Ctrl-C, SIGTERM, or the end of the DVC that started the stage)."""
    with exit_cleanly():
        began = _end_with_dvc()
        root, settings = project()
        from echolung.tracking import experiments
        from echolung.tracking.store import store

        title = lock or (f"{name}@{key}" if key else name)
        path = root / "data" / "locks" / f"{settings.study}-{title}.lock"
        work = f"a command that chooses the {lock}" if lock else f"stage {title}"
        with exclusive(path, work, PATIENCE if "DVC_STAGE" in os.environ else 1.0):
            seed_everything(0)
            tracking = store(root, settings.tracking)
            used = parameters or settings.section(name, key)
            recorded = experiments.stage_run(tracking, settings.study, name, key, used)
            with recorded as run, contextlib.ExitStack() as bars:
                yield Stage(name, key, root, settings, tracking, run, began, bars)


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn errors into one line with the remedy and an exit code: 75 for `Stopped`, 130 for Ctrl-C. SIGTERM and SIGHUP,
    unless handled or ignored (nohup), unwind the stack as Ctrl-C does: runs are closed, and Ray ends in order."""
    main = threading.current_thread() is threading.main_thread()
    ours = [one for one in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(one) == signal.SIG_DFL]

    def stop(*_: object) -> None:
        for one in ours:
            signal.signal(one, signal.SIG_IGN)  # a second signal must not interrupt the cleaning up
        raise KeyboardInterrupt  # Ray passes it on unchanged, unlike SystemExit

    for one in ours:
        signal.signal(one, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("echolung: stopped. Run the same command to continue.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        known = error if isinstance(error, EcholungError) else disk_error(error)
        if known is None:
            raise
        print("echolung: " + "\n".join(known.lines()), file=sys.stderr)
        sys.exit(known.exit_code)
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _end_with_dvc() -> float:
    """Stop this process when the DVC that started it ends: killed by SIGTERM, DVC leaves its stage running.
    Returns when that DVC began, or this process, if none started it."""
    import psutil

    if "DVC_STAGE" not in os.environ:
        return float(psutil.Process().create_time())

    def command(process: psutil.Process) -> str:
        try:
            return " ".join(process.cmdline())
        except psutil.Error:
            return ""

    # DVC starts a stage through a shell, whose command line names the script.
    dvc = next((parent for parent in psutil.Process().parents() if "pipelines." not in command(parent)), None)
    if dvc is None or (dvc.pid == 1 and "dvc" not in command(dvc)):  # it ended before we looked for it
        raise KeyboardInterrupt

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return float(dvc.create_time())
