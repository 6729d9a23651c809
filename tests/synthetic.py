"""Tasks of two kinds, a class with a hostile name, and out-of-fold predictions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import toys

from echolung.core.drawing import new_figure
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.kinds.classification import ClassificationTask
from echolung.kinds.kind import Captioned
from echolung.kinds.predictions import Key, Units
from echolung.kinds.task import Task
from echolung.methods.arms import Arm

HOSTILE = "<script>alert('$x_1$')</script>|a&b/../c"
SHOWN = {"kind": "classification", "source": "pocus", "label": "diagnosis"}
LUNG = ClassificationTask(**SHOWN, classes=["covid", HOSTILE, "NA"], unit="video")
BLUES = LUNG.model_copy(update={"source": "blues", "classes": ["0", "1"], "unit": "patient", "main": False})
TASKS: dict[str, Task] = {"lung": LUNG, "blues": BLUES}
NUMBER = Task(kind="number", source="hearts", label="ef", unit="video")
PROBED = Arm(method=("attentive", "linear"), encoder="jepa", role="candidate")
RANDOM = Arm(method=("attentive", "linear"), encoder="random", role="reference")
ARMS = {"jepa": PROBED, "random": RANDOM, "hand-made": Arm(method=("hand-made",), role="control")}
STRENGTHS = {"jepa": (1, 1.6), "random": (3, 0.4), "hand-made": (1, 0.9), "majority": (1, 0.0)}
"""Arm -> its seeds, and how much of the truth is in its scores."""
PATIENT = np.repeat(np.arange(40), 2)


def predictions(task, classes, strengths=STRENGTHS, arms=ARMS, patient=PATIENT, repeats=1, folds=5) -> pd.DataFrame:
    """Of one video per entry of `patient`; every class is in every fold."""
    random, y, group, frames = np.random.default_rng(1), patient % classes, patient // classes, []
    fits = [(arm, method) for arm in strengths for method in (arms[arm].method if arm in arms else [arm])]
    for arm, method, seed in [(*fit, seed) for fit in fits for seed in range(strengths[fit[0]][0])]:
        for repeat in range(repeats):
            signal = strengths[arm][1]
            scores = (random.normal(0, 1, (len(y), classes)) + signal * np.eye(classes)[y]) * (signal != 0)
            p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            rows = pd.DataFrame(p, columns=[f"p_{k}" for k in range(classes)])
            rows["fold"] = (group // 2 if repeat else group) % folds
            rows["sample_id"] = [f"{task}/v{number:03d}" for number in range(len(y))]
            rows["patient_id"] = rows["split_group"] = [f"{task}/p{one}" for one in patient]
            frames.append(rows.assign(y_true=y.astype(float), arm=arm, arm_seed=seed, method=method, repeat=repeat))
    return pd.concat(frames, ignore_index=True).assign(task=task, seen_in_pretraining=False, split_digest="d1")


TABLES = {"lung": predictions("lung", 3), "blues": predictions("blues", 2)}
NUMBERS = predictions("ef", 2, {arm: STRENGTHS[arm] for arm in ("jepa", "random", "majority")})
NUMBERS = NUMBERS.rename(columns={"p_1": "number"}).replace({"majority": "toy-mean"})


def compared(tables: Mapping[str, pd.DataFrame], tasks: Mapping[str, Task], arms: dict[str, Arm] = ARMS) -> Comparison:
    return compare(tables, tasks, arms, CompareSettings(bootstrap=100, permutations=200))


class Number(toys.Number):
    """With a figure, a table that it draws and one that it does not."""

    paired = ("mae",)

    def tables(self, units: Units, key: Key, counts: np.ndarray) -> dict[str, pd.DataFrame]:
        points = pd.DataFrame({"true": units.y, "predicted": units.values[key][0, 0, :, 0]})
        return {"scatter": points, "agreement": pd.DataFrame({"estimate": [0.123], "low": [-1.5], "high": [1.25]})}

    def figures(self) -> Mapping[str, Captioned]:
        return {"scatter": Captioned(lambda comparison, colours: new_figure(1, 1, 3)[0], "Scatter", "A caption.")}

    def plots(self, comparison: Comparison) -> dict[str, pd.DataFrame]:
        return {"scatter/all": judged_only(comparison, "scatter")[["true", "predicted"]]}
