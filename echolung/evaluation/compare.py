"""Is one arm better than another? Paired statistics over out-of-fold predictions, and nothing else.

The one confirmatory test is a sign-flip permutation of log-loss differences at the primary probe, corrected by Holm
over the pretrained arms and the main tasks. Everything else is an estimate with its interval. Intervals are of these
fitted models on new patients: patients are resampled, models are not refitted. Patients of one split group share a
recording or near-duplicate videos: a group is resampled, and its sign flipped, as one, with the weight of all its
patients. Groups are what counts as independent, and stand beside the patients in the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Literal

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.evaluation import statistics
from echolung.evaluation.comparison import Comparison
from echolung.evaluation.predictions import TaskPredictions, task_predictions
from echolung.evaluation.verdicts import PairFacts, verdict
from echolung.kinds import scores
from echolung.kinds.metrics import METRICS
from echolung.kinds.task import Task

PAIRED = ["balanced_accuracy", "auroc", "macro_f1", "log_loss"]


class CompareSettings(Parameters):
    """What is compared with what, and how finely the chances are counted."""

    primary_probe: Literal["attentive", "linear"] = "attentive"
    reference: str = "random"
    majority: str = "majority"
    controls: list[str] = ["source-only", "hand-made"]
    """Arms without an encoder, which every pretrained arm is compared with too."""
    pretrained: list[str] = ["jepa"]
    """Arms whose difference from the reference belongs to the family of confirmatory tests."""
    main_tasks: list[str] = []
    """Tasks of that family; empty means all."""
    bootstrap: int = pydantic.Field(default=2000, ge=100)
    permutations: int = pydantic.Field(default=10000, ge=100)
    seed: int = 0


def compare(predictions: pd.DataFrame, tasks: Mapping[str, Task], settings: CompareSettings) -> Comparison:
    """Score every arm on every task, and every arm against the reference and the majority control.

    `predictions` may hold one task or several. Raises DataError where they break their contract (a missing fold,
    another split, a video twice; named) or lack a task, the reference arm or the primary probe.
    """
    strange = sorted(set(predictions["task"].astype(str)) - set(tasks)) if "task" in predictions else []
    if strange:
        raise DataError(f"there are predictions of unknown task {', '.join(strange)}", f"Known: {', '.join(tasks)}.")
    unknown = sorted(set(settings.main_tasks) - set(tasks))
    if unknown:
        raise DataError(f"compare.main_tasks names unknown task {', '.join(unknown)}", f"Known: {', '.join(tasks)}.")
    parts: dict[str, list[pd.DataFrame]] = {field.name: [] for field in fields(Comparison)}
    facts: list[PairFacts] = []
    for name, task in tasks.items():
        _compare_task(task_predictions(predictions, name, task), settings, parts, facts)
    if not parts["pairs"]:
        raise DataError(
            f"the predictions hold the arm '{settings.reference}' and nothing to compare it with",
            "Probe another arm, or the majority control.",
        )
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items() if frames}
    pairs = _with_holm(tables["pairs"], settings)
    return Comparison(**tables | {"pairs": pairs, "verdicts": _verdicts(pairs, facts)})


def _compare_task(
    task: TaskPredictions, settings: CompareSettings, parts: dict[str, list[pd.DataFrame]], facts: list[PairFacts]
) -> None:
    """Append one task's rows to every table."""
    _require_arms(task, settings)
    counts = scores.counts_of(
        task, settings.bootstrap, np.random.default_rng(derived_seed(settings.seed, task.task, "bootstrap"))
    )
    values: dict[scores.Key, scores.Scores] = {}
    losses: dict[scores.Key, np.ndarray] = {}
    for key in task.probabilities:
        values[key] = scores.resampled(task, key, counts)
        folds = scores.by_fold(task, key)
        losses[key] = folds.loc[folds["metric"] == "log_loss", "value"].to_numpy()
        tables = {
            "arms": _arm_rows(task, key, values[key], settings),
            "folds": folds,
            "classes": scores.by_class(task, key, counts),
            "confusion": scores.confusions(task, key),
            "roc": scores.roc(task, key),
        }
        for name, table in tables.items():
            table.insert(0, "task", task.task)
            table.insert(1, "arm", key[0])
            table.insert(2, "probe", key[1])
            parts[name].append(table)
    for key, reference in _pairs(task, settings):
        heading = {"task": task.task, "arm": key[0], "reference": reference[0], "probe": key[1]}
        heading["reference_probe"] = reference[1]
        generator = np.random.default_rng(derived_seed(settings.seed, *heading.values(), "permutation"))
        rows = _pair_rows(task, key, reference, values, settings.permutations, generator)
        rows["n_seen"] = max(task.seen[key], task.seen[reference])
        parts["pairs"].append(_headed(rows.assign(primary=_primary(task, key, settings)), heading))
        parts["secondary"].append(_headed(_secondary_rows(task, key, reference, losses, settings), heading))
        if _primary(task, key, settings):
            facts.append(
                PairFacts(
                    **heading,
                    reference_role=_role(reference[0], settings),
                    pretrained=key[0] in settings.pretrained,
                    arm_seeds=len(task.seeds[key]),
                    reference_seeds=len(task.seeds[reference]),
                    n_patients=len(task.patients),
                    n_groups=len(np.unique(task.group)),
                    n_videos=task.videos,
                    n_seen=max(task.seen[key], task.seen[reference]),
                )
            )


def _require_arms(task: TaskPredictions, settings: CompareSettings) -> None:
    if (settings.reference, settings.primary_probe) not in task.probabilities:
        present = ", ".join(f"{arm} ({probe})" for arm, probe in task.probabilities)
        raise DataError(
            f"'{task.task}' has no predictions of the reference arm '{settings.reference}' with the primary probe"
            f" '{settings.primary_probe}'",
            f"Probe it, or change compare.reference or compare.primary_probe; present: {present}.",
        )


def _primary(task: TaskPredictions, key: scores.Key, settings: CompareSettings) -> bool:
    """Whether the arm is judged by this probe: the primary one, or its own where it has none of that name."""
    return key[1] == settings.primary_probe or settings.primary_probe not in _probes(task, key[0])


def _role(arm: str, settings: CompareSettings) -> str:
    named = {settings.reference: "reference", settings.majority: "majority"}
    named |= dict.fromkeys(settings.controls, "control")
    return named.get(arm, "pretrained" if arm in settings.pretrained else "other")


def _probes(task: TaskPredictions, arm: str) -> list[str]:
    return [probe for name, probe in task.probabilities if name == arm]


def _pairs(task: TaskPredictions, settings: CompareSettings) -> Iterator[tuple[scores.Key, scores.Key]]:
    """Every arm against the reference and the majority, pretrained ones against the controls too.

    Each meets the other with the probe they share; an arm with a probe of its own meets the other's primary one.
    """
    for key in task.probabilities:
        if key[0] == settings.majority:
            continue
        controls = settings.controls if key[0] in settings.pretrained else []
        for other in (settings.reference, settings.majority, *controls):
            probes = _probes(task, other)
            if not probes or key[0] == other:
                continue
            primary = settings.primary_probe if settings.primary_probe in probes else probes[0]
            yield key, (other, key[1] if key[1] in probes else primary)


def _arm_rows(task: TaskPredictions, key: scores.Key, found: scores.Scores, settings: CompareSettings) -> pd.DataFrame:
    rows = []
    for name in METRICS:
        by_seed, resampled = found.values[name][:, 0], found.values[name][:, 1:].mean(axis=0)
        low, high = statistics.percentile_interval(resampled)
        row: dict[str, object] = {"role": _role(key[0], settings), "primary": _primary(task, key, settings)}
        row |= {"metric": name, "estimate": float(by_seed.mean()), "low": low, "high": high, "seeds": len(by_seed)}
        row |= {"seed_low": float(by_seed.min()), "seed_high": float(by_seed.max())}
        rows.append(
            row
            | _sizes(task)
            | {"n_seen": task.seen[key]}
            | {"unit": task.unit, "note": _note(name, found, resampled, key[0] == settings.majority)}
        )
    return pd.DataFrame(rows)


def _note(name: str, found: scores.Scores, resampled: np.ndarray, constant: bool) -> str:
    """What a reader must know of this one figure; empty for most. `constant`: the arm cannot vary, by its making."""
    notes = []
    if name in ("auroc", "auprc") and found.undefined:
        notes.append(f"{found.undefined} of {found.rankings} fold-class pairs lack a class and are left out")
    undefined = np.isnan(resampled).mean()
    if undefined:
        notes.append(f"undefined in {undefined:.1%} of the resamples")
    elif np.ptp(resampled) == 0 and not constant:
        notes.append("no resample differs: the interval cannot see beyond these patients")
    return "; ".join(notes)


def _sizes(task: TaskPredictions) -> dict[str, int]:
    return {"n_patients": len(task.patients), "n_groups": len(np.unique(task.group)), "n_videos": task.videos}


def _headed(rows: pd.DataFrame, heading: Mapping[str, str]) -> pd.DataFrame:
    for position, (column, value) in enumerate(heading.items()):
        rows.insert(position, column, value)
    return rows


def _pair_rows(
    task: TaskPredictions,
    key: scores.Key,
    reference: scores.Key,
    values: Mapping[scores.Key, scores.Scores],
    permutations: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Differences arm minus reference under the same resamples of groups, and the test of the log-loss."""
    rows = []
    for name in PAIRED:
        difference = values[key].values[name].mean(axis=0) - values[reference].values[name].mean(axis=0)
        low, high = statistics.percentile_interval(difference[1:])
        row = {"metric": name, "difference": float(difference[0]), "low": low, "high": high}
        row |= {"p_value": float("nan"), "test": ""}
        if name == "log_loss":
            losses = scores.patient_log_losses(task, key) - scores.patient_log_losses(task, reference)
            tested = statistics.sign_flip(scores.per_group(task, losses), permutations, generator)
            row |= {"p_value": tested.p_value, "test": "sign-flip, " + ("exact" if tested.exact else "Monte Carlo")}
        rows.append(row | _sizes(task))
    return pd.DataFrame(rows)


def _secondary_rows(
    task: TaskPredictions,
    key: scores.Key,
    reference: scores.Key,
    losses: Mapping[scores.Key, np.ndarray],
    settings: CompareSettings,
) -> pd.DataFrame:
    """Other views of the same pair, never the basis of a verdict.

    DeLong only where a patient has one of two labels and no two share a split group, and not against the majority
    control, whose scores differ between folds but never within one.
    """
    sizes = np.concatenate([np.unique(folds, return_counts=True)[1] for folds in task.folds])
    test_over_train = float(np.mean(sizes / (len(task.y) - sizes)))
    found = {"Nadeau-Bengio, log-loss": statistics.nadeau_bengio(losses[key] - losses[reference], test_over_train)}
    of_patient = np.zeros(len(task.patients), dtype=np.int64)
    of_patient[task.patient] = task.y
    one_of_two = len(task.classes) == 2 and (of_patient[task.patient] == task.y).all()
    independent = len(np.unique(task.group)) == len(task.group)
    if one_of_two and independent and reference[0] != settings.majority:
        found["DeLong, AUROC of patients pooled over folds"] = statistics.delong(
            of_patient == 1, scores.patient_scores(task, key), scores.patient_scores(task, reference)
        )
    return pd.DataFrame({"test": test, **vars(estimate)} for test, estimate in found.items())


def _with_holm(pairs: pd.DataFrame, settings: CompareSettings) -> pd.DataFrame:
    """Add p_holm over the family: pretrained minus reference, primary probe, main tasks.

    An encoder that watched the very videos it is scored on is no evidence, and stays outside.
    """
    family = (
        (pairs["metric"] == "log_loss")
        & pairs["arm"].isin(settings.pretrained)
        & (pairs["reference"] == settings.reference)
        & (pairs["probe"] == settings.primary_probe)
        & (pairs["n_seen"] == 0)
    )
    if settings.main_tasks:
        family &= pairs["task"].isin(settings.main_tasks)
    adjusted = pd.Series(np.nan, index=pairs.index)
    adjusted[family] = statistics.holm(pairs.loc[family, "p_value"].tolist())
    pairs.insert(list(pairs.columns).index("p_value") + 1, "p_holm", adjusted)
    return pairs


def _verdicts(pairs: pd.DataFrame, facts: list[PairFacts]) -> pd.DataFrame:
    """One row per pair of the primary probe; `text` is the calibrated sentence."""
    columns = ["difference", "low", "high", "p_value", "p_holm"]
    tested = pairs[pairs["metric"] == "log_loss"].set_index(["task", "arm", "reference", "probe"])[columns]
    found = dict(zip(tested.index, tested.to_numpy(dtype=float), strict=True))
    rows = []
    for pair in facts:
        outcome, text = verdict(pair, *found[pair.task, pair.arm, pair.reference, pair.probe])
        rows.append(
            {"task": pair.task, "arm": pair.arm, "reference": pair.reference, "probe": pair.probe}
            | {"confirmatory": not np.isnan(found[pair.task, pair.arm, pair.reference, pair.probe][-1])}
            | {"outcome": outcome, "text": text}
        )
    return pd.DataFrame(rows)
