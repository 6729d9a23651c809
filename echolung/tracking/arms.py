"""From the tables of a comparison to one run per arm, named so that MLflow's compare page answers the question."""

from __future__ import annotations

import math

import pandas as pd

from echolung.evaluation.compare import PAIRED
from echolung.evaluation.comparison import Comparison, arms_in_order
from echolung.tracking.experiments import ArmResult, Dataset

INITS = {
    "pretrained": "pretrained",
    "reference": "random",
    "control": "control",
    "majority": "control",
    "other": "other",
}
"""What a run's tag `init` says, by the arm's role in the comparison."""

# MLflow's compare page lists metrics by name in a box of six rows: the plain names are few, so that it opens on the
# AUROC and the balanced accuracy with their intervals, and the chart view on four charts of folds.


def arm_results(comparison: Comparison, task: str, encoders: pd.DataFrame, *datasets: Dataset) -> list[ArmResult]:
    """One result per arm of `task`, pretrained ones first.

    `encoders` has one row per encoder, with the column `arm`; its other columns become parameters.

    Plain names (`balanced_accuracy`, with `_low` and `_high`) are of the probe that judges the arm; metrics that no
    pair is compared on stand under `more/`, another probe's under its name (`linear/auroc`), differences under that of
    the other arm (`minus_random/log_loss`, with `_p_uncorrected` and, where it was to confirm, `_p_holm`).
    """
    arms = comparison.arms[comparison.arms["task"] == task]
    results = []
    for arm in arms_in_order(arms):
        rows = arms[arms["arm"] == arm]
        first = rows[rows["primary"]].iloc[0]
        mine = encoders[encoders["arm"] == arm] if len(encoders) else encoders
        results.append(
            ArmResult(
                task=task,
                arm=arm,
                init=INITS[first["role"]],
                data_digest=datasets[0].digest if datasets else "",
                parameters={
                    "probe": first["probe"],
                    "unit": first["unit"],
                    "patients": int(first["n_patients"]),
                    "groups": int(first["n_groups"]),
                    "videos": int(first["n_videos"]),
                    **{column: _joined(mine[column]) for column in mine.columns.drop("arm", errors="ignore")},
                },
                metrics={**_scores(rows), **_differences(comparison, task, arm, first["probe"])},
                folds=_folds(comparison, task, arm, first["probe"]),
                datasets=datasets,
                tags=_verdicts(comparison, task, arm),
            )
        )
    return results


def _scores(rows: pd.DataFrame) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for row in rows.to_dict("records"):
        name = row["metric"] if row["metric"] in PAIRED else f"more/{row['metric']}"
        if not row["primary"]:
            name = f"{row['probe']}/{row['metric']}"
        found |= _interval(name, row["estimate"], row["low"], row["high"])
    return found


def _differences(comparison: Comparison, task: str, arm: str, probe: str) -> dict[str, float | None]:
    pairs = comparison.pairs
    mine = pairs[(pairs["task"] == task) & (pairs["arm"] == arm) & (pairs["probe"] == probe)]
    found: dict[str, float | None] = {}
    for row in mine.to_dict("records"):
        name = f"minus_{row['reference']}/{row['metric']}"
        found |= _interval(name, row["difference"], row["low"], row["high"])
        found[f"{name}_p_uncorrected"] = _number(row["p_value"])
        found[f"{name}_p_holm"] = _number(row["p_holm"])
    return {name: value for name, value in found.items() if value is not None}


def _interval(name: str, estimate: float, low: float, high: float) -> dict[str, float | None]:
    return {name: _number(estimate), f"{name}_low": _number(low), f"{name}_high": _number(high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _folds(comparison: Comparison, task: str, arm: str, probe: str) -> list[dict[str, float | None]]:
    """One mapping per outer fold, in the order of the comparison's steps."""
    folds = comparison.folds
    mine = folds[(folds["task"] == task) & (folds["arm"] == arm) & (folds["probe"] == probe)]
    mine = mine[mine["metric"].isin(PAIRED)]
    return [
        {row["metric"]: _number(row["value"]) for row in of_step.to_dict("records")}
        for _, of_step in mine.groupby("step", sort=True)
    ]


def _verdicts(comparison: Comparison, task: str, arm: str) -> dict[str, str]:
    verdicts = comparison.verdicts
    mine = verdicts[(verdicts["task"] == task) & (verdicts["arm"] == arm)]
    return {f"verdict_against_{row['reference']}": row["text"] for row in mine.to_dict("records")}


def _joined(values: pd.Series) -> str:
    return ", ".join(str(value) for value in values.drop_duplicates())
