"""Parameters of a phantom data set."""

from __future__ import annotations

from typing import Literal, Self, get_args

import pydantic

from echolung.core.parameters import Parameters

Layout = Literal["echonet", "echonet_pediatric", "pocus", "covid_blues"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


class PhantomSettings(Parameters):
    """A drawn data set, in the layout of a public one."""

    layout: Layout
    patients: int = pydantic.Field(ge=1, le=100_000)
    videos_per_patient: int = pydantic.Field(1, ge=1, le=6)
    """Videos of each patient; on average for pocus, exactly for covid_blues. Of hearts echonet has one, and
    echonet_pediatric one in each of two views."""
    frames: int = pydantic.Field(40, ge=8, le=1000)
    """Frames of a video on average; they differ by a fifth either way."""
    fps: float = pydantic.Field(25.0, ge=5, le=100)
    """Frames per second of hearts; lungs have their source's."""
    size: int = pydantic.Field(128, ge=48, le=1024)
    """Pixels of a side; of lungs on average, because sources differ."""
    seed: int = pydantic.Field(0, ge=0)
    nuisance_tied_to_label: float = pydantic.Field(0.0, ge=0, le=1)
    """Share of the lung patients whose source (frame size, rate and container) is given by their diagnosis; the others'
    is drawn without regard to it. 1 makes a data set that can be read without looking at a lung."""

    @pydantic.model_validator(mode="after")
    def _hearts_come_alone(self) -> Self:
        if not self.layout.startswith("echonet"):
            return self
        if self.videos_per_patient != 1:
            per = "patient and view" if self.layout == "echonet_pediatric" else "patient"
            raise ValueError(f"{self.layout} has one video per {per}: leave videos_per_patient at 1")
        if self.nuisance_tied_to_label:
            raise ValueError("hearts carry no diagnosis for nuisance_tied_to_label to tie")
        return self
