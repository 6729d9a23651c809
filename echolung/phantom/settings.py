"""Settings of a phantom data set."""

from typing import Literal, Self

import pydantic

from echolung.core.parameters import Parameters

Layout = Literal["echonet", "echonet_pediatric", "camus", "pocus", "covid_blues"]


class PhantomSettings(Parameters):
    """A drawn data set in the layout of a public one."""

    layout: Layout
    patients: int = pydantic.Field(ge=1, le=100_000)
    videos_per_patient: int = pydantic.Field(1, ge=1, le=6)
    """The mean number for pocus, the exact number for covid_blues. Fixed for hearts: one in each view."""
    frames: int = pydantic.Field(40, ge=8, le=1000)  # mean of a video; the actual number varies by up to 20%
    fps: float = pydantic.Field(25.0, ge=5, le=100)  # of hearts; that of lungs depends on the source of the video
    size: int = pydantic.Field(128, ge=48, le=1024)
    """Height and width of hearts in pixels; the mean height of lungs, which varies with the source."""
    seed: int = pydantic.Field(0, ge=0)
    nuisance_tied_to_label: float = pydantic.Field(0.0, ge=0, le=1)
    """Share of the lung patients whose source (frame size, frame rate, container) follows from their diagnosis; all
    others get a random one. At 1 the diagnosis can be read without looking at the lung."""

    still_walls: float = pydantic.Field(0.0, ge=0, le=1)  # share of hearts (camus) with a wall that rests in beat two
    noise: float = pydantic.Field(0.0, ge=0, le=60)
    """dB by which the receiver is noisier: speckle that follows no tissue, most in the depth, over the same tissue."""

    @pydantic.model_validator(mode="after")
    def _fixed_for_hearts(self) -> Self:
        if self.still_walls and self.layout != "camus":
            raise ValueError(f"{self.layout} has no hearts with a still wall: leave still_walls at 0")
        if self.layout not in ("pocus", "covid_blues") and (self.videos_per_patient > 1 or self.nuisance_tied_to_label):
            problem = f"{self.layout} has one video per patient and view, and no diagnosis to tie a source to"
            raise ValueError(f"{problem}: leave videos_per_patient at 1 and nuisance_tied_to_label at 0")
        return self
