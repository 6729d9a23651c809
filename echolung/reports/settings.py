"""The section `report`; apart from the page, so that reading parameters does not import the drawing library."""

from echolung.core.parameters import Parameters


class ReportSettings(Parameters):
    """What the report shows."""

    frames: bool = False
    """Sample frames of recorded videos: off unless their licence allows it, as most do not. Drawn ones are shown."""
    arms: tuple[str, ...] = ()
    """Every arm, as `conf/config.yaml` lists them: the columns of `dvc plots`."""
