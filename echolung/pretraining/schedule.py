"""The learning rate over a run: linear warm-up, constant, linear cool-down to zero."""

from __future__ import annotations

from typing import Self

import pydantic

from echolung.core.parameters import Parameters


class ScheduleSettings(Parameters):
    """Length of a run in steps and its learning rate."""

    steps: int = pydantic.Field(gt=0)
    learning_rate: float = pydantic.Field(gt=0)
    warmup_steps: int = pydantic.Field(0, ge=0)
    warmup_from: float = pydantic.Field(0.1, ge=0, le=1)
    """Fraction of the learning rate at which the warm-up begins."""
    cooldown_steps: int = pydantic.Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps + self.cooldown_steps > self.steps:
            raise ValueError("warmup_steps and cooldown_steps together exceed steps")
        return self

    def rate(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1; it would reach zero at `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (self.warmup_from + (1 - self.warmup_from) * step / self.warmup_steps)
        left = self.steps - step
        return self.learning_rate * min(1.0, left / self.cooldown_steps if self.cooldown_steps else 1.0)
