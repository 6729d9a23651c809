"""The section `pretrain` of the parameters."""

from typing import Annotated, Any, Literal, Self

import pydantic

from echolung.core.parameters import Key, Names, Parameters, chosen
from echolung.models.encoder import in_bf16
from echolung.pretraining.objectives import OBJECTIVES


class PretrainedEncoder(Parameters):
    """One pretrained encoder: what it learns, from which source, and where it differs from the others."""

    objective: str  # name in OBJECTIVES
    pool: Names = pydantic.Field(min_length=1)  # the source, or sources, whose recordings it sees
    shape: dict[str, Any] = {}  # overrides of the section `encoder`
    training: dict[str, Any] = {}  # overrides of `pretrain.training`
    settings: dict[str, Any] = {}  # overrides of the settings of its objective, in `pretrain.objectives`


class TrainingSettings(Parameters):
    """One run of the training loop. The learning rate warms up linearly, is constant, and cools down to zero."""

    steps: int = pydantic.Field(gt=0)
    learning_rate: float = pydantic.Field(gt=0)
    warmup_steps: int = pydantic.Field(0, ge=0)
    warmup_from: float = pydantic.Field(0.1, ge=0, le=1)  # fraction of the learning rate at which the warm-up begins
    cooldown_steps: int = pydantic.Field(0, ge=0)
    batch: int = pydantic.Field(gt=0)  # clips per step, over all workers
    weight_decay: float = pydantic.Field(0.04, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_gradient: float | None = pydantic.Field(None, gt=0)  # largest norm of the gradient; null does not limit it
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bfloat16 on a GPU and on CPUs with bfloat16 instructions, where it is about twice as fast; else float32."""
    held_out: float = pydantic.Field(0.1, ge=0, lt=1)
    """Share of the pool's videos (not patients), rounded down, that are not trained on. Their loss is measured with the
    rank."""
    # The rest cannot change the weights that come out (UNCHANGING).
    rank_clips: int = pydantic.Field(64, gt=1)  # clips on which the effective rank is measured
    log_every: int = pydantic.Field(10, gt=0)
    rank_every: int = pydantic.Field(50, gt=0)
    checkpoint_every: int = pydantic.Field(50, gt=0)
    loaders: int = pydantic.Field(0, ge=0)
    """Processes per worker that prepare clips; 0 prepares them in the worker itself."""

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

    def precision_on(self, device: str) -> str:
        """bf16 or float32, for a device of type cuda or cpu."""
        return "bf16" if in_bf16(self.precision, device) else "float32"


UNCHANGING = {"rank_clips", "log_every", "rank_every", "checkpoint_every", "loaders"}


class ComputeSettings(Parameters):
    """Where runs are computed; changes results by no more than rounding."""

    workers: int = pydantic.Field(default=1, gt=0)  # workers of one run, each with its own part of the batch
    cpus_per_worker: int = pydantic.Field(default=1, gt=0)
    gpu: bool = False  # one GPU per worker
    compile: bool = False
    """torch.compile the blocks of video ViT and predictor: a minute at first, then faster steps on a GPU."""


class PretrainSettings(Parameters):
    """The section `pretrain`."""

    encoders: dict[Key, PretrainedEncoder] = {}
    seeds: tuple[int, ...] = pydantic.Field((0,), min_length=1)  # one run of every encoder for each
    training: TrainingSettings
    objectives: Annotated[dict[str, Parameters], chosen(lambda: OBJECTIVES)] = {}
    """Settings of the objectives, by name; defaults for one that is missing."""
    compute: ComputeSettings = ComputeSettings()

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        for name in self.encoders:
            self.objective(name)
            if (batch := self.of(name).batch) % self.compute.workers:
                raise ValueError(f"a batch of {batch} ({name}) does not divide among {self.compute.workers} workers")
        return self

    def of(self, name: str) -> TrainingSettings:
        """The training settings of one encoder, its overrides merged."""
        values = self.training.model_dump() | self.encoders[name].training
        return TrainingSettings.parse(values, f"pretrain.encoders.{name}.training")

    def objective(self, name: str) -> Parameters:
        """The settings of one encoder's objective, its overrides merged; defaults for what neither sets."""
        own = self.encoders[name]
        shared = self.objectives[own.objective].model_dump() if own.objective in self.objectives else {}
        settings = chosen(lambda: OBJECTIVES, "objective").settings(own.objective)
        return settings.parse(shared | own.settings, f"pretrain.encoders.{name}.settings")
