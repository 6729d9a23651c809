"""Promotion: the rule, what travels with a champion, and that the same call again changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_candidates import PATIENTS, SETTINGS, SIGNALS, TASK, VIDEOS

from echolung.core.errors import CheckpointError, DataError, PromotionError
from echolung.data.splits import folds_digest
from echolung.data.video import encode
from echolung.embedding.features import Features
from echolung.kinds import metrics
from echolung.methods.probes.heads import apply_probe
from echolung.methods.probes.probe import refit
from echolung.registry.candidate import Candidate, out_of_fold
from echolung.registry.models import DIGEST, champion, find_champion, folder_digest, load_pyfunc
from echolung.registry.promote import Promotion
from echolung.registry.rule import Evidence, decide
from echolung.serving.model import Classifier, predict_videos
from echolung.tracking.store import Store

pytest_plugins = ["small_candidates"]
pytestmark = pytest.mark.usefixtures("one_thread")

# --- the rule ---

EARNED = Evidence(0.90, 0.60, 1.05, 1 / 3, "data", "split")


def evidence(**changes: object) -> Evidence:
    return dataclasses.replace(EARNED, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "present", "refusal"),
    [
        (evidence(), None, None),
        (evidence(log_loss=1.05), None, "does not beat the majority class out of fold: log-loss 1.0500 against 1.0500"),
        (evidence(log_loss=1.20), None, "does not beat the majority class"),
        (evidence(balanced_accuracy=1 / 3), None, "balanced accuracy 0.333 against 0.333 by chance"),
        (evidence(balanced_accuracy=math.nan), None, "does not beat the majority class"),
        (evidence(log_loss=math.nan), None, "does not beat the majority class"),
        (evidence(log_loss=0.89), evidence(), None),
        (evidence(log_loss=0.90), evidence(), "no better than the champion.*0.9000 against 0.9000"),
        (evidence(log_loss=0.91), evidence(), "no better than the champion.*0.9100 against 0.9000"),
        (evidence(log_loss=0.10, data_digest="new"), evidence(), "another data .*data.*new.*cannot be compared"),
        (evidence(log_loss=0.10, split_digest="new"), evidence(), "another split .*split.*new.*cannot be compared"),
    ],
)
def test_the_rule(candidate: Evidence, present: Evidence | None, refusal: str | None) -> None:
    if refusal is None:
        (first, *_) = decide(candidate, present)
        assert f"{candidate.log_loss:.4f} against" in first
    else:
        with pytest.raises(PromotionError, match=refusal) as error:
            decide(candidate, present)
        assert error.value.remedy


def test_evidence_survives_its_tags_to_the_last_digit() -> None:
    exact = evidence(log_loss=0.1 + 0.2)
    assert Evidence.of_tags(exact.tags()) == exact
    with pytest.raises(PromotionError, match="evidence_log_loss") as error:
        Evidence.of_tags({})
    assert "--reset" in error.value.remedy


# --- a small study (small_candidates.py) ---


def test_scores_are_those_of_the_candidates_own_rows(candidates: dict[str, Candidate]) -> None:
    found = out_of_fold(candidates["jepa"], bootstrap=200)
    rows = candidates["jepa"].predictions
    rows = rows[(rows["arm"] == "jepa")]
    losses = metrics.log_losses(rows["y_true"].to_numpy(), rows[["p_0", "p_1", "p_2"]].to_numpy())
    expected = pd.Series(losses).groupby(rows["patient_id"].to_numpy()).mean().mean()
    assert found["log_loss"].estimate == pytest.approx(expected)
    assert found["log_loss"].low < expected < found["log_loss"].high
    assert found["balanced_accuracy"].majority == pytest.approx(1 / 3)


def test_a_first_champion_carries_scores_provenance_and_warnings(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion]
) -> None:
    done = elect(candidates["jepa"])
    assert (done.outcome, done.name, done.version) == ("promoted", "echolung-phantom-pocus-pathology", 1)
    assert "of the majority class" in done.reasons[0]
    found = champion(project, "phantom", "pocus-pathology")
    assert found.tags["arm"] == "jepa"
    assert found.tags["patients"] == str(PATIENTS)
    assert found.tags["evidence_split_digest"] == folds_digest(candidates["jepa"].folds)
    assert "95% interval" in found.tags["out_of_fold_balanced_accuracy"]
    assert "procedure" in found.tags["out_of_fold_scores_are"]
    assert "echolung_version" in found.tags
    assert done.warnings == found.tags["warnings"].splitlines()
    assert any("Not shown to be better than random: No difference was shown." in line for line in done.warnings)
    assert not any("majority" in line for line in done.warnings)
    assert any(f"{VIDEOS} videos of {PATIENTS} patients" in line for line in done.warnings)
    described = project.client().get_model_version(done.name, "1")
    assert "| balanced accuracy |" in described.description
    assert project.client().get_run(described.run_id).data.metrics["out_of_fold/log_loss"] > 0


def test_the_champion_is_the_refit_on_all_patients_and_answers_the_same_everywhere(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion], tmp_path: Path
) -> None:
    candidate = candidates["jepa"]
    elect(candidate)
    found = champion(project, "phantom", "pocus-pathology")
    classifier = Classifier.open(found.classifier)
    features = Features.open(candidate.features)
    probe, _ = refit(features, candidate.folds, candidate.name, TASK, SETTINGS, "linear")
    tokens = torch.tensor(features.tokens)
    assert torch.equal(apply_probe(classifier.probe.cpu(), tokens), apply_probe(probe.cpu(), tokens))
    frames = np.random.default_rng(0).integers(0, 255, (20, 40, 48), dtype=np.uint8)
    encode(tmp_path / "clip.mp4", frames, 20, "h264")
    served = load_pyfunc(found).predict(pd.DataFrame({"video": [str(tmp_path / "clip.mp4")]}))
    pd.testing.assert_frame_equal(served, predict_videos(found.classifier, [tmp_path / "clip.mp4"])[1])


def test_promoting_the_champion_again_changes_nothing(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion]
) -> None:
    elect(candidates["jepa"])
    again = elect(candidates["jepa"])
    assert (again.outcome, again.version) == ("unchanged", 1)
    assert "is the champion already" in again.reasons[0]
    versions = project.client().search_model_versions("name = 'echolung-phantom-pocus-pathology'")
    assert len(versions) == 1


@pytest.mark.parametrize("reset", [False, True])
def test_an_arm_that_learnt_from_the_videos_it_is_scored_on_is_refused(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion], reset: bool
) -> None:
    elect(candidates["jepa"])
    with pytest.raises(PromotionError, match=f"pretrained on 2 of the {VIDEOS} videos") as error:
        elect(candidates["spoilt"], reset=reset)
    assert "another arm" in error.value.remedy
    assert champion(project, "phantom", "pocus-pathology").tags["arm"] == "jepa"


def test_a_champion_of_other_code_is_made_anew_without_being_measured_against_itself(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion], monkeypatch: pytest.MonkeyPatch
) -> None:
    elect(candidates["jepa"])
    monkeypatch.setattr("echolung.registry.promote.code_digest", lambda *modules: "newer")
    again = elect(candidates["jepa"])
    assert (again.outcome, again.version) == ("promoted", 2)
    assert "made anew: other code fitted it" in again.reasons[0]
    assert "of the majority class" in again.reasons[1]
    assert not any("Chosen over" in line for line in again.warnings)
    assert elect(candidates["jepa"]).outcome == "unchanged"


def test_a_champion_that_this_version_cannot_open_is_made_anew(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion]
) -> None:
    """As one is that an earlier version registered, whose classifier.json has another form."""
    elect(candidates["jepa"])
    found = champion(project, "phantom", "pocus-pathology")
    path = found.classifier / "classifier.json"
    path.write_text(path.read_text().replace("echolung-classifier-3", "echolung-classifier-1"))
    project.client().set_model_version_tag(found.name, "1", DIGEST, folder_digest(found.classifier))
    with pytest.raises(CheckpointError, match="holds no classifier") as error:
        Classifier.open(champion(project, "phantom", "pocus-pathology").classifier)
    assert "echolung promote" in error.value.remedy
    again = elect(candidates["jepa"])
    assert (again.outcome, again.version) == ("promoted", 2)
    assert "holds no classifier" in again.reasons[0]
    Classifier.open(champion(project, "phantom", "pocus-pathology").classifier)


def test_a_later_champion_must_be_better_on_the_same_patients(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion]
) -> None:
    elect(candidates["jepa"])
    better = elect(candidates["stronger"])
    assert (better.outcome, better.version) == ("promoted", 2)
    assert "of the present champion" in better.reasons[0]
    assert any("Chosen over version 1 by the very log-loss" in line for line in better.warnings)
    with pytest.raises(PromotionError, match="no better than the champion"):
        elect(candidates["jepa"])
    assert champion(project, "phantom", "pocus-pathology").number == 2
    assert elect(candidates["jepa"], reset=True).version == 3
    assert champion(project, "phantom", "pocus-pathology").tags["arm"] == "jepa"


def test_a_champion_of_another_split_is_not_compared_with(
    candidates: dict[str, Candidate], elect: Callable[..., Promotion]
) -> None:
    elect(candidates["jepa"])
    first = candidates["stronger"]
    ones = first.folds["sample_id"] != "pocus/00"
    folds = first.folds[ones].reset_index(drop=True)
    rows = first.predictions[first.predictions["sample_id"] != "pocus/00"]
    other = dataclasses.replace(
        first, folds=folds, predictions=rows.assign(split_digest=folds_digest(folds)).reset_index(drop=True)
    )
    with pytest.raises(PromotionError, match="another data") as error:
        elect(other)
    assert "--reset" in error.value.remedy


def test_noise_is_refused_and_leaves_nothing_behind(
    candidates: dict[str, Candidate], project: Store, elect: Callable[..., Promotion]
) -> None:
    with pytest.raises(PromotionError, match="does not beat the majority class"):
        elect(candidates["noise"])
    assert find_champion(project, "phantom", "pocus-pathology") is None
    assert project.client().search_registered_models() == []


def test_evidence_that_is_not_of_one_piece_is_refused(
    candidates: dict[str, Candidate], elect: Callable[..., Promotion]
) -> None:
    change = functools.partial(dataclasses.replace, candidates["jepa"])
    with pytest.raises(DataError, match="was not made by the encoder"):
        elect(change(encoder=candidates["noise"].encoder))
    with pytest.raises(PromotionError, match=r"no out-of-fold predictions of jepa seed 0 \(attentive\)"):
        elect(change(probe="attentive"))
    rows = candidates["jepa"].predictions
    with pytest.raises(DataError, match="another split"):
        elect(change(predictions=rows.assign(split_digest="older")))
    gone = rows[~((rows["arm"] == "jepa") & (rows["fold"] == 1))]
    with pytest.raises(DataError, match="fold 1"):
        elect(change(predictions=gone))
    assert rows["arm"].nunique() == len(SIGNALS) + 1
