"""Strict, frozen parameter records: what every module's settings class is made of."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Any, Self, get_args

import pydantic

from echolung.core.errors import SettingsError


class Parameters(pydantic.BaseModel):
    """A frozen record of parameters; an unknown key is an error that names the nearest known one."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build the record from a mapping, e.g. a section of params.yaml.

        Raises SettingsError, one line per fault, naming the full key and, for an unknown one, the nearest known.
        """
        try:
            return cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            faults = [_describe(cls, fault) for fault in error.errors()]
            raise SettingsError(
                "; ".join(faults), f"Correct {where} (or the file in conf/ that it is composed from)."
            ) from None


def _describe(cls: type[pydantic.BaseModel], fault: Any) -> str:
    location = fault["loc"]
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), known_keys(cls, location[:-1]), n=1, cutoff=0.5)
        return f"unknown parameter '{key}'" + (f": did you mean '{near[0]}'?" if near else "")
    if fault["type"] == "missing":
        return f"parameter '{key}' is missing"
    return f"parameter '{key}' = {fault.get('input')!r}: {fault['msg'].lower()}"


def known_keys(cls: type[pydantic.BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names accepted at `path`, walking nested records, dicts and unions of records."""
    kinds: list[Any] = [cls]
    for part in path:
        following: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                if part in kind.model_fields:
                    following.append(kind.model_fields[part].annotation)
                else:
                    following.append(kind)  # a union tag in pydantic's location, not a level of the mapping
            elif typing.get_origin(kind) is dict:
                following.append(get_args(kind)[1])
            else:
                following.extend(get_args(kind))
        kinds = following
    names: list[str] = []
    for kind in kinds:
        for candidate in (kind, *get_args(kind)):
            if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
                names.extend(candidate.model_fields)
    return names
