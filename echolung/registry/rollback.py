"""Rollback: the alias moves to an earlier champion; no version is made or deleted."""

from dataclasses import dataclass

from echolung.core.errors import NoChampionError, RegistryError
from echolung.registry import models as registry
from echolung.serving.model import Model
from echolung.tracking.store import Store


@dataclass(frozen=True)
class Rollback:
    """What was done: the registered model, the champion before and after, and when the latter was promoted (UTC)."""

    name: str
    before: int
    after: int
    since: str


def roll_back(store: Store, study: str, task: str, to: int | None = None) -> Rollback:
    """Make the version that the champion followed the champion again, or version `to`, if it ever was champion.

    The present champion may be damaged or gone; the other one is loaded first. Raises RegistryError or CheckpointError,
    and changes nothing, if there is nothing to return to or it cannot be loaded.
    """
    name = registry.model_name(study, task)
    present = registry.champion_number(store, name)
    if present is None:
        raise NoChampionError(f"{name} has no champion to roll back", f"Run `echolung promote {task}`.")
    tags = dict(registry.versions(store, name))
    were = {number for number, own in tags.items() if "history" in own}
    were |= {int(own["follows"]) for own in tags.values() if own.get("follows")}
    others = sorted(were & set(tags) - {present})
    target = to or int(tags[present].get("follows") or 0)
    if target not in others:
        said = f"{name} version {present} is the champion and followed no other"
        said = f"{name} version {target} is not an earlier champion" if target else said
        listing = f"Earlier champions: {', '.join(map(str, others))} (`--to {others[-1]}`)." if others else ""
        raise RegistryError(said, listing or "There was no other.")
    version = registry.find_version(store, name, target)
    Model.open(version.folder)
    # The note first: if this is interrupted here, `promote` must not bring the version back.
    registry.note(store, name, present, f"{registry.ROLLED_BACK} to version {target}")
    registry.make_champion(store, name, target)
    registry.note(store, name, target, f"champion again, rolled back from version {present}")
    return Rollback(name, present, target, version.tags.get("history", "").partition(" ")[0])
