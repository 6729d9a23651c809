"""Back to an earlier champion: the alias moves, no version is made, changed or deleted."""

from __future__ import annotations

from dataclasses import dataclass

from echolung.core.errors import EcholungError, RegistryError
from echolung.registry import models as registry
from echolung.registry.succession import crown, history, predecessor, written_moves
from echolung.serving.model import Classifier
from echolung.tracking.store import Store


@dataclass(frozen=True)
class Rollback:
    """What was done."""

    name: str
    """Of the registered model."""
    before: int
    after: int
    since: str
    """When `after` was last promoted (UTC), "" if that is not on record."""


def roll_back(store: Store, study: str, task: str, to: int | None = None) -> Rollback:
    """Make the version that the champion followed the champion again, or version `to`, if it was promoted once.

    The present champion is not read: it may be gone or damaged. The earlier one must be whole, which is shown by
    loading it. Raises RegistryError, and changes nothing, if the task has no champion, if there is none to go back to,
    or if its files are gone, damaged, or of another EchoLung.

    Afterwards `promote` measures candidates against the version that was gone back to, and turns the very model away
    that was rolled back (`rollback --to` brings it back, `promote --reset` registers it anew).
    """
    name = registry.model_name(study, task)
    present = registry.champion_number(store, name)
    if present is None:
        raise RegistryError(f"{name} has no champion to roll back", f"Run `echolung promote {task}`.")
    moves = history(store, name)
    # Where a move was to start was champion, whether or not the move was made.
    left = {move.before for move in written_moves(store, name) if move.before}
    earlier = sorted({move.after for move in moves} | left)
    others = [number for number in earlier if number != present]
    target = predecessor(moves, present) if to is None else to
    if target is None:
        listed = f"Name one that was: `--to {others[-1]}`." if others else f"Run `echolung promote {task}`."
        raise RegistryError(f"no champion of {name} before version {present} is on record", listed)
    if target == present:
        raise RegistryError(f"{name} version {target} is the champion already", "There is nothing to do.")
    if target not in earlier:
        were = f"Choose among: {', '.join(map(str, others))}." if others else "No other version was."
        raise RegistryError(f"{name} version {target} never was promoted", were)
    version = registry.find_version(store, name, target)
    try:
        Classifier.open(version.classifier)
    except EcholungError as error:
        rest = [number for number in others if number != target]
        remedy = f"Choose another: `--to {rest[-1]}`." if rest else "Promote a model again: `echolung promote TASK`."
        raise RegistryError(f"{name} version {target} cannot serve: {error.problem}", remedy) from None
    crown(store, version, "rollback")
    since = next((move.at for move in reversed(moves) if (move.after, move.how) == (target, "promote")), "")
    return Rollback(name, present, target, since)
