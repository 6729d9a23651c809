"""Rollback: the champion before, complete or not at all, and what promotion does afterwards."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from small_models import STUDY, TASK, Promote, promoted

from echolung.core.errors import NoChampionError, PromotionError, RegistryError
from echolung.registry.candidate import Candidate
from echolung.registry.models import champion, champion_number, model_name, roll_back, rolled_back_at, versions
from echolung.tracking.store import Store, store

pytest_plugins = ["small_models"]
pytestmark = pytest.mark.usefixtures("one_thread")
NAME = model_name(STUDY, TASK)


@pytest.fixture(scope="module")
def pair(candidates: dict[str, Candidate], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A project in which version 1 is `jepa`'s, and version 2, the champion, `stronger`'s."""
    place = store(tmp_path_factory.mktemp("pair"))
    for version, arm in enumerate(("jepa", "stronger"), start=1):
        assert promoted(place, candidates[arm]).version == version
    return place


@pytest.fixture
def two(pair: Store) -> Iterator[Store]:
    """The project `pair`, restored afterwards."""
    mlruns, kept = pair.root / "mlruns", pair.root / "kept"
    shutil.copytree(mlruns, kept)
    yield pair
    for path in kept.rglob("*"):
        if path.is_file():
            target = mlruns / path.relative_to(kept)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
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
    with pytest.raises(RegistryError, match="version 1 is the champion and followed no other") as error:
        roll_back(two, STUDY, TASK)
    assert "--to 2" in error.value.remedy
    assert roll_back(two, STUDY, TASK, to=2)[1].number == 2
    assert not rolled_back_at(tags(two)[2])
    assert roll_back(two, STUDY, TASK)[1].number == 1, "version 2 still followed version 1"
    events = [line.split(" ", 1)[1] for line in tags(two)[2]["history"].splitlines()]
    assert events == [
        "champion, promoted over version 1",
        "rolled back to version 1",
        "champion again, rolled back from version 1",
        "rolled back to version 1",
    ]


def test_what_cannot_be_returned_to_is_refused(
    candidates: dict[str, Candidate], project: Store, promoting: Promote
) -> None:
    with pytest.raises(NoChampionError, match="has no champion to roll back") as none:
        roll_back(project, STUDY, TASK)
    assert none.value.remedy == f"Run `echolung promote {TASK}`."
    promoting(candidates["jepa"])
    for to, said in (
        (None, "followed no other"),
        (1, "version 1 is not an earlier"),
        (9, "version 9 is not an earlier"),
    ):
        with pytest.raises(RegistryError, match=said) as error:
            roll_back(project, STUDY, TASK, to)
        assert error.value.remedy
    assert champion_number(project, NAME) == 1


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_an_interrupted_rollback_can_be_done_again(
    two: Store, candidates: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"mlflow.tracking.MlflowClient.{call}", killed)
        with pytest.raises(Killed):
            roll_back(two, STUDY, TASK)
    assert champion_number(two, NAME) == 2
    assert promoted(two, candidates["stronger"]).outcome == "unchanged", "it is the champion"
    assert roll_back(two, STUDY, TASK)[1].number == 1
    with pytest.raises(PromotionError, match="was rolled back"):
        promoted(two, candidates["stronger"])


def test_after_a_rollback_exactly_this_model_is_refused_and_a_better_one_follows_the_restored_champion(
    two: Store, candidates: dict[str, Candidate]
) -> None:
    roll_back(two, STUDY, TASK)
    assert promoted(two, candidates["jepa"]).outcome == "unchanged", "it is the champion"
    with pytest.raises(PromotionError, match="champion as version 2 and was rolled back") as error:
        promoted(two, candidates["stronger"])
    assert f"echolung rollback {TASK} --to 2" in error.value.remedy and "--reset" in error.value.remedy
    assert champion_number(two, NAME) == 1
    roll_back(two, STUDY, TASK, to=2)
    assert promoted(two, candidates["stronger"]).outcome == "unchanged"
    roll_back(two, STUDY, TASK)
    done = promoted(two, candidates["stronger"], reset=True)
    assert done.outcome == "promoted"
    assert roll_back(two, STUDY, TASK)[1].number == 1, "it followed version 1, not version 2"
