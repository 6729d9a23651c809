"""The candidate for promotion: an arm, the data it is refitted on, its out-of-fold scores, and the rule they must meet.

A first champion must have a lower loss than the task's baseline and beat the kind's bar (for classes, a balanced
accuracy above chance), a later one a lower loss than the champion on the same data and split.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError, PromotionError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed, digest
from echolung.data.splits import folds_digest
from echolung.embedding.recordings import Recordings
from echolung.evaluation.compare import resampled
from echolung.evaluation.statistics import percentile_interval
from echolung.kinds.kind import Kind
from echolung.kinds.kinds import kind_of
from echolung.kinds.predictions import units_of
from echolung.kinds.task import Task
from echolung.methods.fitting import content, feature_stores, refit_rows
from echolung.methods.methods import METHODS
from echolung.methods.novelty import NoveltySettings
from echolung.models.weights import read_record

RESET_REMEDY = "To compare with the baseline only, not with the champion, add --reset."


@dataclass(frozen=True)
class Score:
    """An out-of-fold metric of the candidate, its 95% interval (patients resampled), and the baseline's."""

    estimate: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Evidence:
    """Out-of-fold scores of a candidate, and what they were measured on."""

    metric: str  # label of the loss
    loss: float
    baseline_loss: float
    bar: Mapping[str, tuple[float, float]]  # label of a metric -> its value, and the value that it must exceed
    data_digest: str
    split_digest: str

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Evidence:
        """From the tag `evidence`, its fields as JSON; raises PromotionError if it is gone."""
        try:
            return cls(**json.loads(tags["evidence"]))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"the champion's tag 'evidence' is missing or damaged ({error})"
            raise PromotionError(problem, RESET_REMEDY) from None


@dataclass(frozen=True)
class Candidate:
    """An arm and the files of its study."""

    study: str
    name: str  # of the task
    task: Task
    arm: str
    seed: int  # the arm's first; not chosen by its score
    method: str
    settings: Parameters  # of the method
    fit_seed: int
    views: int
    frame_size: int  # side of the clip store's frames, in pixels
    encoder: Path | None
    data: Path  # data/<study>
    work: Path  # a folder for the fit in progress
    folds: pd.DataFrame
    decided_on: pd.DataFrame  # folds whose scores decide: `folds`, or with a test set those of its training rows
    predictions: pd.DataFrame  # of the folds that decide
    verdicts: pd.DataFrame

    @property
    def label(self) -> str:
        return f"{self.arm} seed {self.seed} ({self.method})"

    @property
    def kind(self) -> Kind:
        return kind_of(self.task)

    @property
    def training(self) -> pd.DataFrame:
        """The rows of `folds` that the model is fitted on."""
        return refit_rows(self.task, self.folds)

    @functools.cached_property
    def recordings(self) -> Recordings:
        """The task's recordings; raises DataError if their features were made by another encoder."""
        stores = feature_stores(self.data, self.task, self.arm, self.seed) if self.encoder else []
        found = Recordings.of_sources(self.data / "ingest", self.task.sources, stores)
        if self.encoder:
            weights = read_record(self.encoder).weights_sha256
            if any(features.record.encoder_sha256 != weights for features in found.features):
                raise DataError(f"the features of {self.arm} were not made by {self.encoder}", "Run `dvc repro` first.")
        return found

    @property
    def trained_on(self) -> tuple[str, ...]:
        """SHA-256 of the recordings that the model is fitted on."""
        read = METHODS[self.method].reads(self.task, self.recordings, self.training)
        return tuple(sorted(self.recordings.manifest(read)["sha256"].astype(str)))

    @functools.cached_property
    def data_digest(self) -> str:
        """Of the labelled recordings (names, contents, labels) and the unit of decision."""
        rows = self.folds[self.folds["repeat"] == 0].sort_values("sample_id")
        contents = self.recordings.manifest(list(rows["sample_id"]))["sha256"].astype(str)
        return digest([self.task.unit, *zip(rows["sample_id"], contents, rows["y"].tolist(), strict=True)])

    def fingerprint(self, novelty: NoveltySettings) -> str:
        """Of everything that makes the model what it is, except the code."""
        keys = [features.record.key for features in self.recordings.features] if self.encoder else []
        files = METHODS[self.method].files(self.settings)
        parts = {
            "task": [self.study, self.name, self.task.model_dump(mode="json")],
            "arm": [self.arm, self.seed, self.method, self.settings.model_dump(mode="json"), self.fit_seed],
            "input": [keys, files, self.views, self.frame_size],
            "data": [self.data_digest, content(self.data, self.task), folds_digest(self.folds)],
            "novelty": novelty.model_dump(mode="json"),
        }
        return digest(parts)

    def scores(self, bootstrap: int) -> dict[str, Score]:
        """Out-of-fold scores of this arm and seed, by metric.
        Raises DataError if the predictions are invalid or of another split, PromotionError if they lack the candidate,
        or if its encoder was pretrained on recordings that they score."""
        rows, baseline = self.predictions, self.kind.baseline
        own = (rows["arm"] == self.arm) & (rows["arm_seed"] == self.seed) & (rows["method"] == self.method)
        if not own.any():
            remedy = f"Arms with predictions: {', '.join(sorted(set(rows['arm']))) or 'none'}. Run `dvc repro`."
            raise PromotionError(f"{self.name} has no out-of-fold predictions of {self.label}", remedy)
        if set(rows["split_digest"]) != {folds_digest(self.decided_on)}:
            raise DataError(f"the predictions of {self.name} are of another split", "Run `dvc repro` first.")
        units = units_of(rows[own | (rows["arm"] == baseline)], self.name, self.task, self.kind)
        key, other = (self.arm, self.method), (baseline, baseline)
        if units.seen[key]:
            problem = f"the encoder of {self.arm} was pretrained on {units.seen[key]} of the recordings that score it"
            raise PromotionError(problem, "Promote an arm that was not.")
        counts = resampled(units, self.kind, bootstrap, derived_seed("promotion", self.name))
        arm, base = (self.kind.scores(units, one, counts).values for one in (key, other))
        found = {name: (arm[name][0], float(base[name][0, 0])) for name in self.kind.metrics}
        return {name: Score(float(a[0]), *percentile_interval(a[1:]), b) for name, (a, b) in found.items()}

    def evidence(self, scores: dict[str, Score]) -> Evidence:
        """What the rule looks at."""
        labels, loss = self.kind.metrics, scores[self.kind.loss]
        return Evidence(
            metric=labels[self.kind.loss].label,
            loss=loss.estimate,
            baseline_loss=loss.baseline,
            bar={labels[name].label: (scores[name].estimate, bar) for name, bar in self.kind.bar(self.task).items()},
            data_digest=self.data_digest,
            split_digest=folds_digest(self.decided_on),
        )


def decide(candidate: Evidence, champion: Evidence | None) -> list[str]:
    """Why the candidate is promoted; raises PromotionError saying why it is not."""
    if champion is None:
        found = [f"{candidate.metric} {candidate.loss:.4f}, baseline {candidate.baseline_loss:.4f}"]
        found += [f"{name} {value:.3f} (more than {bar:.3f} is needed)" for name, (value, bar) in candidate.bar.items()]
        # Comparisons with NaN are false.
        good = candidate.loss < candidate.baseline_loss and all(value > bar for value, bar in candidate.bar.values())
        if not good:
            problem = f"the candidate does not beat the baseline out of fold: {'; '.join(found)}"
            raise PromotionError(problem, "It needs more data or a better encoder.")
        return [f"out of fold: {'; '.join(found)}"]
    if (candidate.data_digest, candidate.split_digest) != (champion.data_digest, champion.split_digest):
        losses = f"their {candidate.metric} ({champion.loss:.4f}, {candidate.loss:.4f}) cannot be compared"
        problem = f"champion and candidate were scored on different data or splits, so that {losses}"
        raise PromotionError(problem, RESET_REMEDY)
    numbers = f"{candidate.metric} {candidate.loss:.4f}, champion {champion.loss:.4f}, on the same data and split"
    if not candidate.loss < champion.loss:
        raise PromotionError(f"the candidate is not better than the champion out of fold: {numbers}", RESET_REMEDY)
    return [f"out of fold: {numbers}"]
