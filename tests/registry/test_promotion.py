"""Promotion: the rule, what a champion carries, and that the same call again changes nothing."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from small_models import PATIENTS, STUDY, TASK, Promote

from echolung.core.errors import DataError, PromotionError
from echolung.data.splits import folds_digest
from echolung.methods.fitting import refit
from echolung.registry.candidate import Candidate
from echolung.registry.models import champion, champion_number, model_name
from echolung.registry.rule import Evidence, decide
from echolung.serving.model import Model
from echolung.tracking.store import Store

pytest_plugins = ["small_models"]
pytestmark = pytest.mark.usefixtures("one_thread")

# --- the rule ---

EARNED = Evidence("Brier score", 0.90, 1.05, {"balanced accuracy": (0.60, 1 / 3)}, "data", "split")


def evidence(bar: float = 0.60, **changes: object) -> Evidence:
    return dataclasses.replace(EARNED, bar={"balanced accuracy": (bar, 1 / 3)}, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "present", "refusal"),
    [
        (evidence(), None, None),
        (evidence(loss=1.05), None, "does not beat the baseline out of fold: Brier score 1.0500, baseline 1.0500"),
        (evidence(loss=1.20), None, "does not beat the baseline"),
        (evidence(bar=1 / 3), None, r"balanced accuracy 0.333 \(more than 0.333 is needed\)"),
        (evidence(bar=math.nan), None, "does not beat the baseline"),
        (evidence(loss=math.nan), None, "does not beat the baseline"),
        (evidence(loss=0.89), evidence(), None),
        (evidence(loss=0.90), evidence(), "not better than the champion.*0.9000, champion 0.9000"),
        (evidence(loss=math.nan), evidence(), "not better than the champion"),
        (evidence(loss=0.10, data_digest="new"), evidence(), "different data or splits.*cannot be compared"),
        (evidence(loss=0.10, split_digest="new"), evidence(), "different data or splits.*cannot be compared"),
    ],
)
def test_the_rule(candidate: Evidence, present: Evidence | None, refusal: str | None) -> None:
    if refusal is None:
        (reason,) = decide(candidate, present)
        assert f"{candidate.loss:.4f}" in reason
    else:
        with pytest.raises(PromotionError, match=refusal) as error:
            decide(candidate, present)
        assert error.value.remedy


@pytest.mark.parametrize("tags", [{}, {"evidence": "nonsense"}, {"evidence": '{"loss": 1}'}])
def test_a_champion_without_its_evidence_cannot_be_compared(tags: dict[str, str]) -> None:
    with pytest.raises(PromotionError, match="'evidence' is missing or damaged") as error:
        Evidence.of_tags(tags)
    assert "--reset" in error.value.remedy


# --- a small study (small_models.py) ---


def test_a_first_champion_carries_scores_provenance_and_warnings(
    candidates: dict[str, Candidate], project: Store, promoting: Promote
) -> None:
    done = promoting(candidates["jepa"])
    assert (done.outcome, done.name, done.version) == ("promoted", model_name(STUDY, TASK), 1)
    found = champion(project, STUDY, TASK)
    assert (found.tags["arm"], found.tags["method"], found.tags["patients"]) == ("jepa", "linear", str(PATIENTS))
    assert found.tags["follows"] == "" and "champion, the first" in found.tags["history"]
    assert "echolung_version" in found.tags
    assert Evidence.of_tags(found.tags).split_digest == folds_digest(candidates["jepa"].folds)
    assert done.warnings == found.tags["warnings"].splitlines()
    assert "Not shown to be better than random: No difference was shown." in done.warnings
    assert not any("baseline" in line for line in done.warnings), "better: nothing to warn of"
    assert any("18 patients" in line for line in done.warnings)
    card = project.client().get_model_version(found.name, "1").description
    assert "| balanced accuracy |" in card and "not a medical device" in card and done.warnings[0] in card
    runs = project.client().search_runs(
        [project.client().get_experiment_by_name(f"echolung-{STUDY}-stages").experiment_id]
    )
    assert runs[0].data.metrics["out_of_fold/brier"] == pytest.approx(Evidence.of_tags(found.tags).loss)


@pytest.mark.parametrize("arm", ["jepa", "hand-made"])
def test_the_champion_is_the_method_refitted_on_all_patients(
    candidates: dict[str, Candidate], project: Store, promoting: Promote, tmp_path: Path, arm: str
) -> None:
    promoting(candidates[arm])
    model, one = Model.open(champion(project, STUDY, TASK).folder), candidates[arm]
    again = refit(one.method, one.settings, one.name, one.task, one.recordings, one.folds, one.fit_seed, tmp_path)
    ids = list(one.training["sample_id"])
    values = model.method.predict(one.recordings, ids)
    np.testing.assert_allclose(values, again.predict(one.recordings, ids), atol=1e-6)
    assert (model.encoder is None, model.record.novelty.groups) == (arm == "hand-made", PATIENTS)
    assert not one.work.exists()
    contents = one.recordings.manifest(ids)["sha256"]
    assert set(model.record.trained_on) == set(contents)


def test_a_later_champion_must_be_better_on_the_same_data(
    candidates: dict[str, Candidate], project: Store, promoting: Promote
) -> None:
    promoting(candidates["jepa"])
    better = promoting(candidates["stronger"])
    assert (better.outcome, better.version) == ("promoted", 2)
    assert "on the same data and split" in better.reasons[0]
    assert any("Chosen over version 1 by this very loss" in line for line in better.warnings)
    with pytest.raises(PromotionError, match="not better than the champion") as error:
        promoting(candidates["jepa"])
    assert "--reset" in error.value.remedy
    assert champion_number(project, model_name(STUDY, TASK)) == 2
    other = dataclasses.replace(candidates["jepa"], task=candidates["jepa"].task.model_copy(update={"unit": "patient"}))
    with pytest.raises(PromotionError, match="different data"):
        promoting(other)
    assert promoting(candidates["jepa"], reset=True).version == 3
    found = champion(project, STUDY, TASK).tags
    assert (found["arm"], found["follows"]) == ("jepa", "2")


def test_what_is_not_good_enough_or_not_of_one_piece_is_refused_and_leaves_nothing_behind(
    candidates: dict[str, Candidate], project: Store, promoting: Promote
) -> None:
    one, rows = candidates["jepa"], candidates["jepa"].predictions
    mine = rows["arm"] == "jepa"
    noise = rows.assign(**{f"p_{k}": rows[f"p_{k}"].where(~mine, [0.2, 0.7, 0.1][k]) for k in range(3)})
    seen = rows.assign(seen_in_pretraining=mine & (rows["sample_id"] <= "pocus/01"))
    faults = [
        ({"predictions": noise}, PromotionError, "does not beat the baseline"),
        ({"predictions": seen}, PromotionError, "encoder of jepa was pretrained on 2 of the recordings"),
        ({"method": "attentive"}, PromotionError, r"no out-of-fold predictions of jepa seed 0 \(attentive\)"),
        ({"predictions": rows.assign(split_digest="older")}, DataError, "another split"),
        ({"predictions": rows[~(mine & (rows["fold"] == 1))]}, DataError, "lacks videos"),
        ({"encoder": candidates["stronger"].encoder}, DataError, "not made by"),
    ]
    for changes, kind, said in faults:
        with pytest.raises(kind, match=said) as error:
            promoting(dataclasses.replace(one, **changes))  # type: ignore[arg-type]
        assert error.value.remedy
    assert project.client().search_registered_models() == []
