"""The whole of params.yaml as one frozen record; each section's class stands beside the code it configures."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters
from echolung.data.ingest import IngestSettings
from echolung.data.splits import SplitSettings
from echolung.embedding.embed import EmbedSettings
from echolung.evaluation.compare import CompareSettings
from echolung.kinds.task import Task
from echolung.methods.novelty import NoveltySettings
from echolung.methods.probes.probe import ProbeSettings
from echolung.models.encoder import EncoderSettings
from echolung.phantom.settings import PhantomSettings
from echolung.pretraining.loop import PretrainSettings
from echolung.reports.settings import ReportSettings
from echolung.tracking.store import TrackingSettings


class InitialiseSettings(Parameters):
    """The arm `random`: untrained encoders, one per seed."""

    seeds: tuple[int, ...] = pydantic.Field(min_length=1)


class EmbedPair(Parameters):
    """One arm's encoders see one source's videos."""

    arm: str
    source: str


class EmbedStageSettings(EmbedSettings):
    """Which encoders see which sources; `random` is the arm of untrained ones."""

    arms: tuple[str, ...]
    """Every arm of the study, in the order of its tables."""
    pairs: dict[str, EmbedPair]
    """Each under the name `<arm>-<source>`; an arm pretrained on a source is best not scored on it."""

    def of_source(self, source: str) -> list[str]:
        """The arms that see this source, in the order of `arms`."""
        there = {pair.arm for pair in self.pairs.values() if pair.source == source}
        return [arm for arm in self.arms if arm in there]


class PromoteSettings(NoveltySettings):
    """The arm whose refitted probe stands for election as champion, and how readily it says that it knows no better."""

    arm: str


class Settings(Parameters):
    """params.yaml."""

    study: str = pydantic.Field(pattern=r"^[a-z][a-z0-9-]*$")
    workers: int = pydantic.Field(2, ge=1)
    """Processes that decode, draw and probe side by side on this machine."""
    public_sets: str = ""
    """The folder that holds the public sets' folders, where a study reads them; `ingest.sources` is made from it."""
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
        named |= {f"embed.pairs.{key}.source": pair.source for key, pair in self.embed.pairs.items()}
        for place, source in named.items():
            if source not in sources:
                raise ValueError(f"{place} is '{source}', which ingest.sources lacks (it has {sorted(sources)})")
        for arm in self.embed.arms:
            if arm not in arms:
                raise ValueError(f"arm '{arm}' is not 'random' and not one of pretrain.arms ({sorted(arms)})")
        for key, pair in self.embed.pairs.items():
            if key != f"{pair.arm}-{pair.source}":
                raise ValueError(f"embed.pairs.{key} must be named {pair.arm}-{pair.source}, after what it holds")
        for place, arm in (
            *((f"embed.pairs.{key}.arm", pair.arm) for key, pair in self.embed.pairs.items()),
            ("promote.arm", self.promote.arm),
            ("compare.reference", self.compare.reference),
            *(("compare.pretrained", arm) for arm in self.compare.pretrained),
        ):
            if arm not in self.embed.arms:
                raise ValueError(f"{place} is '{arm}', which embed.arms lacks (it has {list(self.embed.arms)})")
        for key, task in self.tasks.items():
            if self.compare.reference not in self.embed.of_source(task.source):
                raise ValueError(
                    f"tasks.{key}.source is '{task.source}', which no pair of embed.pairs shows to"
                    f" compare.reference = '{self.compare.reference}'"
                )
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

    def known_arm(self, task: str, arm: str) -> str:
        """`arm`; raises SettingsError if its encoders do not see the task's videos."""
        source = self.tasks[task].source
        if arm not in (arms := self.embed.of_source(source)):
            raise SettingsError(
                f"arm '{arm}' is not probed on {task}: embed.pairs has no {arm}-{source}",
                f"Arms of {task}: {', '.join(arms)}. Name one with --arm.",
            )
        return arm

    def seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm's encoders; raises SettingsError if there is no such arm."""
        if arm not in self.embed.arms:
            raise SettingsError(f"no arm '{arm}' in study {self.study}", f"It has: {', '.join(self.embed.arms)}.")
        return self.initialise.seeds if arm == "random" else self.pretrain.seeds

    def feature_stores(self, embed: Path) -> list[Path]:
        """The folders that the embed stage fills below `embed`, one per source, arm and seed."""
        return [
            embed / pair.source / pair.arm / f"seed{seed}"
            for pair in self.embed.pairs.values()
            for seed in self.seeds(pair.arm)
        ]

    def stages(self) -> list[str]:
        """The runs that make the study, as the tracking store names them: one per stage and item of dvc.yaml."""
        items: dict[str, Iterable[str]] = {
            "phantom": self.phantom,
            "ingest": self.ingest.sources,
            "split": self.tasks,
            "initialise": ["random"],
            "pretrain": self.pretrain.arms,
            "embed": self.embed.pairs,
            "probe": self.tasks,
        }
        return [*(f"{stage}@{item}" for stage, keys in items.items() for item in keys), "compare", "report"]

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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror})", "Restore it: git checkout params.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(
            f"{path} is not YAML: {' '.join(str(error).split())}", "Restore it: git checkout params.yaml"
        ) from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no parameters", "Restore it: git checkout params.yaml")
    return Settings.parse(values, str(path))
