"""Typed errors. Each says what is wrong and what to do about it; the command line prints both and exits with 1."""

from collections.abc import Iterable


class EcholungError(Exception):
    """Something that data, files, settings or users can cause.

    `problem` names the thing that is wrong (file, row, key); `remedy` says what to do next.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy
        super().__init__(" ".join(self.lines()))

    def lines(self) -> list[str]:
        """What is wrong, as a sentence, and what to do about it."""
        return [self.problem + ("" if self.problem.endswith("?") else "."), *([self.remedy] if self.remedy else [])]

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Errors cross process borders (decode workers, Ray trials): the default would rebuild them from `args`.
        return type(self), (self.problem, self.remedy)


class SettingsError(EcholungError):
    """A parameter is unknown, missing or out of range."""


class DataError(EcholungError):
    """A data folder, table or label is not as its layout says."""


class VideoError(EcholungError):
    """A video cannot be decoded or written."""


class GateError(EcholungError):
    """A validation suite failed; the stage hands nothing on."""


class CheckpointError(EcholungError):
    """A file of weights is damaged, belongs to another model, or was not written by EchoLung."""


class TrialError(EcholungError):
    """A distributed trial failed."""


class Stopped(EcholungError):
    """Work that ended before it was done, because it was asked to: the same command goes on with it."""

    exit_code = 75  # EX_TEMPFAIL: worth another call


class TrackingError(EcholungError):
    """The tracking store cannot be used."""


class RegistryError(EcholungError):
    """The model registry does not have what was asked for."""


class NoChampionError(RegistryError):
    """A task has no champion yet."""

    exit_code = 3


class PromotionError(EcholungError):
    """A candidate is not good enough to become champion: a result, not a failure, hence its own exit code."""

    exit_code = 3


class DiskError(EcholungError):
    """The disk is full or cannot be written to."""


class RequestError(EcholungError):
    """A served model was sent a request that it cannot answer."""


class DependencyError(EcholungError):
    """Something outside Python is missing, e.g. FFmpeg's libraries."""


class BusyError(EcholungError):
    """Another process is doing the same work."""


def listed(values: Iterable[object], most: int = 8) -> str:
    """`values` for a message: the first few, and how many more there are."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
