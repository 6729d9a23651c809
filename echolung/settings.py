"""params.yaml as one frozen record; the class of each section is defined beside the code that it configures."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
import pydantic
import yaml

from echolung.compute.search import SearchSettings
from echolung.core.errors import SettingsError
from echolung.core.parameters import Key, Parameters, chosen, nearest
from echolung.data.ingest import IngestSettings
from echolung.data.splits import SplitSettings
from echolung.embedding.embed import EmbedSettings
from echolung.evaluation.compare import CompareSettings
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.methods.arms import IMPORTED, RANDOM, Arm, baseline_of, in_task
from echolung.methods.methods import METHODS
from echolung.methods.novelty import NoveltySettings
from echolung.models.encoder import ClipSettings
from echolung.models.encoders import ENCODERS
from echolung.phantom.settings import PhantomSettings
from echolung.pretraining.settings import PretrainSettings
from echolung.tracking.store import TrackingSettings


class FitSettings(Parameters):
    """How the methods are fitted."""

    seed: int = 0
    methods: Annotated[dict[str, Parameters], chosen(lambda: METHODS)] = {}  # by name; defaults where one is missing

    def of(self, method: str, changes: Mapping[str, Any] | None = None) -> Parameters:
        """The parameters of a method, with an arm's own changes."""
        found = self.methods.get(method) or METHODS[method].Settings()
        return METHODS[method].Settings.parse({**found.model_dump(), **changes}, method) if changes else found


class ReportSettings(Parameters):
    """What the report shows."""

    frames: bool = False  # sample frames of recorded videos: most sets do not permit it; phantoms are always shown
    arms: tuple[str, ...] = ()  # the arms, for `dvc plots`: every plotted file has a column for each


def _seconds(value: Any) -> Any:
    """11h, 90min; a number is seconds already."""
    return pd.Timedelta(f"{value}s" if value.isdigit() else value).total_seconds() if isinstance(value, str) else value


class Settings(Parameters):
    """params.yaml."""

    study: Key
    scale: str = ""  # the file of conf/scale that the parameters were composed from
    workers: int = pydantic.Field(2, ge=1)  # processes that decode, draw and fit side by side on this machine
    stop_after: Annotated[float | None, pydantic.BeforeValidator(_seconds)] = pydantic.Field(None, ge=1)
    """Time since `dvc repro` began (11h, 90min; a number is seconds) after which pretraining ends with a checkpoint and
    no other fit begins. The stage then exits with 75: call again."""
    public_sets: str = ""  # the folder that holds the public sets, for the `root` of sources that say so
    phantom: dict[Key, PhantomSettings] = {}
    ingest: IngestSettings
    tasks: dict[Key, Annotated[Task, chosen(lambda: KINDS, "kind")]] = pydantic.Field(min_length=1)
    split: SplitSettings
    encoder: Annotated[ClipSettings, chosen(lambda: ENCODERS, "kind")]  # the shape of encoders that name no other
    draws: tuple[int, ...] = pydantic.Field((0, 1, 2), min_length=1)  # seeds of untrained encoders
    pretrain: PretrainSettings
    search: dict[Key, SearchSettings] = {}  # searches for a pretraining recipe
    arms: dict[Key, Arm]
    embed: EmbedSettings
    fit: FitSettings = FitSettings()
    compare: CompareSettings = CompareSettings()
    promote: NoveltySettings = NoveltySettings()
    report: ReportSettings = ReportSettings()
    tracking: TrackingSettings = TrackingSettings()

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        """What would otherwise fail hours into a study."""
        sources = set(self.ingest.sources)
        named = {f"tasks.{key}": source for key, task in self.tasks.items() for source in task.sources}
        pools = {key: one.pool for key, one in self.pretrain.encoders.items()}
        named |= {f"pretrain.encoders.{key}.pool": source for key, pool in pools.items() for source in pool}
        named |= {f"embed.sources[{place}]": source for place, source in enumerate(self.embed.sources)}
        named |= {f"arms.{key}.sources": source for key, arm in self.arms.items() for source in arm.sources}
        for place, source in named.items():
            if source not in sources:
                raise ValueError(f"{place} names the source '{source}', but ingest.sources has {_listed(sources)}")
        for key, search in self.search.items():
            if search.encoder not in self.pretrain.encoders:
                known = _listed(self.pretrain.encoders)
                raise ValueError(f"search.{key}.encoder is '{search.encoder}'; there are {known}")
            read = self.tasks[search.readout].sources if search.readout in self.tasks else ["of no such task"]
            if search.readout is not None and not all(map(self.drawn, read)):
                raise ValueError(f"search.{key}.readout must be a task on drawn recordings: real labels are for scores")
        references = [name for name, arm in self.arms.items() if arm.role == "reference"]
        for name, arm in self.arms.items():
            if len(set(self.seeds(name))) < len(self.seeds(name)):
                raise ValueError(f"arms.{name} has a seed twice: {_listed(map(str, self.seeds(name)))}")
            for method, changes in arm.settings.items():
                self.fit.of(method, changes)
            if arm.pretrained and arm.encoder not in self.pretrain.encoders:
                known = _listed([RANDOM, IMPORTED, *self.pretrain.encoders])
                raise ValueError(f"arms.{name}.encoder is '{arm.encoder}', but the encoders are {known}")
            if arm.pretrained and not set(self.seeds(name)) <= set(self.pretrain.seeds):
                raise ValueError(f"arms.{name}.seeds are not all in pretrain.seeds")
            if unknown := sorted(set(arm.against) - set(references)):
                raise ValueError(f"arms.{name}.against names {_listed(unknown)}; reference arms: {_listed(references)}")
        for name in [*self.initial(), *self.pretrain.encoders]:
            self.shape(name)
        if clash := set(self.initial()) & set(self.pretrain.encoders):
            raise ValueError(f"{_listed(clash)} names an arm of random encoders and a pretrained encoder")
        if not any(arm.encoder == RANDOM for arm in self.arms.values()):
            raise ValueError(f"no arm has `encoder: {RANDOM}`: without one nothing shows what pretraining adds")
        for key, task in self.tasks.items():
            if baseline_of(task) in self.arms:
                raise ValueError(f"arms.{baseline_of(task)} is the baseline of {key}, which every task has anyway")
            if not any(name in references for name in self.arms_of(key)):
                raise ValueError(f"no reference arm has a method for tasks.{key} (kind {task.kind})")
        needed = sorted({source for key in self.tasks if self.encoders_of(key) for source in self.tasks[key].sources})
        if needed != sorted(self.embed.sources):
            raise ValueError(f"embed.sources must list the sources that tasks read: [{', '.join(needed)}]")
        if self.report.arms and list(self.report.arms) != list(self.arms):
            raise ValueError(f"report.arms must list the arms: [{', '.join(self.arms)}]")
        return self

    def drawn(self, source: str) -> bool:
        """Whether the study draws this source itself."""
        place = Path("data", "raw", self.study, source)
        return source in self.phantom and self.ingest.sources[source].root == place

    def copied(self, task: Task) -> float:
        """The similarity above which two of the task's recordings are one: 1, the same file, where the study draws all,
        because no heart is drawn twice and all look alike."""
        return 1.0 if all(map(self.drawn, task.sources)) else self.split.near_duplicate

    def shape_in(self, pretrain: PretrainSettings) -> ClipSettings:
        """The shape of the one encoder of other settings."""
        (encoder,) = pretrain.encoders
        return self.model_copy(update={"pretrain": pretrain}).shape(encoder)

    def shape(self, encoder: str) -> ClipSettings:
        """The settings of an encoder: a key of `pretrain.encoders`, or an arm with `encoder: random`.
        Its `shape` overrides the parameter `encoder`; one of another kind is complete in itself."""
        own = self.pretrain.encoders[encoder].shape if encoder in self.pretrain.encoders else self.arms[encoder].shape
        kind = own.get("kind", self.encoder.kind)
        if kind not in ENCODERS:
            raise ValueError(f"the shape of encoder '{encoder}' has kind '{kind}'; there are {_listed(ENCODERS)}")
        values = {**(self.encoder.model_dump(mode="json") if kind == self.encoder.kind else {}), **own}
        return ENCODERS[kind].Settings.parse(values, f"the shape of encoder '{encoder}'")

    def initial(self) -> dict[str, tuple[ClipSettings, tuple[int, ...]]]:
        """Arm -> shape and seeds, of every arm whose encoders are random draws or come from a file."""
        arms = [name for name, arm in self.arms.items() if arm.encoder in (RANDOM, IMPORTED)]
        return {name: (self.shape(name), self.seeds(name)) for name in arms}

    def encoder_of(self, arm: str) -> str | None:
        """The folder below data/<study>/encoders that holds an arm's encoders; None for an arm without."""
        encoder = self.arms[arm].encoder
        folder = f"initial/{arm}" if encoder in (RANDOM, IMPORTED) else f"pretrained/{encoder}"
        return folder if encoder else None

    def seeds(self, arm: str) -> tuple[int, ...]:
        chosen = self.arms[arm]
        if chosen.pretrained:
            return chosen.seeds or self.pretrain.seeds
        return chosen.seeds or (self.draws if chosen.encoder == RANDOM else (0,))

    def arms_of(self, task: str) -> dict[str, Arm]:
        """The arms that take part in a task, in the order of the tables."""
        pools = {key: one.pool for key, one in self.pretrain.encoders.items()}
        return in_task(self.arms, self.tasks[task], pools)

    def encoders_of(self, task: str) -> list[str]:
        """The arms of a task that have encoders."""
        return [name for name, arm in self.arms_of(task).items() if arm.encoder is not None]

    def fits(self, task: str) -> list[tuple[str, str, int]]:
        """(arm, method, seed) of every fit of a task, the baseline's included."""
        spec = self.tasks[task]
        methods = [(name, method) for name, arm in self.arms_of(task).items() for method in arm.methods(spec)]
        found = [(name, method, seed) for name, method in methods for seed in self.seeds(name)]
        return [*found, (baseline_of(spec), baseline_of(spec), 0)]

    def of_method(self, arm: str, method: str) -> Parameters:
        """The parameters of an arm's method."""
        return self.fit.of(method, self.arms[arm].settings.get(method) if arm in self.arms else None)

    def embedded(self, source: str) -> list[str]:
        """The arms whose encoders see a source: those of the tasks that read it."""
        wanted = {name for key, task in self.tasks.items() if source in task.sources for name in self.encoders_of(key)}
        return [name for name in self.arms if name in wanted]

    def known_task(self, task: str | None) -> str:
        """`task`, or the first one if None; raises SettingsError naming the nearest if the study has no such task."""
        if task is None:
            return next(iter(self.tasks))
        if task not in self.tasks:
            hint = nearest(task, self.tasks, "Did you mean '{}'? ")
            raise SettingsError(f"study {self.study} has no task '{task}'", f"{hint}It has: {', '.join(self.tasks)}.")
        return task

    def known_arm(self, task: str, arm: str | None) -> str:
        """`arm`, or the task's first candidate if None; raises SettingsError if it does not take part in the task."""
        arms = self.arms_of(task)
        if arm is None:
            return next((name for name in arms if arms[name].role == "candidate"), next(iter(arms)))
        if arm not in arms:
            remedy = f"Arms of {task}: {', '.join(arms)}. Name one with --arm."
            raise SettingsError(f"arm '{arm}' takes no part in {task}", remedy)
        return arm

    def section(self, stage: str, key: str = "") -> dict[str, Any]:
        """The parameters of one stage, as plain values for the tracking store."""
        everything = self.model_dump(mode="json")
        section = dict(everything.get(stage, {}))
        if stage in ("split", "fit"):
            section["task"] = everything["tasks"].get(key, {})
        if stage == "fit":
            section["arms"] = everything["arms"]
        if stage == "search":
            section = section[key] | {"pretrain": everything["pretrain"]["encoders"][section[key]["encoder"]]}
        if stage == "pretrain" and key in self.pretrain.encoders:
            own = section["encoders"][key]
            section["encoders"], used = {key: own}, own["objective"]
            section["objectives"] = {used: section["objectives"].get(used, {})}
            section["encoder"] = self.shape(key).model_dump(mode="json")
        return section


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def load(root: Path) -> Settings:
    """Read params.yaml in `root`; raises SettingsError naming every faulty key."""
    path, remedy = root / "params.yaml", "Restore it: git checkout params.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}", remedy) from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no parameters", remedy)
    return Settings.parse(values, str(path))
