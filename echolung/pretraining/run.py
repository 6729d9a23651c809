"""One seed of a pretrained encoder: what it trains on what, where, and everything that decides its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echolung.core.runtime import code_digest, digest, used_modules
from echolung.data.clips import ClipStore
from echolung.models.encoder import ClipSettings
from echolung.models.encoders import ENCODERS
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.settings import UNCHANGING, PretrainSettings, TrainingSettings

NEUTRAL = {
    "echolung.models.encoders",
    "echolung.pretraining.checkpoint",
    "echolung.pretraining.objectives",
    "echolung.pretraining.run",
    "echolung.pretraining.settings",
}
"""Modules that cannot change a result: files and parameters, and the dicts that import every encoder and objective."""


@dataclass(frozen=True)
class SeedRun:
    """One seed of `settings.encoders[name]`; picklable, with absolute paths."""

    name: str
    settings: PretrainSettings
    encoder: ClipSettings
    pool: Path
    """The clip store it trains on."""
    seed: int
    directory: Path
    """Its checkpoint, and in the end its encoder."""

    @property
    def title(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def objective(self) -> str:
        return self.settings.encoders[self.name].objective

    @property
    def training(self) -> TrainingSettings:
        return self.settings.of(self.name)

    @property
    def result(self) -> Path:
        """The finished encoder and its history; kept, so that a deleted stage output costs no training."""
        return self.directory / "encoder"

    def fingerprint(self, device: str | None = None) -> dict[str, Any]:
        """Everything that decides the result; a run resumes from a checkpoint only if it is unchanged.

        The type of device, cuda or cpu, is by default the one that the settings ask for.
        """
        from echolung.pretraining import loop  # which imports this module

        device = device or ("cuda" if self.settings.compute.gpu else "cpu")
        store = ClipStore.open(self.pool)
        start = OBJECTIVES[self.objective].__module__, ENCODERS[self.encoder.kind].__module__
        parts = ("echolung.models.", "echolung.pretraining.", "echolung.data.clips")
        code = used_modules(*start, loop.__name__, within=parts, without=NEUTRAL)
        training = self.training.model_dump(mode="json", exclude=UNCHANGING)
        return {
            "objective": {"name": self.objective, **self.settings.objective(self.name).model_dump(mode="json")},
            "seed": self.seed,
            "encoder": self.encoder.model_dump(mode="json"),
            "training": training | {"precision": self.training.precision_on(device)},
            "code": code_digest(*code),
            "frames": {"size": store.size, "fingerprint": store.fingerprint},
            "videos": digest([(sample_id, store.sha256(sample_id)) for sample_id in store.sample_ids]),
        }
