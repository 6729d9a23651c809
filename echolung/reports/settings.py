"""The section `report`; apart from the page, so that reading parameters does not import the drawing library."""

from echolung.core.parameters import Parameters


class ReportSettings(Parameters):
    """What the report may show."""

    frames: bool = False
    """Sample frames of the videos: off unless their owner allows it, as most data sets do not."""
