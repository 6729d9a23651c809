"""Is one arm better than another? Paired statistics over out-of-fold predictions, and nothing else.

The one confirmatory test is a sign-flip permutation of the differences in the kind's loss (log-loss, for classes),
corrected by Holm over candidates and main tasks. Everything else is an estimate with its interval. Intervals are of
these fitted models on new patients: patients are resampled, models are not refitted. Patients of one split group share
a recording or near-duplicate videos: a group is resampled, and its sign flipped, as one, with the weight of all its
patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.evaluation import statistics
from echolung.evaluation.comparison import MORE, Comparison
from echolung.evaluation.verdicts import PairFacts, verdict
from echolung.kinds.kind import Kind, Scores
from echolung.kinds.kinds import kind_of
from echolung.kinds.predictions import Key, Units, units_of
from echolung.kinds.task import Task
from echolung.methods.arms import Arm, baseline_of

Tables = dict[str, list[pd.DataFrame]]


class CompareSettings(Parameters):
    """How finely chances are counted."""

    bootstrap: int = pydantic.Field(default=2000, ge=100)
    permutations: int = pydantic.Field(default=10000, ge=100)
    seed: int = 0


def compare(
    predictions: Mapping[str, pd.DataFrame],
    tasks: Mapping[str, Task],
    arms: Mapping[str, Arm],
    settings: CompareSettings,
) -> Comparison:
    """Score every arm on every task, and compare it with the references, the controls and the task's baseline.

    `predictions` holds a table per task. Raises DataError where one is missing or invalid (a missing fold, another
    split, a video twice; named), or where a task has nothing to compare.
    """
    parts: Tables = {one.name: [] for one in fields(Comparison) if one.name != MORE}
    more: Tables = {}
    facts: list[PairFacts] = []
    for name, task in tasks.items():
        if name not in predictions:
            raise DataError(f"there are no predictions of task '{name}'", "Run `dvc repro` to make them.")
        units = units_of(predictions[name], name, task, kind_of(task))
        _OneTask(units, kind_of(task), arms, settings).compare(parts, more, facts)
    if not parts["pairs"]:
        raise DataError("the predictions hold one arm and nothing to compare it with", "Add an arm to `arms`.")
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items() if frames}
    pairs = _with_holm(tables["pairs"], facts)
    verdicts = _verdicts(pairs, facts)
    extra = {name: pd.concat(frames, ignore_index=True) for name, frames in more.items()}
    return Comparison(**tables | {"pairs": pairs, "verdicts": verdicts}, more=extra)


class _OneTask:
    """The comparison of one task."""

    def __init__(self, units: Units, kind: Kind, arms: Mapping[str, Arm], settings: CompareSettings) -> None:
        self.units, self.kind, self.arms, self.settings = units, kind, arms, settings
        self.baseline = baseline_of(units.task)
        self.keys = [
            (arm, method)
            for arm in [*arms, self.baseline]
            for method in (arms[arm].method if arm in arms else [arm])
            if (arm, method) in units.values
        ]
        """In the order of the study; an arm's first one judges it."""
        generator = np.random.default_rng(derived_seed(settings.seed, units.name, "bootstrap"))
        if unknown := sorted(f"{arm} ({method})" for arm, method in set(units.values) - set(self.keys)):
            raise DataError(f"'{units.name}' has predictions of unknown arm {', '.join(unknown)}", "Run `dvc repro`.")
        self.counts = self._resample(generator)
        self.scores: dict[Key, Scores] = {}
        self.losses: dict[Key, np.ndarray] = {}
        """Of each fold."""

    def compare(self, parts: Tables, more: Tables, facts: list[PairFacts]) -> None:
        """Append this task's rows to every table."""
        for key in self.keys:
            self.scores[key] = self.kind.scores(self.units, key, self.counts)
            folds = self._folds(key)
            self.losses[key] = folds.loc[folds["metric"] == self.kind.loss, "value"].to_numpy()
            heading = {"task": self.units.name, "arm": key[0], "method": key[1]}
            parts["arms"].append(_headed(self._arm_rows(key), heading))
            parts["folds"].append(_headed(folds, heading))
            for name, table in self.kind.tables(self.units, key, self.counts).items():
                more.setdefault(name, []).append(_headed(table, heading))
        for key, reference in self._pairs():
            heading = {"task": self.units.name, "arm": key[0], "reference": reference[0], "method": key[1]}
            heading["reference_method"] = reference[1]
            primary = self._is_primary(key)
            rows = self._pair_rows(key, reference, heading).assign(primary=primary)
            parts["pairs"].append(_headed(rows, heading))
            parts["secondary"].append(_headed(self._secondary_rows(key, reference), heading))
            if primary:
                facts.append(self._facts(key, reference, heading))

    def role(self, arm: str) -> str:
        return "baseline" if arm == self.baseline else self.arms[arm].role

    def _resample(self, generator: np.random.Generator) -> np.ndarray:
        """How often each patient counts (1 + B, P): first the patients as they are, then the stratified resamples.

        Split groups are drawn: patients who share videos come and go together.
        """
        units = self.units
        strata = statistics.patient_strata(units.group[units.patient], self.kind.strata(units.task, units.y))
        drawn = statistics.resample_counts(strata, self.settings.bootstrap, generator)
        return np.vstack([np.ones(len(units.group)), drawn[:, units.group]])

    def _methods(self, arm: str) -> list[str]:
        return [method for name, method in self.keys if name == arm]

    def _is_primary(self, key: Key) -> bool:
        return key[1] == self._methods(key[0])[0]

    def _pairs(self) -> Iterator[tuple[Key, Key]]:
        """Each arm against the references and the baseline, candidates against the controls too.

        Two arms meet with the method they share, else with the other's primary one.
        """
        names = list(dict.fromkeys(arm for arm, _ in self.keys))
        of_role = {role: [arm for arm in names if self.role(arm) == role] for role in ("reference", "control")}
        for key in self.keys:
            arm, role = key[0], self.role(key[0])
            if role == "baseline":
                continue
            references = of_role["reference"]
            if role == "candidate" and self.arms[arm].against:
                references = [one for one in references if one in self.arms[arm].against]
            others = [*references, *(of_role["control"] if role == "candidate" else []), self.baseline]
            if role == "reference":
                others = [self.baseline]
            for other in others:
                methods = self._methods(other)
                if methods and other != arm:
                    yield key, (other, key[1] if key[1] in methods else methods[0])

    def _sizes(self) -> dict[str, int]:
        return {"n_patients": len(self.units.patients), "n_groups": self.units.groups, "n_videos": self.units.videos}

    def _arm_rows(self, key: Key) -> pd.DataFrame:
        rows = []
        for name in self.kind.metrics:
            values = self.scores[key].values[name]
            by_seed, resampled = values[:, 0], values[:, 1:].mean(axis=0)
            low, high = statistics.percentile_interval(resampled)
            row: dict[str, object] = {"role": self.role(key[0]), "primary": self._is_primary(key), "metric": name}
            row |= {"estimate": float(by_seed.mean()), "low": low, "high": high, "seeds": len(by_seed)}
            row |= {"seed_low": float(by_seed.min()), "seed_high": float(by_seed.max()), **self._sizes()}
            note = self._note(self.scores[key].notes.get(name, ""), resampled, key[0] == self.baseline)
            rows.append(row | {"n_seen": self.units.seen[key], "unit": self.units.task.unit, "note": note})
        return pd.DataFrame(rows)

    @staticmethod
    def _note(note: str, resampled: np.ndarray, constant: bool) -> str:
        """What a reader must know of this one figure; empty for most. `constant`: the arm cannot vary."""
        notes = [note] if note else []
        undefined = np.isnan(resampled).mean()
        if undefined:
            notes.append(f"undefined in {undefined:.1%} of the resamples")
        elif np.ptp(resampled) == 0 and not constant:
            notes.append("no resample differs: the interval cannot see beyond these patients")
        return "; ".join(notes)

    def _folds(self, key: Key) -> pd.DataFrame:
        """One row per (repeat, fold, metric): the mean over seeds on that fold alone; `step` numbers the folds."""
        rows = []
        for repeat, folds in enumerate(self.units.folds):
            for fold in np.unique(folds):
                held_out = folds == fold
                found = self.kind.on_fold(self.units, self.units.values[key][:, repeat, held_out], held_out)
                place = {"repeat": repeat, "fold": int(fold), "step": repeat * (int(self.units.folds.max()) + 1) + fold}
                sizes = {"n_patients": len(np.unique(self.units.patient[held_out])), "n_units": int(held_out.sum())}
                rows += [place | {"metric": name, "value": value} | sizes for name, value in found.items()]
        return pd.DataFrame(rows)

    def _pair_rows(self, key: Key, reference: Key, heading: Mapping[str, str]) -> pd.DataFrame:
        """Differences arm minus reference under the same resamples of groups, and the test of the loss."""
        generator = np.random.default_rng(derived_seed(self.settings.seed, *heading.values(), "permutation"))
        rows = []
        for name in self.kind.paired:
            mean, other = (self.scores[one].values[name].mean(axis=0) for one in (key, reference))
            low, high = statistics.percentile_interval((mean - other)[1:])
            row = {"metric": name, "difference": float(mean[0] - other[0]), "low": low, "high": high}
            row |= {"p_value": float("nan"), "test": ""}
            if name == self.kind.loss:
                groups = self.units.per_group(self._patient_losses(key) - self._patient_losses(reference))
                tested = statistics.sign_flip(groups, self.settings.permutations, generator)
                row |= {"p_value": tested.p_value, "test": "sign-flip, " + ("exact" if tested.exact else "Monte Carlo")}
            seen = max(self.units.seen[key], self.units.seen[reference])
            rows.append(row | self._sizes() | {"n_seen": seen})
        return pd.DataFrame(rows)

    def _patient_losses(self, key: Key) -> np.ndarray:
        """Each patient's mean loss over units, repeats and seeds (P,)."""
        losses = self.kind.losses(self.units.task, self.units.y, self.units.values[key])
        return self.units.per_patient(losses.mean(axis=(0, 1)))

    def _secondary_rows(self, key: Key, reference: Key) -> pd.DataFrame:
        """Other views of the same pair, never the basis of a verdict."""
        sizes = np.concatenate([np.unique(folds, return_counts=True)[1] for folds in self.units.folds])
        found = {}
        if len(sizes) > 1:
            test_over_train = float(np.mean(sizes / (len(self.units.y) - sizes)))
            differences = self.losses[key] - self.losses[reference]
            label = f"Nadeau-Bengio, {self.kind.metrics[self.kind.loss].label}"
            found[label] = statistics.nadeau_bengio(differences, test_over_train)
        found |= self.kind.secondary(self.units, key, reference)
        columns = ["test", *(one.name for one in fields(statistics.Estimate))]
        return pd.DataFrame([{"test": test, **vars(one)} for test, one in found.items()], columns=columns)

    def _facts(self, key: Key, reference: Key, heading: Mapping[str, str]) -> PairFacts:
        role, other = self.role(key[0]), self.role(reference[0])
        seen = max(self.units.seen[key], self.units.seen[reference])
        return PairFacts(
            **heading,
            reference_role=other,
            metric=self.kind.loss,
            label=self.kind.metrics[self.kind.loss].label,
            pretrained=role == "candidate" and self.arms[key[0]].pretrained,
            confirmatory=(role, other, self.units.task.main, seen) == ("candidate", "reference", True, 0),
            arm_seeds=len(self.units.seeds[key]),
            reference_seeds=len(self.units.seeds[reference]),
            n_patients=len(self.units.patients),
            n_groups=self.units.groups,
            n_videos=self.units.videos,
            n_seen=seen,
        )


def _headed(rows: pd.DataFrame, heading: Mapping[str, str]) -> pd.DataFrame:
    for position, (column, value) in enumerate(heading.items()):
        rows.insert(position, column, value)
    return rows


KEYS = ["task", "arm", "reference", "method", "metric"]


def _with_holm(pairs: pd.DataFrame, facts: list[PairFacts]) -> pd.DataFrame:
    """Add p_holm over the family: candidate minus reference, primary method, main tasks.

    An encoder that watched the very videos it is scored on is no evidence, and stays outside.
    """
    wanted = {tuple(getattr(pair, key) for key in KEYS) for pair in facts if pair.confirmatory}
    family = [tuple(row) in wanted for row in pairs[KEYS].itertuples(index=False, name=None)]
    adjusted = pd.Series(np.nan, index=pairs.index)
    adjusted[family] = statistics.holm(pairs.loc[family, "p_value"].tolist())
    pairs.insert(list(pairs.columns).index("p_value") + 1, "p_holm", adjusted)
    return pairs


def _verdicts(pairs: pd.DataFrame, facts: list[PairFacts]) -> pd.DataFrame:
    """One row per primary pair; `text` is the calibrated sentence."""
    tested = pairs.set_index(KEYS)[["difference", "low", "high", "p_value", "p_holm"]]
    found = dict(zip(tested.index, tested.to_numpy(dtype=float), strict=True))
    rows = []
    for pair in facts:
        outcome, text = verdict(pair, *found[tuple(getattr(pair, key) for key in KEYS)])
        row = {"task": pair.task, "arm": pair.arm, "reference": pair.reference, "method": pair.method}
        rows.append(row | {"confirmatory": pair.confirmatory, "outcome": outcome, "text": text})
    return pd.DataFrame(rows)
