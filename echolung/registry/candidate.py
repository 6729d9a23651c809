"""Who stands for election: an arm named beforehand, its features, and its out-of-fold scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.core.errors import DataError, PromotionError
from echolung.core.runtime import derived_seed, digest
from echolung.data.splits import folds_digest
from echolung.embedding.features import Features
from echolung.evaluation.predictions import task_predictions
from echolung.evaluation.statistics import percentile_interval
from echolung.kinds import scores
from echolung.kinds.metrics import METRICS
from echolung.kinds.task import Task
from echolung.methods.novelty import NoveltySettings
from echolung.methods.probes.heads import Kind
from echolung.methods.probes.selection import ProbeSettings
from echolung.models.weights import load_encoder
from echolung.registry.rule import Evidence

CODE = (
    "echolung.methods.handmade",
    "echolung.methods.novelty",
    "echolung.methods.probes.probe",
    "echolung.methods.probes.selection",
    "echolung.methods.probes.heads",
    "echolung.serving.model",
)
"""Modules that fit the probe and what is usual, and write them down: a champion of other code is made anew."""


@dataclass(frozen=True)
class Candidate:
    """Who stands for election, and where the evidence lies."""

    study: str
    name: str
    """The task's."""
    task: Task
    arm: str
    seed: int
    """The arm's first: not chosen by score."""
    probe: Kind
    """The comparison's primary probe."""
    frame_size: int
    """Side of the clip store's frames, in pixels."""
    encoder: Path
    features: Path
    clips: Path
    """The clip store of the task's source."""
    folds: pd.DataFrame
    predictions: pd.DataFrame
    verdicts: pd.DataFrame
    """Of the comparison: what it says of every pair, in words."""
    majority: str = "majority"


@dataclass(frozen=True)
class Score:
    """One out-of-fold metric of the candidate, its 95% interval (patients resampled), and the majority class's."""

    estimate: float
    low: float
    high: float
    majority: float


def out_of_fold(candidate: Candidate, bootstrap: int) -> dict[str, Score]:
    """Scores of this arm and seed on the task's unit of decision, by metric.

    Raises DataError where the predictions break their contract, PromotionError where they lack the candidate.
    """
    rows = candidate.predictions
    rows = rows[rows["task"] == candidate.name]
    ours = (rows["arm"] == candidate.arm) & (rows["arm_seed"] == candidate.seed) & (rows["probe"] == candidate.probe)
    control = rows["arm"] == candidate.majority
    for kind, found in ((f"{candidate.arm} seed {candidate.seed} ({candidate.probe})", ours), ("majority", control)):
        if not found.any():
            raise PromotionError(
                f"{candidate.name} has no out-of-fold predictions of {kind}",
                f"Arms with predictions: {', '.join(sorted(set(rows['arm']))) or 'none'}. Run `dvc repro`.",
            )
    task = task_predictions(rows[ours | control], candidate.name, candidate.task)
    if set(rows["split_digest"]) != {folds_digest(candidate.folds)}:
        raise DataError(f"the predictions of {candidate.name} are of another split", "Run `dvc repro` first.")
    generator = np.random.default_rng(derived_seed("promotion", candidate.name))
    counts = scores.counts_of(task, bootstrap, generator)
    arm = scores.resampled(task, (candidate.arm, candidate.probe), counts).values
    majority = scores.resampled(task, (candidate.majority, "none"), counts).values
    return {
        metric: Score(
            float(arm[metric][0, 0]), *percentile_interval(arm[metric][0, 1:]), majority=float(majority[metric][0, 0])
        )
        for metric in METRICS
    }


def open_features(candidate: Candidate) -> Features:
    """The candidate's features, made by its encoder."""
    features = Features.open(candidate.features)
    record = load_encoder(candidate.encoder)[1]
    wanted = (candidate.arm, candidate.seed, record.weights_sha256)
    if (features.record.arm, features.record.seed, features.record.encoder_sha256) != wanted:
        raise DataError(
            f"{candidate.features} was not made by the encoder in {candidate.encoder}", "Run `dvc repro` first."
        )
    return features


def evidence_of(candidate: Candidate, features: Features, found: dict[str, Score]) -> Evidence:
    """What the rule looks at."""
    return Evidence(
        log_loss=found["log_loss"].estimate,
        balanced_accuracy=found["balanced_accuracy"].estimate,
        majority_log_loss=found["log_loss"].majority,
        chance=1 / len(candidate.task.classes),
        data_digest=data_digest(candidate, features),
        split_digest=folds_digest(candidate.folds),
    )


def data_digest(candidate: Candidate, features: Features) -> str:
    """Of the labelled videos (their names, contents and classes) and of what one decision is about."""
    rows = candidate.folds[candidate.folds["repeat"] == 0].sort_values("sample_id")
    contents = features.videos["sha256"].to_numpy()[features.positions(rows["sample_id"])]
    return digest([candidate.task.unit, *zip(rows["sample_id"], contents, rows["y"].tolist(), strict=True)])


def fingerprint_of(candidate: Candidate, features: Features, settings: ProbeSettings, usual: NoveltySettings) -> str:
    """Of everything that makes the model what it is, but for the code that fits it: `code_digest` of CODE."""
    return digest(
        {
            "study": candidate.study,
            "task": [candidate.name, candidate.task.model_dump(mode="json")],
            "arm": [candidate.arm, candidate.seed, candidate.probe],
            "features": features.record.key,
            "frame_size": candidate.frame_size,
            "data": data_digest(candidate, features),
            "split": folds_digest(candidate.folds),
            "settings": settings.model_dump(mode="json"),
            "outside": usual.false_alarms,
        }
    )
