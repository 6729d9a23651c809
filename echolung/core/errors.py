"""Typed errors. Each says what is wrong and what to do about it; the command line prints both and exits with 1."""


class EcholungError(Exception):
    """Something that data, files, settings or users can cause.

    `problem` names the thing that is wrong (file, row, key); `remedy` says what to do next.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy
        super().__init__(f"{self.problem}. {remedy}".strip())

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
    """A file of weights is damaged, of another model, or not ours."""


class TrialError(EcholungError):
    """A distributed trial failed."""


class TrackingError(EcholungError):
    """The tracking store cannot be used."""


class RegistryError(EcholungError):
    """The model registry does not hold what was asked for."""


class PromotionError(EcholungError):
    """A candidate has not earned the champion's place."""


class DiskError(EcholungError):
    """The disk is full, or refuses what is written to it."""


class RequestError(EcholungError):
    """A served model was sent something that it may not, or cannot, answer."""


class DependencyError(EcholungError):
    """Something outside Python that the work needs is missing (FFmpeg's libraries, say)."""


class BusyError(EcholungError):
    """Another process is doing this very work."""
