"""Strict, frozen parameter records: what every module's settings class is made of."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import pydantic
from pydantic_core import PydanticCustomError

from echolung.core.errors import SettingsError

UNKNOWN = "unknown_parameters"


class Parameters(pydantic.BaseModel):
    """A frozen record of parameters; an unknown key is an error that names the nearest known one."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: Any) -> Any:
        names = [str(name) for name in values if name not in cls.model_fields] if isinstance(values, Mapping) else []
        if names:
            raise PydanticCustomError(UNKNOWN, "unknown parameters", {"names": names, "known": [*cls.model_fields]})
        return values

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build the record from a mapping, e.g. a section of params.yaml.

        Raises SettingsError, one line per fault, naming the full key and, for an unknown one, the nearest known.
        """
        try:
            return cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            faults = "; ".join(_describe(fault) for fault in error.errors())
            raise SettingsError(faults, f"Correct {where} (or the file in conf/ that it is composed from).") from None


def _key(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
        raise ValueError("a name is lower-case letters, digits and hyphens, and starts with a letter or digit")
    return value


Key = Annotated[str, pydantic.AfterValidator(_key)]
"""Name of a study, source, task, arm, encoder or phantom: safe in file names, DVC stages and shell commands."""


Names = Annotated[tuple[str, ...], pydantic.BeforeValidator(lambda one: [one] if isinstance(one, str) else one)]
"""Several names; a single one needs no list."""


@dataclass(frozen=True)
class chosen:
    """Annotation for settings whose class is looked up by name, in `seam()`, when parameters are parsed.

    The classes in the seam have an attribute `Settings`. With `key`, that entry of the mapping is the name:
        encoder: Annotated[ClipSettings, chosen(lambda: ENCODERS, "kind")]
    Without it the field is a dict whose keys are the names:
        objectives: Annotated[dict[str, Parameters], chosen(lambda: OBJECTIVES)]
    """

    seam: Callable[[], Mapping[str, Any]]
    key: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        # As `Any`, a record is dumped with the fields of its own class, not with those of the annotated one.
        return handler.generate_schema(Annotated[Any, pydantic.BeforeValidator(self._parse)])

    def settings(self, name: Any) -> type[Parameters]:
        """The settings class of `name`; raises ValueError naming the known ones."""
        known = self.seam()
        if name in known:
            return known[name].Settings
        raise ValueError(f"no {self.key or 'entry'} '{name}'{nearest(str(name), known)} (known: {', '.join(known)})")

    def _parse(self, value: Any) -> Any:
        if isinstance(value, Parameters):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("a mapping is expected")
        if not self.key:
            fields: dict[str, Any] = {str(name): (self.settings(name), ...) for name in value}
            entries = pydantic.create_model("Entries", **fields).model_validate(value)
            return {name: getattr(entries, name) for name in fields}
        if self.key not in value:
            raise ValueError(f"'{self.key}' is missing (known: {', '.join(self.seam())})")
        return self.settings(value[self.key]).model_validate(value)


def nearest(name: str, known: Iterable[str], hint: str = ": did you mean '{}'?") -> str:
    """`hint` with the known name that is closest to `name`; empty if none is close."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return hint.format(near[0]) if near else ""


def _describe(fault: Any) -> str:
    location = [str(part) for part in fault["loc"] if part != "[key]"]
    key = ".".join(location)
    if fault["type"] == UNKNOWN:
        known = fault["ctx"]["known"]
        names = {name: ".".join([*location, name]) for name in fault["ctx"]["names"]}
        return "; ".join(f"unknown parameter '{names[name]}'{nearest(name, known)}" for name in names)
    if fault["type"] == "missing":
        return f"parameter '{key}' is missing"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    shown = "" if isinstance(value, Mapping) else f" = {value!r}"
    return f"parameter '{key}'{shown}: {message[:1].lower()}{message[1:]}" if key else message
