"""The whole of params.yaml as one frozen record; each section's class stands beside the code it configures."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml

from echolung.data.ingest import IngestSettings
from echolung.data.phantom.settings import PhantomSettings
from echolung.data.splits import SplitSettings
from echolung.data.tasks import Task
from echolung.errors import SettingsError
from echolung.evaluation.compare import CompareSettings
from echolung.evaluation.embed import EmbedSettings
from echolung.evaluation.probe import ProbeSettings
from echolung.models.encoder import EncoderSettings
from echolung.parameters import Parameters
from echolung.pretraining.loop import PretrainSettings
from echolung.reports.settings import ReportSettings
from echolung.tracking.store import TrackingSettings


class InitialiseSettings(Parameters):
    """The arm `random`: untrained encoders, one per seed."""

    seeds: tuple[int, ...] = pydantic.Field(min_length=1)


class EmbedStageSettings(EmbedSettings):
    """Which encoders see which sources; `random` is the arm of untrained ones."""

    arms: tuple[str, ...]
    sources: tuple[str, ...]


class PromoteSettings(Parameters):
    """The arm whose refitted probe stands for election as champion."""

    arm: str


class Settings(Parameters):
    """params.yaml."""

    study: str = pydantic.Field(pattern=r"^[a-z][a-z0-9-]*$")
    workers: int = pydantic.Field(2, ge=1)
    """Processes that decode, draw and probe side by side on this machine."""
    phantom: dict[str, PhantomSettings] = {}
    ingest: IngestSettings
    tasks: dict[str, Task]
    split: SplitSettings
    encoder: EncoderSettings
    initialise: InitialiseSettings
    pretrain: PretrainSettings
    embed: EmbedStageSettings
    probe: ProbeSettings
    compare: CompareSettings
    promote: PromoteSettings
    report: ReportSettings = ReportSettings()
    tracking: TrackingSettings = TrackingSettings()

    @pydantic.model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        """What would otherwise fail hours into a study."""
        if self.encoder.width % self.probe.attention_head_width:
            raise ValueError(
                f"probe.attention_head_width = {self.probe.attention_head_width} does not divide"
                f" encoder.width = {self.encoder.width}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _names_exist(self) -> Self:
        """Every source and arm that is named is defined."""
        sources, arms = set(self.ingest.sources), {"random", *self.pretrain.arms}
        named = {f"tasks.{key}.source": task.source for key, task in self.tasks.items()}
        named |= {f"pretrain.arms.{key}.pool": arm.pool for key, arm in self.pretrain.arms.items()}
        named |= {f"embed.sources[{i}]": source for i, source in enumerate(self.embed.sources)}
        for place, source in named.items():
            if source not in sources:
                raise ValueError(f"{place} is '{source}', which ingest.sources lacks (it has {sorted(sources)})")
        for arm in self.embed.arms:
            if arm not in arms:
                raise ValueError(f"arm '{arm}' is not 'random' and not one of pretrain.arms ({sorted(arms)})")
        for place, arm in (
            ("promote.arm", self.promote.arm),
            ("compare.reference", self.compare.reference),
            *(("compare.pretrained", arm) for arm in self.compare.pretrained),
        ):
            if arm not in self.embed.arms:
                raise ValueError(f"{place} is '{arm}', which embed.arms lacks (it has {list(self.embed.arms)})")
        for key, task in self.tasks.items():
            if task.source not in self.embed.sources:
                raise ValueError(f"tasks.{key}.source is '{task.source}', which embed.sources lacks")
        if self.compare.primary_probe not in self.probe.kinds:
            raise ValueError(f"compare.primary_probe is '{self.compare.primary_probe}', which probe.kinds lacks")
        if unknown := sorted(set(self.compare.main_tasks) - set(self.tasks)):
            raise ValueError(f"compare.main_tasks names {unknown}, which tasks lacks")
        return self

    def known_task(self, task: str | None) -> str:
        """`task`, or the first one if None; raises SettingsError naming the nearest if the study has no such task."""
        if task is None:
            return next(iter(self.tasks))
        if task not in self.tasks:
            near = difflib.get_close_matches(task, self.tasks, n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise SettingsError(f"study {self.study} has no task '{task}'", f"{hint}It has: {', '.join(self.tasks)}.")
        return task

    def seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm's encoders; raises SettingsError if there is no such arm."""
        if arm not in self.embed.arms:
            raise SettingsError(f"no arm '{arm}' in study {self.study}", f"It has: {', '.join(self.embed.arms)}.")
        return self.initialise.seeds if arm == "random" else self.pretrain.seeds

    def section(self, stage: str, key: str = "") -> dict[str, Any]:
        """The parameters of one stage, as plain values for the tracking store."""
        everything = self.model_dump(mode="json")
        section = everything.get(stage, {})
        if stage in ("split", "probe"):
            section = {**section, "task": everything["tasks"].get(key, {})}
        if stage in ("pretrain", "initialise"):
            section = {**section, "encoder": everything["encoder"]}
        return dict(section)


def load(root: Path) -> Settings:
    """Read params.yaml in `root`; raises SettingsError naming every faulty key."""
    path = root / "params.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}", "Restore it: git checkout params.yaml") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no parameters", "Restore it: git checkout params.yaml")
    return Settings.parse(values, str(path))
