"""Promotion: the rule, what a champion carries, that the same call again changes nothing; and rollback."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from unittest.mock import Mock

import numpy as np
import pytest
from small_models import PATIENTS, STUDY, TASK, promoted

from echolung.core.errors import DataError, NoChampionError, PromotionError, RegistryError
from echolung.data.splits import folds_digest
from echolung.methods.fitting import refit
from echolung.registry.candidate import Candidate, Evidence, decide
from echolung.registry.models import champion, champion_number, model_name, roll_back, rolled_back_at, versions
from echolung.serving.model import Model
from echolung.tracking.store import Store, store

pytest_plugins = ["small_models"]

NAME = model_name(STUDY, TASK)

# --- the rule ---

EARNED = Evidence("Brier score", 0.90, 1.05, {"balanced accuracy": (0.60, 1 / 3)}, "data", "split")


def evidence(bar: float = 0.60, **changes: object) -> Evidence:
    return dataclasses.replace(EARNED, bar={"balanced accuracy": (bar, 1 / 3)}, **changes)  # type: ignore[arg-type]


def test_the_rule_and_that_it_needs_the_evidence_of_the_champion() -> None:
    for candidate, present, refusal in [
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
    ]:
        if refusal is None:
            (reason,) = decide(candidate, present)
            assert f"{candidate.loss:.4f}" in reason
        else:
            with pytest.raises(PromotionError, match=refusal) as error:
                decide(candidate, present)
            assert error.value.remedy
    for tags in ({}, {"evidence": "nonsense"}, {"evidence": '{"loss": 1}'}):
        with pytest.raises(PromotionError, match=r"'evidence' is missing or damaged.*--reset"):
            Evidence.of_tags(tags)


# --- a small study (small_models.py) ---


def test_a_first_champion_carries_scores_provenance_and_warnings(candidates, project, promoting) -> None:
    done = promoting(candidates["jepa"])
    found, told = done.version, done.version.tags["warnings"].splitlines()
    assert (done.outcome, found.name, found.number, champion_number(project, NAME)) == ("promoted", NAME, 1, 1)
    assert (found.tags["arm"], found.tags["method"], found.tags["patients"]) == ("jepa", "linear", str(PATIENTS))
    assert found.tags["follows"] == "" and "champion, the first" in champion(project, STUDY, TASK).tags["history"]
    assert Evidence.of_tags(found.tags).split_digest == folds_digest(candidates["jepa"].folds)
    assert "Not shown to be better than random: No difference was shown." in told
    assert not any("baseline" in line for line in told), "better: nothing to warn of"
    assert any("18 patients" in line for line in told) and "echolung_version" in found.tags
    client = project.client()
    card = client.get_model_version(found.name, "1").description
    assert "| balanced accuracy |" in card and "not a medical device" in card and told[0] in card
    (run,) = client.search_runs([client.get_experiment_by_name(f"echolung-{STUDY}-stages").experiment_id])
    assert run.data.metrics["out_of_fold/brier"] == pytest.approx(Evidence.of_tags(found.tags).loss)


@pytest.mark.parametrize("arm", ["jepa", "hand-made"])
def test_the_champion_is_the_method_refitted_on_all_patients(candidates, project, promoting, tmp_path, arm) -> None:
    promoting(candidates[arm])
    model, one = Model.open(champion(project, STUDY, TASK).folder), candidates[arm]
    again = refit(one.method, one.settings, one.name, one.task, one.recordings, one.folds, one.fit_seed, tmp_path)
    ids = list(one.training["sample_id"])
    values = model.method.predict(one.recordings, ids)
    np.testing.assert_allclose(values, again.predict(one.recordings, ids), atol=1e-6)
    assert (model.encoder is None, model.record.novelty.groups) == (arm == "hand-made", PATIENTS)
    assert set(model.record.trained_on) == set(one.recordings.manifest(ids)["sha256"]) and not one.work.exists()


def test_a_later_champion_must_be_better_on_the_same_data(candidates, project, promoting) -> None:
    promoting(candidates["jepa"])
    better = promoting(candidates["stronger"])
    assert (better.outcome, better.version.number) == ("promoted", 2)
    assert "on the same data and split" in better.reasons[0]
    assert "Chosen over version 1 by this very loss" in better.version.tags["warnings"]
    with pytest.raises(PromotionError, match=r"not better than the champion.*--reset"):
        promoting(candidates["jepa"])
    assert champion_number(project, NAME) == 2
    other = dataclasses.replace(candidates["jepa"], task=candidates["jepa"].task.model_copy(update={"unit": "patient"}))
    with pytest.raises(PromotionError, match="different data"):
        promoting(other)
    assert promoting(candidates["jepa"], reset=True).version.number == 3
    found = champion(project, STUDY, TASK).tags
    assert (found["arm"], found["follows"]) == ("jepa", "2")


def test_what_is_not_good_enough_or_not_of_one_piece_is_refused_without_a_trace(candidates, project, promoting) -> None:
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


# --- rollback: the champion before, complete or not at all, and what promotion does afterwards ---


@pytest.fixture(scope="module")
def pair(candidates: dict[str, Candidate], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A project in which version 1 is `jepa`'s, and version 2, the champion, `stronger`'s."""
    place = store(tmp_path_factory.mktemp("pair"))
    for version, arm in enumerate(("jepa", "stronger"), start=1):
        assert promoted(place, candidates[arm]).version.number == version
    return place


@pytest.fixture
def two(pair: Store) -> Iterator[Store]:
    """The project `pair`, restored afterwards."""
    mlruns, kept = pair.root / "mlruns", pair.root / "kept"
    shutil.copytree(mlruns, kept)
    yield pair
    shutil.copytree(kept, mlruns, copy_function=shutil.copyfile, dirs_exist_ok=True)
    shutil.rmtree(kept)


def tags(place: Store) -> dict[int, dict[str, str]]:
    return dict(versions(place, NAME))


def test_the_champion_before_is_champion_again_and_nothing_is_lost(two: Store) -> None:
    before, now = roll_back(two, STUDY, TASK)
    assert (now.name, before, now.number) == (NAME, 2, 1)
    assert (champion_number(two, NAME), champion(two, STUDY, TASK).tags["arm"]) == (1, "jepa")
    found = tags(two)
    assert (found[1]["follows"], found[2]["follows"]) == ("", "1")
    assert "champion, the first\n" in found[1]["history"]
    assert rolled_back_at(found[2]) and not rolled_back_at(found[1])
    with pytest.raises(RegistryError, match=r"version 1 is the champion and followed no other.*--to 2"):
        roll_back(two, STUDY, TASK)
    assert roll_back(two, STUDY, TASK, to=2)[1].number == 2
    assert not rolled_back_at(tags(two)[2])
    assert roll_back(two, STUDY, TASK)[1].number == 1, "version 2 still followed version 1"
    back = "rolled back to version 1"
    events = ["champion, promoted over version 1", back, "champion again, rolled back from version 1", back]
    assert [line.split(" ", 1)[1] for line in tags(two)[2]["history"].splitlines()] == events


def test_what_cannot_be_returned_to_is_refused(candidates, project, promoting) -> None:
    with pytest.raises(NoChampionError, match=rf"has no champion to roll back\. Run `echolung promote {TASK}`\.$"):
        roll_back(project, STUDY, TASK)
    promoting(candidates["jepa"])
    for to, said in ((None, "followed no"), (1, "version 1 is not an earlier"), (9, "version 9 is not an earlier")):
        with pytest.raises(RegistryError, match=said) as error:
            roll_back(project, STUDY, TASK, to)
        assert error.value.remedy
    assert champion_number(project, NAME) == 1


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_an_interrupted_rollback_can_be_done_again(two, candidates, monkeypatch, call) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"mlflow.tracking.MlflowClient.{call}", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            roll_back(two, STUDY, TASK)
    assert champion_number(two, NAME) == 2
    assert promoted(two, candidates["stronger"]).outcome == "unchanged", "it is the champion"
    assert roll_back(two, STUDY, TASK)[1].number == 1
    with pytest.raises(PromotionError, match="was rolled back"):
        promoted(two, candidates["stronger"])


def test_after_a_rollback_this_model_is_refused_and_a_better_one_follows_the_restored_champion(two, candidates) -> None:
    roll_back(two, STUDY, TASK)
    assert promoted(two, candidates["jepa"]).outcome == "unchanged", "it is the champion"
    said = rf"champion as version 2 and was rolled back.*echolung rollback {TASK} --to 2.*--reset"
    with pytest.raises(PromotionError, match=said):
        promoted(two, candidates["stronger"])
    assert champion_number(two, NAME) == 1
    roll_back(two, STUDY, TASK, to=2)
    assert promoted(two, candidates["stronger"]).outcome == "unchanged"
    roll_back(two, STUDY, TASK)
    assert promoted(two, candidates["stronger"], reset=True).outcome == "promoted"
    assert roll_back(two, STUDY, TASK)[1].number == 1, "it followed version 1, not version 2"
