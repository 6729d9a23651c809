"""The section `report`, in a module that does not import the drawing library."""

from echolung.core.parameters import Parameters


class ReportSettings(Parameters):
    """What the report shows."""

    frames: bool = False
    """Sample frames of recorded videos. Most data sets do not permit it; phantoms are always shown."""
    arms: tuple[str, ...] = ()
    """The arms, for `dvc plots`: every plotted file has a column for each."""
