"""One seed of a pretrained encoder: what it trains on what, where, what decides its result, and its saved encoder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from echolung.core.errors import CheckpointError, DataError
from echolung.core.runtime import atomic_path, code_digest, digest, used_modules
from echolung.data.clips import ClipStore
from echolung.models.encoder import ClipSettings
from echolung.models.encoders import ENCODERS
from echolung.models.exchange import weights_digest
from echolung.models.weights import EncoderRecord, finite, load_encoder, read_record, save_encoder
from echolung.pretraining import checkpoint, loop
from echolung.pretraining.objectives import OBJECTIVES
from echolung.pretraining.settings import UNCHANGING, PretrainSettings, TrainingSettings

HISTORY = "history.csv"
NEUTRAL = {f"echolung.pretraining.{name}" for name in ("checkpoint", "objectives", "run", "settings")}
NEUTRAL |= {"echolung.models.encoders"}
"""Modules that cannot change a result: files and parameters, and the dicts that import every encoder and objective."""


@dataclass(frozen=True)
class SeedRun:
    """One seed of `settings.encoders[name]`; picklable, with absolute paths."""

    name: str
    settings: PretrainSettings
    encoder: ClipSettings
    pool: tuple[Path, ...]  # the clip stores it trains on
    seed: int
    directory: Path  # its checkpoint, and in the end its encoder
    root: Path = field(default_factory=Path.cwd)  # what a relative path of starting weights is relative to
    stop: Path | None = None  # a file that asks it to stop after the current step, once something is written in it

    @property
    def title(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def start(self) -> ClipSettings:
        """The encoder's settings, with the path of its starting weights absolute."""
        place = self.encoder.weights
        return self.encoder.model_copy(update={"weights": str(self.root / Path(place).expanduser()) if place else ""})

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
        """Everything that decides the result on a type of device, by default that of the settings; a run resumes only
        from a checkpoint of the same."""
        device = device or ("cuda" if self.settings.compute.gpu else "cpu")
        store = ClipStore.open(*self.pool)
        start = OBJECTIVES[self.objective].__module__, ENCODERS[self.encoder.kind].__module__
        parts = ("echolung.models.", "echolung.pretraining.", "echolung.data.clips")
        code = used_modules(*start, loop.__name__, within=parts, without=NEUTRAL)
        training = self.training.model_dump(mode="json", exclude=UNCHANGING)
        return {
            "objective": {"name": self.objective, **self.settings.objective(self.name).model_dump(mode="json")},
            "seed": self.seed,
            "encoder": self.encoder.model_dump(mode="json"),
            "start": weights_digest(self.start.weights) if self.encoder.weights else "",
            "training": training | {"precision": self.training.precision_on(device)},
            "code": code_digest(*code),
            "frames": {"size": store.size, "fingerprint": store.fingerprint},
            "videos": digest(store.identities()),
        }


def finish(run: SeedRun, on_metrics: loop.OnMetrics, device: torch.device | str, writes: bool = True) -> None:
    """Train to the end; one worker of a run `writes` the encoder and its history to `run.result`."""
    trained = loop.train(run, on_metrics, device)
    if not writes:
        return
    store = ClipStore.open(*run.pool)
    record = EncoderRecord(
        settings=run.encoder,
        arm=run.name,
        objective=run.objective,
        seed=run.seed,
        steps=run.training.steps,
        handed_on=trained.choice,
        trained_on=tuple(store.sha256(sample_id) for sample_id in store.sample_ids),
        trained_on_source=" + ".join(run.settings.encoders[run.name].pool),
        fingerprint=digest(run.fingerprint(torch.device(device).type)),
    )
    save_encoder(run.result, trained.encoder, record)
    with atomic_path(run.result / HISTORY) as temporary:
        trained.history.to_csv(temporary, index=False, lineterminator="\n")


def finished(run: SeedRun) -> bool:
    """Whether `run.result` holds, undamaged, the encoder of exactly these parameters, code and data."""
    try:
        return read_record(run.result).fingerprint == digest(run.fingerprint()) and bool(row(run))
    except (CheckpointError, DataError):
        return False


def outlook(run: SeedRun) -> str:
    """What the next call does, if there is a checkpoint: continue or start over, and why."""
    progress = checkpoint.read_progress(run.directory)
    if progress is None:
        return ""
    changed = checkpoint.differences(run.fingerprint(), progress.fingerprint)
    if changed:
        return f"{run.title}: starting over, because of {'; '.join(changed)}"
    return f"{run.title}: continuing from step {progress.step} of {run.training.steps}"


def row(run: SeedRun) -> dict[str, Any]:
    """What the gate checks, read back from `run.result`; raises CheckpointError or DataError if that is damaged."""
    encoder, record = load_encoder(run.result)
    try:
        history = pd.read_csv(run.result / HISTORY)
        loss, rank = history["loss"], history["effective_rank"].iloc[-1]
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{run.result / HISTORY} is damaged ({error})", "Run `dvc repro` again.") from None
    return {
        "seed": run.seed,
        "steps": record.steps,
        "loss_first": loss.iloc[0],
        "loss_last": loss.iloc[-1],
        "effective_rank": rank,
        "videos": len(record.trained_on),
        "finite": finite(encoder),
        "weights_sha256": record.weights_sha256,
    }
