"""From the tables of a comparison to one run per arm, with names that suit MLflow's compare page.

That page lists metrics by name in a short box: few have plain names, so that it opens on these and their intervals.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from echolung.evaluation.comparison import Comparison
from echolung.tracking.experiments import arm_run
from echolung.tracking.run import Run
from echolung.tracking.store import Store

INITS = {"reference": "random", "control": "control", "baseline": "baseline", "candidate": "pretrained"}
"""A run's tag `init`, by the arm's role; `imported` where its weights are from a file."""


def arm_runs(
    store: Store, study: str, comparison: Comparison, task: str, encoders: pd.DataFrame, data_digest: str
) -> Iterator[Run]:
    """One closed run per arm of `task`, candidates first; the columns of `encoders`, a row per arm, become parameters.
    Metrics of the primary method that are compared in pairs have plain names (`auroc`, with `_low` and `_high`), its
    others are `more/<metric>`, those of another method `<method>/<metric>`, differences `minus_<reference>/<metric>`
    (with `_p_uncorrected` and, if confirmatory, `_p_holm`)."""
    mine = comparison.of_tasks([task])
    paired = set(mine.pairs["metric"])
    for arm in mine.order:
        rows = mine.arms[mine.arms["arm"] == arm]
        first = rows[rows["primary"]].iloc[0]
        encoder = encoders[encoders["arm"] == arm].drop(columns="arm").to_dict("records")
        imported = any(row.get("objective") == "imported" for row in encoder)
        verdicts = mine.verdicts[mine.verdicts["arm"] == arm].to_dict("records")
        folds = mine.folds[(mine.folds["arm"] == arm) & (mine.folds["method"] == first["method"])]
        folds = folds[folds["metric"].isin(paired)].pivot(index="step", columns="metric", values="value")
        yield arm_run(
            store,
            study,
            task,
            arm,
            init="imported" if imported else INITS[first["role"]],
            data_digest=data_digest,
            parameters={
                "method": first["method"],
                "unit": first["unit"],
                **{size: int(first[f"n_{size}"]) for size in ("patients", "groups", "videos")},
                **{str(name): value for row in encoder for name, value in row.items()},
            },
            metrics=_known({**_scores(rows, paired), **_differences(mine.pairs, arm, first["method"])}),
            folds=[_known(fold) for fold in folds.to_dict("records")],
            tags={f"verdict_against_{row['reference']}": row["text"] for row in verdicts},
        )


def _scores(rows: pd.DataFrame, paired: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows.to_dict("records"):
        prefix = "" if row["metric"] in paired else "more/"
        name = f"{prefix if row['primary'] else row['method'] + '/'}{row['metric']}"
        found |= {name: row["estimate"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return found


def _differences(pairs: pd.DataFrame, arm: str, method: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in pairs[(pairs["arm"] == arm) & (pairs["method"] == method)].to_dict("records"):
        name = f"minus_{row['reference']}/{row['metric']}"
        found |= {name: row["difference"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        found |= {f"{name}_p_uncorrected": row["p_value"], f"{name}_p_holm": row["p_holm"]}
    return found


def _known(values: Mapping[Any, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items() if not math.isnan(value)}
