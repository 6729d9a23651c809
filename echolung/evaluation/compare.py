"""Is one arm better than another? Paired statistics over out-of-fold predictions, and nothing else.

Two claims are tested, on the kind's loss (the Brier score, for classes), each corrected by Holm over candidates and
main tasks. That these encoders are better than those: a sign-flip permutation of patients' differences. That the recipe
is: seeds are a sample, too (`statistics.two_way`). Everything else is an estimate with its interval. Intervals are of
these fitted models on new patients: patients are resampled, models are not refitted. Patients of one split group share
a recording or near-duplicate videos: a group is resampled, and its sign flipped, as one, with the weight of all its
patients.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from echolung.core.errors import DataError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.evaluation import statistics
from echolung.evaluation.comparison import Comparison
from echolung.evaluation.verdicts import PairFacts, verdict
from echolung.kinds.kind import Kind
from echolung.kinds.kinds import kind_of
from echolung.kinds.predictions import Key, Units, units_of
from echolung.kinds.task import Task
from echolung.methods.arms import Arm, baseline_of

Row = dict[str, Any]
AGAINST = {  # role of an arm -> roles of the arms that it is compared with
    "candidate": ("reference", "control", "baseline"),
    "control": ("reference", "baseline"),
    "reference": ("baseline",),
    "baseline": (),
}
SECONDARY = [
    *("task", "arm", "reference", "method", "reference_method", "test"),
    *(field.name for field in fields(statistics.Estimate)),
]


class CompareSettings(Parameters):
    """How finely chances are counted."""

    bootstrap: int = pydantic.Field(default=2000, ge=100)
    permutations: int = pydantic.Field(default=10000, ge=100)
    seed: int = 0
    headlines: dict[str, dict[str, dict[str, str]]] = {}
    """Numbers that metrics.json has by a name of their own: group -> name -> values of the columns of its row, and
    `table` unless it is that of the arms."""


def compare(
    predictions: Mapping[str, pd.DataFrame],
    tasks: Mapping[str, Task],
    arms: Mapping[str, Arm],
    settings: CompareSettings,
) -> Comparison:
    """Score every arm on every task, and compare it with the references, the controls and the task's baseline.
    `predictions` holds a table per task. Raises DataError where one is invalid, or there is nothing to compare."""
    compared = [
        _OneTask(units_of(predictions[name], name, task, kind_of(task)), kind_of(task), arms, settings)
        for name, task in tasks.items()
    ]
    pairs = pd.DataFrame([row for one in compared for row in one.pair_rows()])
    if pairs.empty:
        raise DataError("the predictions hold one arm and nothing to compare it with", "Add an arm to `arms`.")
    tested = pairs.index[pairs["primary"] & (pairs["test"] != "")]
    facts = [fact for one in compared for fact in one.facts()]
    # The family: candidate minus reference on main tasks. An encoder that watched the very videos it is scored on is no
    # evidence, and stays outside.
    family = tested[[fact.confirmatory for fact in facts]]
    for column, corrected in (("p_value", "p_holm"), ("p_recipe", "p_recipe_holm")):
        tests = pairs.loc[family, column].dropna()
        holm = pd.Series(statistics.holm(tests.tolist()), index=tests.index)
        pairs.insert(list(pairs).index(column) + 1, corrected, holm.reindex(pairs.index))
    verdicts = []
    for fact, (_, row) in zip(facts, pairs.loc[tested].iterrows(), strict=True):
        outcome, text = verdict(fact, row)
        heading = {name: row[name] for name in ("task", "arm", "reference", "method")}
        verdicts.append(heading | {"confirmatory": fact.confirmatory, "outcome": outcome, "text": text})
    more: dict[str, list[pd.DataFrame]] = {}
    for one in compared:
        for name, table in one.more():
            more.setdefault(name, []).append(table)
    secondary = [row for one in compared for row in one.secondary_rows()]
    return Comparison(
        arms=pd.DataFrame([row for one in compared for row in one.arm_rows()]),
        pairs=pairs,
        verdicts=pd.DataFrame(verdicts),
        folds=pd.concat([one.folds for one in compared], ignore_index=True),
        secondary=pd.DataFrame(secondary, columns=SECONDARY),
        more={name: pd.concat(tables, ignore_index=True) for name, tables in more.items()},
    )


def resampled(units: Units, kind: Kind, bootstrap: int, seed: int) -> np.ndarray:
    """How often each patient counts (1 + B, P): first the patients as they are, then stratified resamples of groups."""
    strata = statistics.patient_strata(units.group[units.patient], kind.strata(units.task, units.y))
    drawn = statistics.resample_counts(strata, bootstrap, np.random.default_rng(seed))
    return np.vstack([np.ones(len(units.group)), drawn[:, units.group]])


class _OneTask:
    def __init__(self, units: Units, kind: Kind, arms: Mapping[str, Arm], settings: CompareSettings) -> None:
        self.units, self.kind, self.arms, self.settings = units, kind, arms, settings
        self.baseline = baseline_of(units.task)
        named = [(arm, method) for arm, one in arms.items() for method in one.method]
        # In the order of the study; an arm's first one judges it.
        self.keys = [key for key in [*named, (self.baseline, self.baseline)] if key in units.values]
        if unknown := sorted(f"{arm} ({method})" for arm, method in set(units.values) - set(self.keys)):
            raise DataError(f"'{units.name}' has predictions of unknown arm {', '.join(unknown)}", "Run `dvc repro`.")
        self.methods = {arm: [method for name, method in self.keys if name == arm] for arm, _ in self.keys}
        self.counts = resampled(units, kind, settings.bootstrap, derived_seed(settings.seed, units.name, "bootstrap"))
        self.scores = {key: kind.scores(units, key, self.counts) for key in self.keys}
        self.sizes = {"n_patients": len(units.group), "n_groups": units.groups, "n_videos": units.videos}
        self.folds = pd.DataFrame(self._fold_rows())

    def role(self, arm: str) -> str:
        return "baseline" if arm == self.baseline else self.arms[arm].role

    def _heading(self, key: Key) -> Row:
        return {"task": self.units.name, "arm": key[0], "method": key[1]}

    def _is_primary(self, key: Key) -> bool:
        return key[1] == self.methods[key[0]][0]

    def _pairs(self) -> Iterator[tuple[Key, Key, Row]]:
        """Who is compared with whom, and the heading of their rows.
        Two arms meet with the method they share, else with the other's primary one."""
        for arm, method in self.keys:
            against = self.arms[arm].against if arm in self.arms else ()
            for role in AGAINST[self.role(arm)]:
                for other, methods in self.methods.items():
                    if self.role(other) == role and (role != "reference" or not against or other in against):
                        theirs = method if method in methods else methods[0]
                        heading = {"task": self.units.name, "arm": arm, "reference": other, "method": method}
                        yield (arm, method), (other, theirs), heading | {"reference_method": theirs}

    def _seen(self, key: Key, reference: Key) -> int:
        return max(self.units.seen[key], self.units.seen[reference])

    def arm_rows(self) -> Iterator[Row]:
        """Every metric of every arm with its interval."""
        for key in self.keys:
            common = self.sizes | {"n_seen": self.units.seen[key], "unit": self.units.task.unit}
            for name in self.kind.metrics:
                values = self.scores[key].values[name]
                by_seed, resampled = values[:, 0], values[:, 1:].mean(axis=0)
                low, high = statistics.percentile_interval(resampled)
                row = self._heading(key) | {"role": self.role(key[0]), "primary": self._is_primary(key), "metric": name}
                row |= {"estimate": float(by_seed.mean()), "low": low, "high": high, "seeds": len(by_seed)}
                row |= {"seed_low": float(by_seed.min()), "seed_high": float(by_seed.max()), **common}
                note = self._note(self.scores[key].notes.get(name, ""), resampled, key[0] == self.baseline)
                yield row | {"note": note}

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

    def _fold_rows(self) -> Iterator[Row]:
        """Every metric on every fold alone, as the mean over seeds; `step` numbers the folds."""
        outer = int(self.units.folds.max()) + 1
        places = [(repeat, int(fold)) for repeat, folds in enumerate(self.units.folds) for fold in np.unique(folds)]
        parts = {place: self.units.held_out(*place) for place in places}
        for key in self.keys:
            for (repeat, fold), part in parts.items():
                heading = self._heading(key) | {"repeat": repeat, "fold": fold, "step": repeat * outer + fold}
                sizes = {"n_patients": len(part.group), "n_units": len(part.y)}
                for name, values in self.kind.scores(part, key, np.ones((1, len(part.group)))).values.items():
                    yield heading | {"metric": name, "value": float(values.mean())} | sizes

    def pair_rows(self) -> Iterator[Row]:
        """Differences arm minus reference under the same resamples of groups, and the test of the loss."""
        for key, reference, heading in self._pairs():
            generator = np.random.default_rng(derived_seed(self.settings.seed, *heading.values(), "permutation"))
            for name in self.kind.paired:
                mean, other = (self.scores[one].values[name].mean(axis=0) for one in (key, reference))
                low, high = statistics.percentile_interval((mean - other)[1:])
                row = {"metric": name, "difference": float(mean[0] - other[0]), "low": low, "high": high}
                row |= {"p_value": float("nan"), "test": "", "p_recipe": float("nan")}
                if name == self.kind.loss:
                    ours, theirs = self._losses(key), self._losses(reference)
                    groups = ours.mean(axis=0) - theirs.mean(axis=0)
                    p_value = statistics.sign_flip(groups, self.settings.permutations, generator)
                    how = "exact" if len(groups) <= statistics.EXACT_PATIENTS else "Monte Carlo"
                    row |= {"p_value": p_value, "test": f"sign-flip, {how}"}
                    if min(len(ours), len(theirs)) > 1:
                        row["p_recipe"] = statistics.two_way(ours, theirs).p_value
                row |= self.sizes | {"n_seen": self._seen(key, reference), "primary": self._is_primary(key)}
                yield heading | row

    def _losses(self, key: Key) -> np.ndarray:
        """Each group's part in the mean loss over units and repeats, of every seed (S, G)."""
        losses = self.kind.losses(self.units.task, self.units.y, self.units.values[key]).mean(axis=1)
        return np.stack([self.units.per_group(self.units.per_patient(of_seed)) for of_seed in losses])

    def secondary_rows(self) -> Iterator[Row]:
        """Other tests of the same pairs, never the basis of a verdict."""
        sizes = np.concatenate([np.unique(folds, return_counts=True)[1] for folds in self.units.folds])
        rows = self.folds[self.folds["metric"] == self.kind.loss]
        losses = {key: mine["value"].to_numpy() for key, mine in rows.groupby(["arm", "method"])}
        label = f"Nadeau-Bengio, {self.kind.metrics[self.kind.loss].label}"
        for key, reference, heading in self._pairs():
            found = self.kind.secondary(self.units, key, reference)
            if len(sizes) > 1:
                test_over_train = float(np.mean(sizes / (len(self.units.y) - sizes)))
                differences = losses[key] - losses[reference]
                found = {label: statistics.nadeau_bengio(differences, test_over_train), **found}
            for test, estimate in found.items():
                yield heading | {"test": test, **vars(estimate)}

    def more(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The kind's own tables of every arm, by name."""
        for key in self.keys:
            for name, table in self.kind.tables(self.units, key, self.counts).items():
                yield name, pd.DataFrame(self._heading(key), index=table.index).join(table)

    def facts(self) -> Iterator[PairFacts]:
        """Of the pairs that have a verdict: those of each arm's primary method."""
        for key, reference, _ in self._pairs():
            if self._is_primary(key):
                role, other = self.role(key[0]), self.role(reference[0])
                seen = self._seen(key, reference)
                yield PairFacts(
                    label=self.kind.metrics[self.kind.loss].label,
                    reference_role=other,
                    pretrained=role == "candidate" and self.arms[key[0]].pretrained,
                    confirmatory=(role, other, self.units.task.main, seen) == ("candidate", "reference", True, 0),
                    arm_seeds=len(self.units.values[key]),
                    reference_seeds=len(self.units.values[reference]),
                    main=self.units.task.main,
                )
