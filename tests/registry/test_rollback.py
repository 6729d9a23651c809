"""Rollback: the champion before, whole or not at all, whatever was interrupted; and what promotion does afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from small_candidates import promoted

from echolung.core.errors import PromotionError, RegistryError, TrackingError
from echolung.registry.candidate import Candidate
from echolung.registry.models import champion, champion_number, model_name
from echolung.registry.promote import Promotion
from echolung.registry.rollback import roll_back
from echolung.registry.succession import history, rolled_back
from echolung.tracking.store import Store, store

pytest_plugins = ["small_candidates"]
pytestmark = pytest.mark.usefixtures("one_thread")

STUDY, TASK = "phantom", "pocus-pathology"
NAME = model_name(STUDY, TASK)
Elect = Callable[..., Promotion]


@pytest.fixture(scope="module")
def pair(candidates: dict[str, Candidate], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A project in which version 1 is `jepa`'s, and version 2, the champion, `stronger`'s."""
    place = store(tmp_path_factory.mktemp("pair"))
    for version, arm in enumerate(("jepa", "stronger"), start=1):
        assert promoted(place, candidates[arm]).version == version
    return place


@pytest.fixture
def two(pair: Store, project: Store, candidates: dict[str, Candidate]) -> Iterator[dict[str, Candidate]]:
    """`project` with the two versions; the files of models, which its database shares with `pair`, come back."""
    database = pair.root / "mlruns" / "mlflow.db"
    shutil.copyfile(database, project.root / "mlruns" / "mlflow.db")
    kept = project.root / "kept"
    shutil.copytree(pair.artifacts, kept)
    yield candidates
    shutil.rmtree(pair.artifacts)
    shutil.copytree(kept, pair.artifacts)


def moves(project: Store) -> list[tuple[int | None, int, str]]:
    return [(move.before, move.after, move.how) for move in history(project, NAME)]


def test_the_champion_before_is_champion_again_and_nothing_is_lost(two: Any, project: Store) -> None:
    done = roll_back(project, STUDY, TASK)
    assert (done.name, done.before, done.after) == (NAME, 2, 1)
    found = champion(project, STUDY, TASK)
    assert (found.number, found.tags["arm"]) == (1, "jepa")
    versions = project.client().search_model_versions(f"name = '{NAME}'")
    assert {int(version.version) for version in versions} == {1, 2}
    assert moves(project) == [(None, 1, "promote"), (1, 2, "promote"), (2, 1, "rollback")]
    assert done.since == history(project, NAME)[0].at
    with pytest.raises(RegistryError, match="before version 1 is on record") as error:
        roll_back(project, STUDY, TASK)
    assert "--to 2" in error.value.remedy
    assert roll_back(project, STUDY, TASK, to=2).after == 2
    assert champion_number(project, NAME) == 2
    assert roll_back(project, STUDY, TASK).after == 1, "the one before version 2 is still version 1"


def test_what_cannot_be_gone_back_to_is_refused(candidates: dict[str, Candidate], project: Store, elect: Elect) -> None:
    with pytest.raises(RegistryError, match="has no champion to roll back") as error:
        roll_back(project, STUDY, TASK)
    assert error.value.remedy == "Run `echolung promote pocus-pathology`."
    elect(candidates["jepa"])
    for to, said in ((None, "before version 1"), (1, "champion already"), (9, "never was promoted")):
        with pytest.raises(RegistryError, match=said) as error:
            roll_back(project, STUDY, TASK, to)
        assert error.value.remedy
    assert champion_number(project, NAME) == 1
    assert len(moves(project)) == 1


@pytest.mark.parametrize("fault", ["gone", "damaged", "another file", "tag"])
def test_a_version_that_is_not_whole_is_not_gone_back_to(two: Any, project: Store, fault: str) -> None:
    roll_back(project, STUDY, TASK)
    first = champion(project, STUDY, TASK)
    roll_back(project, STUDY, TASK, to=2)
    weights = first.classifier / "encoder.safetensors"
    if fault == "gone":
        shutil.rmtree(first.model)
    elif fault == "damaged":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
    elif fault == "another file":
        (first.classifier / "more.txt").write_text("")
    else:
        project.client().delete_model_version_tag(NAME, "1", "classifier_digest")
    with pytest.raises((RegistryError, TrackingError), match="version 1 cannot be read") as error:
        roll_back(project, STUDY, TASK)
    assert error.value.remedy
    assert champion_number(project, NAME) == 2


def test_a_champion_that_is_gone_can_be_rolled_back_from(two: Any, project: Store) -> None:
    shutil.rmtree(champion(project, STUDY, TASK).model)
    with pytest.raises((RegistryError, TrackingError), match="cannot be read") as error:
        champion(project, STUDY, TASK)
    assert "echolung rollback pocus-pathology" in error.value.remedy
    assert roll_back(project, STUDY, TASK).after == 1
    assert champion(project, STUDY, TASK).number == 1


class Killed(BaseException):
    """The process ends here."""


def interrupt(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(f"mlflow.tracking.MlflowClient.{call}", killed)


@pytest.mark.parametrize("call", ["set_registered_model_tag", "set_registered_model_alias"])
def test_a_rollback_that_was_killed_has_happened_or_not_and_can_be_done_again(
    two: dict[str, Candidate], project: Store, elect: Elect, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, call)
        with pytest.raises(Killed):
            roll_back(project, STUDY, TASK)
    assert champion(project, STUDY, TASK).number == 2
    assert moves(project) == [(None, 1, "promote"), (1, 2, "promote")]
    assert rolled_back(history(project, NAME)) == {}
    assert elect(two["stronger"]).outcome == "unchanged", "it was not rolled back"
    assert roll_back(project, STUDY, TASK).after == 1
    assert moves(project) == [(None, 1, "promote"), (1, 2, "promote"), (2, 1, "rollback")]


@pytest.mark.parametrize("call", ["set_registered_model_tag", "set_registered_model_alias"])
def test_a_promotion_that_was_killed_leaves_the_champion_and_can_be_done_again(
    two: dict[str, Candidate], project: Store, elect: Elect, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = moves(project)
    with monkeypatch.context() as patch:
        interrupt(patch, call)
        with pytest.raises(Killed):
            elect(two["jepa"], reset=True)
    assert champion(project, STUDY, TASK).number == 2
    assert moves(project) == before
    again = elect(two["jepa"], reset=True)
    assert again.outcome == "promoted"
    assert moves(project) == [*before, (2, again.version, "promote")]
    assert roll_back(project, STUDY, TASK).after == 2


def test_after_a_rollback_the_same_model_does_not_come_back_by_itself(
    two: dict[str, Candidate], project: Store, elect: Elect
) -> None:
    roll_back(project, STUDY, TASK)
    assert elect(two["jepa"]).outcome == "unchanged", "it is the champion"
    with pytest.raises(PromotionError, match="champion as version 2 and was rolled back") as error:
        elect(two["stronger"])
    assert "echolung rollback pocus-pathology --to 2" in error.value.remedy
    assert "--reset" in error.value.remedy
    assert champion_number(project, NAME) == 1
    roll_back(project, STUDY, TASK, to=2)
    assert elect(two["stronger"]).outcome == "unchanged"


def test_after_a_rollback_a_better_one_follows_the_champion_that_was_gone_back_to(
    two: dict[str, Candidate], project: Store, elect: Elect
) -> None:
    roll_back(project, STUDY, TASK)
    done = elect(two["stronger"], reset=True)
    assert (done.outcome, done.version) == ("promoted", 3)
    assert roll_back(project, STUDY, TASK).after == 1, "version 3 followed version 1, not version 2"


def test_an_alias_that_someone_moved_by_hand_is_the_truth(two: Any, project: Store) -> None:
    project.client().set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(RegistryError, match="before version 1"):
        roll_back(project, STUDY, TASK)
    assert roll_back(project, STUDY, TASK, to=2).before == 1
    project.client().set_registered_model_tag(NAME, "champion.0002", "nonsense")
    with pytest.raises(RegistryError, match=r"champion\.0002 .* does not say who was champion") as error:
        roll_back(project, STUDY, TASK)
    assert "Delete the tag" in error.value.remedy


def test_a_tag_deleted_as_the_remedy_says_costs_this_one_move_and_no_other(
    two: dict[str, Candidate], project: Store, elect: Elect
) -> None:
    assert elect(two["jepa"], reset=True).version == 3
    project.client().set_registered_model_tag(NAME, "champion.0002", "nonsense")
    with pytest.raises(RegistryError, match=r"champion\.0002") as error:
        roll_back(project, STUDY, TASK)
    assert "Delete the tag" in error.value.remedy
    project.client().delete_registered_model_tag(NAME, "champion.0002")
    assert moves(project) == [(None, 1, "promote"), (2, 3, "promote")]
    assert roll_back(project, STUDY, TASK).after == 2
    assert moves(project) == [(None, 1, "promote"), (2, 3, "promote"), (3, 2, "rollback")]
    assert roll_back(project, STUDY, TASK, to=3).after == 3
    assert roll_back(project, STUDY, TASK).after == 2, "version 3 followed version 2"


def test_the_chain_goes_on_beyond_ten_thousand(two: Any, project: Store) -> None:
    project.client().set_registered_model_tag(NAME, "champion.9999", next(iter(_links(project).values())))
    roll_back(project, STUDY, TASK)
    roll_back(project, STUDY, TASK, to=2)
    assert list(_links(project))[-2:] == ["champion.10000", "champion.10001"]
    assert moves(project)[-2:] == [(2, 1, "rollback"), (1, 2, "rollback")]


def _links(project: Store) -> dict[str, str]:
    tags = project.client().get_registered_model(NAME).tags
    return {key: tags[key] for key in sorted(tags, key=lambda key: (len(key), key)) if key.startswith("champion.")}


def test_a_version_whose_promotion_was_killed_never_was_promoted(
    two: dict[str, Candidate], project: Store, elect: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, "set_registered_model_alias")
        with pytest.raises(Killed):
            elect(two["jepa"], reset=True)
    assert {int(found.version) for found in project.client().search_model_versions(f"name = '{NAME}'")} == {1, 2, 3}
    for _ in range(2):  # with the alias to tell it by, and with the next move
        with pytest.raises(RegistryError, match="version 3 never was promoted") as error:
            roll_back(project, STUDY, TASK, to=3)
        assert "3" not in error.value.remedy
        roll_back(project, STUDY, TASK)
        roll_back(project, STUDY, TASK, to=2)


def test_a_move_that_was_made_but_not_confirmed_counts(
    two: Any, project: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = project.client().set_registered_model_tag
    with monkeypatch.context() as patch:
        calls: list[object] = []

        def killed(client: object, *arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 2:
                raise Killed
            whole(*arguments)

        patch.setattr("mlflow.tracking.MlflowClient.set_registered_model_tag", killed)
        with pytest.raises(Killed):
            roll_back(project, STUDY, TASK)
    made = [(None, 1, "promote"), (1, 2, "promote"), (2, 1, "rollback")]
    assert (champion_number(project, NAME), moves(project)) == (1, made)
    assert roll_back(project, STUDY, TASK, to=2).after == 2
    assert moves(project) == [*made, (1, 2, "rollback")]
