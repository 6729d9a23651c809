"""Who was champion when: every move of the alias `champion` is written down before it is made.

Where the alias points is the truth about the present. What was written down is a chain, `champion.0001` and so on among
the registered model's tags: each link says from which version to which, when, and by which command, and afterwards
that the alias did move. A process can be killed between any two of these. A move that was made and not confirmed is
known by the next one, which starts where it ended, or by the alias; one that was not made is left out of the history,
and nothing has to be repaired.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import asdict, dataclass
from typing import Literal

from echolung.core.errors import RegistryError
from echolung.registry import models as registry
from echolung.registry.models import Version
from echolung.tracking.store import Store, reported

PREFIX = "champion."
How = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Move:
    """The alias went from one version (None: there was no champion) to another."""

    before: int | None
    after: int
    at: str
    """UTC, ISO 8601."""
    how: How
    made: bool = False
    """Whether the alias is known to have moved; `history` knows of more."""


def crown(store: Store, version: Version, how: How) -> Move:
    """Make `version` the champion, and write down whom it follows."""
    move = Move(
        before=registry.champion_number(store, version.name),
        after=version.number,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        how=how,
    )
    with reported(store):
        last = max((number for number, _ in _chain(store, version.name)), default=0)
        key = f"{PREFIX}{last + 1:04d}"  # not their count: someone may have deleted a link
        store.client().set_registered_model_tag(version.name, key, json.dumps(asdict(move)))
    registry.make_champion(store, version)
    move = dataclasses.replace(move, made=True)
    with reported(store):
        store.client().set_registered_model_tag(version.name, key, json.dumps(asdict(move)))
    return move


def written_moves(store: Store, name: str) -> list[Move]:
    """Every move that was written down, oldest first; raises RegistryError if someone changed what it says."""
    return [move for _, move in _chain(store, name)]


def _chain(store: Store, name: str) -> list[tuple[int, Move]]:
    """Every link and its number, in order; raises as `written_moves`."""
    tags = registry.model_tags(store, name)
    found = []
    for key in (key for key in tags if key.startswith(PREFIX)):
        try:
            found.append((int(key.removeprefix(PREFIX)), Move(**json.loads(tags[key]))))
        except (TypeError, ValueError):
            raise RegistryError(
                f"the tag {key} of {name} does not say who was champion ({tags[key][:60]})",
                "Delete the tag in the MLflow UI; the history then lacks this one move.",
            ) from None
    return sorted(found, key=lambda link: link[0])


def history(store: Store, name: str) -> list[Move]:
    """The moves that were made, oldest first: confirmed, or ended where the next one, or the alias now, begins."""
    written = written_moves(store, name)
    then = [*(move.before for move in written[1:]), registry.champion_number(store, name)]
    return [move for move, present in zip(written, then, strict=False) if move.made or move.after == present]


def predecessor(moves: list[Move], version: int) -> int | None:
    """Whom `version` followed when it was last promoted; None if nobody, or if no promotion of it is on record.

    A rollback does not count: the one before a version that was rolled back *to* is still the one it once followed.
    """
    return next((move.before for move in reversed(moves) if move.after == version and move.how == "promote"), None)


def rolled_back(moves: list[Move]) -> dict[int, str]:
    """Versions that a rollback took the place from, and when; not those that had it again since."""
    found: dict[int, str] = {}
    for move in moves:
        if move.how == "rollback" and move.before is not None:
            found[move.before] = move.at
        found.pop(move.after, None)
    return found
