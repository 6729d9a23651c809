"""How far long work is, from where it happens to where it is shown."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Progress = Callable[[float, int], None]  # called as `progress(done, total)` while long work advances

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Within it, what this thread's work passes to `report` reaches `progress`."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def report(done: float, total: int) -> None:
    """Called by work too deep to be handed a `Progress`, such as the steps of one fit."""
    if listener := _listener.get():
        listener(done, total)
