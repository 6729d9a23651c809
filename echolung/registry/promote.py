"""From candidate to champion: decided by the rule, refitted, registered with what must be known of it.

What is registered is the arm's probe, refitted by the inner selection procedure on all patients; the scores it carries
are out-of-fold scores of that procedure, not of these very weights, which no patient is left to test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echolung.core.errors import CheckpointError, PromotionError
from echolung.core.runtime import code_digest
from echolung.data.clips import ClipStore
from echolung.embedding.features import Features
from echolung.kinds.metrics import METRICS
from echolung.methods.novelty import Novelty, NoveltySettings, described_videos, fit_novelty
from echolung.methods.probes.probe import refit
from echolung.methods.probes.selection import ProbeSettings
from echolung.models.weights import read_record
from echolung.registry import models as registry
from echolung.registry.candidate import CODE, Candidate, Score, evidence_of, fingerprint_of, open_features, out_of_fold
from echolung.registry.rule import RESET_REMEDY, Evidence, decide
from echolung.registry.succession import crown, history, rolled_back
from echolung.serving.answers import words
from echolung.serving.model import Classifier, write_classifier
from echolung.tracking.provenance import provenance
from echolung.tracking.run import Run
from echolung.tracking.store import Store

FEW_PATIENTS = 100
"""Below this many patients a warning travels with the model: every interval is wide."""


@dataclass(frozen=True)
class Promotion:
    """What came of it."""

    outcome: Literal["promoted", "unchanged"]
    name: str
    """Of the registered model."""
    version: int
    reasons: list[str]
    warnings: list[str]
    outside: str
    """How far a video may lie from the training videos, and how often that says too much."""


def promote(
    store: Store,
    run: Run,
    candidate: Candidate,
    settings: ProbeSettings,
    usual: NoveltySettings,
    *,
    bootstrap: int = 2000,
    reset: bool = False,
) -> Promotion:
    """Refit and register the candidate and make it the champion, if the rule allows; `run` keeps the model.

    The present champion again is left as it is; after a rollback the present champion is the one that was gone back to,
    and the very model that was rolled back is turned away. With `reset` neither is asked about. Raises PromotionError,
    with the numbers, if the candidate has not earned the place; DataError if the evidence is not of one piece.
    """
    features = open_features(candidate)
    fingerprint = fingerprint_of(candidate, features, settings, usual)
    code = code_digest(*CODE)
    present = None if reset else registry.find_champion(store, candidate.study, candidate.name)
    same = present is not None and present.tags.get("fingerprint") == fingerprint
    anew = ""
    if present is not None and same:
        name = f"{candidate.arm} seed {candidate.seed}, on these data,"
        anew = _why_anew(present, code)
        if not anew:
            reasons, warnings = [f"{name} is the champion already"], present.tags["warnings"].splitlines()
            return Promotion("unchanged", present.name, present.number, reasons, warnings, present.tags["outside"])
        anew = f"{name} is the champion already, and was made anew: {anew}"
    _refuse_what_it_learnt_from(candidate, features)
    if present is not None and not same:
        _refuse_if_rolled_back(store, present.name, fingerprint, candidate.name)
    scores = out_of_fold(candidate, bootstrap)
    evidence = evidence_of(candidate, features, scores)
    # Measured against itself it would never be better.
    reasons = decide(evidence, Evidence.of_tags(present.tags) if present and not same else None)
    reasons = [anew, *reasons] if anew else reasons
    novelty = _novelty(candidate, features, usual)
    origin = provenance(store.root)
    warnings = _warnings(candidate, origin)
    if present is not None and not same:
        warnings.append(
            f"Chosen over version {present.number} by the very log-loss it carries: expect it to be a little too good."
        )
    tags = {
        **evidence.tags(),
        **_score_tags(scores),
        **_identity_tags(candidate, features),
        **{name: value for name, value in origin.items() if not name.startswith("mlflow.")},
        "fingerprint": fingerprint,
        "code": code,
        "reasons": "\n".join(reasons),
        "warnings": "\n".join(warnings),
        "outside": words(novelty.record),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / registry.FOLDER
        probe, fitted = refit(features, candidate.folds, candidate.name, candidate.task, settings, candidate.probe)
        write_classifier(folder, candidate.encoder, probe, fitted, novelty, candidate.study, candidate.frame_size)
        columns = Classifier.open(folder).record.columns
        card = _card(candidate, scores, reasons, [*warnings, tags["outside"]])
        version = registry.register(store, run, candidate.study, candidate.name, folder, columns, tags, card)
    crown(store, version, "promote")
    run.metrics({f"out_of_fold/{metric}": score.estimate for metric, score in scores.items()})
    run.metrics({"outside/false_alarm_rate": novelty.record.measured, "outside/threshold": novelty.record.threshold})
    return Promotion("promoted", version.name, version.number, reasons, warnings, tags["outside"])


def _why_anew(present: registry.Version, code: str) -> str:
    """Why a champion that the candidate would be again has to be fitted again; empty if it need not."""
    if present.tags.get("code") != code:
        return "other code fitted it"
    try:
        Classifier.open(present.classifier)
    except CheckpointError as error:
        return error.problem
    return ""


def _refuse_what_it_learnt_from(candidate: Candidate, features: Features) -> None:
    """An encoder that was pretrained on the videos it is scored on is measured on what it knows."""
    rows = candidate.folds[candidate.folds["repeat"] == 0]
    seen = set(features.record.seen_in_pretraining) & set(rows["sample_id"])
    if seen:
        raise PromotionError(
            f"{candidate.arm} was pretrained on {len(seen)} of the {len(rows)} videos that {candidate.name} scores it"
            " on: its scores are too good to be compared with anything",
            "Pretrain it on other videos, or promote another arm: --arm NAME.",
        )


def _refuse_if_rolled_back(store: Store, name: str, fingerprint: str, task: str) -> None:
    """Running the same commands again must not undo a rollback."""
    gone = rolled_back(history(store, name))
    for number, tags in registry.versions(store, name):
        if number in gone and tags.get("fingerprint") == fingerprint:
            raise PromotionError(
                f"this very model was champion as version {number} and was rolled back on {gone[number]}",
                f"To bring it back: `echolung rollback {task} --to {number}`. {RESET_REMEDY}",
            )


def _novelty(candidate: Candidate, features: Features, usual: NoveltySettings) -> Novelty:
    """What the videos that the probe was fitted on are like."""
    rows = candidate.folds[candidate.folds["repeat"] == 0]
    grid = read_record(candidate.encoder).settings.grid
    described = described_videos(features, ClipStore.open(candidate.clips), grid, rows["sample_id"])
    return fit_novelty(described, rows["split_group"].to_numpy(str), usual)


def _score_tags(scores: dict[str, Score]) -> dict[str, str]:
    """Every metric with its interval, under a name that says what kind of number it is."""
    return {
        f"out_of_fold_{metric}": f"{score.estimate:.4f} (95% interval {score.low:.4f} to {score.high:.4f})"
        for metric, score in scores.items()
    } | {"out_of_fold_scores_are": "of the procedure that made this model, not of these very weights"}


def _identity_tags(candidate: Candidate, features: Features) -> dict[str, str]:
    rows = candidate.folds[candidate.folds["repeat"] == 0]
    values = {
        "study": candidate.study,
        "task": candidate.name,
        "classes": ", ".join(candidate.task.classes),
        "unit": candidate.task.unit,
        "arm": candidate.arm,
        "arm_seed": candidate.seed,
        "probe": candidate.probe,
        "encoder_sha256": features.record.encoder_sha256,
        "features_key": features.record.key,
        "videos": len(rows),
        "patients": rows["patient_id"].nunique(),
    }
    return {name: str(value) for name, value in values.items()}


def _warnings(candidate: Candidate, origin: Mapping[str, str]) -> list[str]:
    """What whoever uses the model must know, whatever the rule decided."""
    found = ["Research use only; not a medical device."]
    verdicts = candidate.verdicts
    ours = verdicts[(verdicts["task"] == candidate.name) & (verdicts["arm"] == candidate.arm)]
    found += [
        f"Not shown to be better than {row.reference}: {row.text}"
        for row in ours.itertuples()
        if row.outcome != "better"
    ]
    rows = candidate.folds[candidate.folds["repeat"] == 0]
    patients = rows["patient_id"].nunique()
    if patients < FEW_PATIENTS:
        found.append(f"Fitted on {len(rows)} videos of {patients} patients: expect less elsewhere.")
    if origin.get("git_revision", "").endswith("+changed"):
        found.append("Made from uncommitted changes: the git revision does not describe the code.")
    return found


def _card(candidate: Candidate, scores: dict[str, Score], reasons: list[str], warnings: list[str]) -> str:
    """The description a person reads in the registry, in Markdown."""
    task = candidate.task
    lines = [
        f"Video files in, probabilities of {', '.join(task.classes)} out; one decision per {task.unit}.",
        "",
        f"A {candidate.probe} probe on the frozen encoder of arm `{candidate.arm}` (seed {candidate.seed}), refitted on"
        " all patients.",
        "",
        f"| out of fold, of the procedure, per {task.unit} (log-loss: mean over patients) | estimate | 95% interval"
        " | majority class |",
        "|---|---|---|---|",
        *(
            f"| {METRICS[metric].label} | {one.estimate:.3f} | {one.low:.3f} to {one.high:.3f} | {one.majority:.3f} |"
            for metric, one in scores.items()
        ),
        "",
        "Why it is here:",
        *(f"- {reason}" for reason in reasons),
        "",
        "Warnings:",
        *(f"- {warning}" for warning in warnings),
    ]
    return "\n".join(lines)
