"""Promotion: the rule decides, the method is refitted on all patients, and the model is registered as champion.

The scores that a version carries are out-of-fold scores of the procedure; no patient is left to test the very model.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from echolung.core.errors import PromotionError
from echolung.methods.fitting import refit
from echolung.methods.novelty import NoveltySettings, describe, fit_novelty
from echolung.registry import models as registry
from echolung.registry.candidate import RESET_REMEDY, Candidate, Evidence, Score, decide
from echolung.serving.answers import words
from echolung.serving.model import Model, ModelRecord, write_model
from echolung.tracking.provenance import provenance
from echolung.tracking.run import Run
from echolung.tracking.store import Store

FEW_PATIENTS = 100  # below this a warning travels with the model: every interval is wide


@dataclass(frozen=True)
class Promotion:
    """What was done, and the champion; its tags `warnings` and `outside` are for people."""

    outcome: Literal["promoted", "unchanged"]
    version: registry.Version
    reasons: list[str]


def promote(
    store: Store, run: Run, candidate: Candidate, novelty_settings: NoveltySettings, *, bootstrap: int = 2000,
    reset: bool = False,
) -> Promotion:  # fmt: skip
    """Refit and register the candidate and make it the champion, if the rule allows; `run` keeps the model.
    Nothing happens if it is the champion already; a model that was rolled back is refused. With `reset` neither is
    asked, and a first champion's rule applies. Raises PromotionError with the numbers, and as `Candidate.scores`."""
    name = registry.model_name(candidate.study, candidate.name)
    fingerprint = candidate.fingerprint(novelty_settings)
    before = registry.champion_number(store, name)
    present = registry.find_version(store, name, before) if before and not reset else None
    if present and present.tags.get("fingerprint") == fingerprint:
        reasons = [f"{candidate.label} on these data is the champion already; --reset makes it again"]
        return Promotion("unchanged", present, reasons)
    for number, own in registry.versions(store, name) if present else []:
        if own.get("fingerprint") == fingerprint and (when := registry.rolled_back_at(own)):
            problem = f"exactly this model was champion as version {number} and was rolled back at {when}"
            remedy = f"To return to it: `echolung rollback {candidate.name} --to {number}`. {RESET_REMEDY}"
            raise PromotionError(problem, remedy)
    scores = candidate.scores(bootstrap)
    evidence = candidate.evidence(scores)
    reasons = decide(evidence, Evidence.of_tags(present.tags) if present else None)
    origin, training = provenance(store.root), candidate.training
    described = describe(candidate.recordings, list(training["sample_id"]))
    novelty = fit_novelty(described, training["split_group"].to_numpy(str), novelty_settings)
    warnings = _warnings(candidate, origin)
    if present:
        warnings.append(f"Chosen over version {present.number} by this very loss: expect it to be a little too good.")
    facts = {
        "study": candidate.study, "kind": candidate.task.kind, "unit": candidate.task.unit, "arm": candidate.arm,
        "arm_seed": candidate.seed, "method": candidate.method, "videos": len(training),
        "patients": training["patient_id"].nunique(), "follows": before or "",
    }  # fmt: skip
    tags = {
        **{key: str(value) for key, value in facts.items()},
        **origin,
        "evidence": json.dumps(asdict(evidence)),
        "fingerprint": fingerprint,
        "reasons": "\n".join(reasons),
        "warnings": "\n".join(warnings),
        "outside": words(novelty.record),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / registry.FOLDER
        method = refit(
            candidate.method, candidate.settings, candidate.name, candidate.task, candidate.recordings, candidate.folds,
            candidate.fit_seed, candidate.work,
        )  # fmt: skip
        shutil.rmtree(candidate.work, ignore_errors=True)
        record = ModelRecord(
            study=candidate.study, task_name=candidate.name, task=candidate.task.model_dump(mode="json"),
            arm=candidate.arm, method=candidate.method, arm_seed=candidate.seed, views=candidate.views,
            frame_size=candidate.frame_size, novelty=novelty.record, trained_on=candidate.trained_on,
        )  # fmt: skip
        write_model(folder, record, method, novelty, candidate.encoder)
        columns, card = Model.open(folder).columns, _card(candidate, scores, [*warnings, tags["outside"]])
        version = registry.register(store, run, candidate.study, candidate.name, folder, columns, tags, card)
    registry.make_champion(store, name, version.number)
    event = f"champion, promoted over version {before}" if before else "champion, the first"
    registry.note(store, name, version.number, event)
    run.metrics({f"out_of_fold/{metric}": score.estimate for metric, score in scores.items()})
    run.metrics({"outside/false_alarm_rate": novelty.record.measured, "outside/threshold": novelty.record.threshold})
    return Promotion("promoted", version, reasons)


def _warnings(candidate: Candidate, origin: Mapping[str, str]) -> list[str]:
    """What users of the model must know."""
    verdicts, rows = candidate.verdicts, candidate.training
    mine = verdicts[(verdicts["task"] == candidate.name) & (verdicts["arm"] == candidate.arm)]
    mine = mine[(mine["method"] == candidate.method) & (mine["outcome"] != "better")]
    found = [f"Not shown to be better than {row.reference}: {row.text}" for row in mine.itertuples()]
    patients = rows["patient_id"].nunique()
    if patients < FEW_PATIENTS:
        found.append(f"Fitted on {len(rows)} videos of {patients} patients: expect less elsewhere.")
    if origin.get("git_revision", "").endswith("+changed"):
        found.append("Made from uncommitted changes: the git revision does not describe the code.")
    return found


def _card(candidate: Candidate, scores: dict[str, Score], warnings: list[str]) -> str:
    """The version's description in Markdown."""
    lines = [
        f"Method `{candidate.method}` of arm `{candidate.arm}` (seed {candidate.seed}), refitted on all patients; one"
        f" decision per {candidate.task.unit}. For research use only; not a medical device. Scores are out of fold:",
        "\n| metric | estimate | 95% interval | baseline |\n|---|---|---|---|",
        *(
            f"| {label.label} | {one.estimate:.3f} | {one.low:.3f} to {one.high:.3f} | {one.baseline:.3f} |"
            for label, one in zip(candidate.kind.metrics.values(), scores.values(), strict=True)
        ),
        "\nWarnings:\n",
        *(f"- {warning}" for warning in warnings),
    ]
    return "\n".join(lines)
