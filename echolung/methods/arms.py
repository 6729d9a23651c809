"""An arm: one row of `arms:` in the parameters, one way to an answer."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import pydantic

from echolung.core.parameters import Names, Parameters
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.methods.methods import METHODS

RANDOM, IMPORTED = "random", "imported"
"""`encoder: random`: untrained draws of the encoder. `encoder: imported`: weights from a file, which `shape` names."""


class Arm(Parameters):
    """Its method or methods, the encoder that makes their features, and what the arm is for."""

    method: Names
    """Keys of `METHODS`. The first that suits a task judges the arm there; others are reported beside it."""
    role: Literal["candidate", "reference", "control"]
    """candidate: compared with every reference, confirmatory. reference: what candidates must beat. control: shows what
    can be predicted without an encoder."""
    encoder: str | None = None
    """`random`, `imported`, or a key of `pretrain.encoders`; none for methods that read no features."""
    shape: dict[str, Any] = {}  # with `random` and `imported`: what differs from the parameter `encoder`
    seeds: tuple[int, ...] = ()
    """Left out: `pretrain.seeds` for a pretrained encoder, `draws` for random ones, one fit without an encoder."""
    settings: dict[str, dict[str, Any]] = {}  # by method: its parameters that differ from `fit.methods`
    sources: tuple[str, ...] = ()
    """Of the tasks that its methods suit, it takes part in those on these sources; in all if left out."""
    against: tuple[str, ...] = ()  # reference arms that a candidate is compared with; all of them if left out

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.method or len(set(self.method)) < len(self.method):
            raise ValueError("`method` lists each method once, and at least one")
        for name in self.method:
            if name not in METHODS:
                raise ValueError(f"no method '{name}'; there are {', '.join(METHODS)}")
            if METHODS[name].reads_tokens and self.encoder is None:
                raise ValueError(f"method '{name}' reads an encoder's features: name one with `encoder`")
        if unknown := set(self.settings) - set(self.method):
            raise ValueError(f"`settings` names {', '.join(sorted(unknown))}, which is no method of this arm")
        if self.shape and self.encoder not in (RANDOM, IMPORTED):
            raise ValueError("`shape` is for `encoder: random` and `imported`; a pretrained encoder has its own")
        if self.encoder == IMPORTED and not self.shape.get("weights"):
            raise ValueError("`encoder: imported` needs a file: shape: {kind: frames, model: ..., weights: FILE, ...}")
        if self.against and self.role != "candidate":
            raise ValueError("`against` is for candidates: other roles are not compared with chosen references")
        return self

    def methods(self, task: Task) -> list[str]:
        """Those that suit the task's kind; the first one judges the arm."""
        return [name for name in self.method if task.kind in METHODS[name].kinds]

    @property
    def pretrained(self) -> bool:
        return self.encoder not in (None, RANDOM, IMPORTED)


def baseline_of(task: Task) -> str:
    """The name of a task's baseline: arm and method."""
    return KINDS[task.kind].baseline


def in_task(arms: dict[str, Arm], task: Task, pools: Mapping[str, Collection[str]]) -> dict[str, Arm]:
    """The arms that take part in a task: a method suits it, the arm is meant for the source, and its encoder was not
    pretrained on it. `pools` maps a pretrained encoder to the sources of its pool."""
    return {
        name: arm
        for name, arm in arms.items()
        if arm.methods(task)
        and task.source in (arm.sources or (task.source,))
        and task.source not in pools.get(arm.encoder or "", ())
    }
