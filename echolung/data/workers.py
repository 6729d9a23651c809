"""Work in parallel processes: decoding and drawing."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import threadpoolctl

from echolung.core.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def as_done(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Generator[tuple[int, Result]]:
    """Yield (index of the item, `work(item)`) as items finish; in this process if one worker is enough.

    `work`, items and results must be picklable. Each process computes in one thread, leaves Ctrl-C to the caller and
    ends with it. Raises DataError if a process is killed.
    """
    count = min(workers, len(items))
    if count <= 1:
        with threadpoolctl.threadpool_limits(1):
            for place, item in enumerate(items):
                yield place, work(item)
        return
    pool = concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        futures = {pool.submit(work, item): place for place, item in enumerate(items)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        remedy = "Rerun with fewer `workers`: finished work is kept."
        raise DataError("a worker process was killed (out of memory?)", remedy) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
