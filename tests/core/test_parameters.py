"""Parameters are strict: every mistake in params.yaml is one line that names the key and the nearest known one."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
import pytest

from echolung.core.errors import SettingsError
from echolung.core.parameters import Key, Parameters, chosen


class Inner(Parameters):
    learning_rate: float = pydantic.Field(1e-3, gt=0)


class Outer(Parameters):
    probe: Inner = Inner()
    arms: dict[str, Inner] = {}
    epochs: int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"epochs": 1, "probe": {"learning_rat": 1}},
            "unknown parameter 'probe.learning_rat': did you mean 'learning_rate'?",
        ),
        ({"epochs": 1, "arms": {"a": {"learnin_rate": 1}}}, "'arms.a.learnin_rate': did you mean 'learning_rate'?"),
        ({"epoch": 1, "epochs": 1}, "unknown parameter 'epoch': did you mean 'epochs'?"),
        ({}, "parameter 'epochs' is missing"),
        (
            {"epochs": 1, "probe": {"learning_rate": -1}},
            "parameter 'probe.learning_rate' = -1: input should be greater than 0",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(values: dict, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Outer.parse(values, "params.yaml")
    assert message in str(caught.value)
    assert "params.yaml" in caught.value.remedy


class Small(Parameters):
    size: int = 1


class Large(Parameters):
    kind: str = "large"
    width: int
    edges: tuple[int, int] = (1, 2)


class SmallModel:
    Settings = Small


class LargeModel:
    Settings = Large


MODELS: dict[str, Any] = {"small": SmallModel}


class Study(Parameters):
    model: Annotated[Parameters, chosen(lambda: MODELS, "kind")] = Small()
    models: dict[Key, Annotated[Parameters, chosen(lambda: MODELS, "kind")]] = {}
    methods: Annotated[dict[str, Parameters], chosen(lambda: MODELS)] = {}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "large", LargeModel)


@pytest.mark.usefixtures("registered")
def test_settings_of_a_seam_are_read_by_the_class_that_is_registered_when_they_are_parsed() -> None:
    values = {
        "model": {"kind": "large", "width": 3},
        "models": {"a-1": {"kind": "large", "width": 4}},
        "methods": {"small": {"size": 5}},
    }
    study = Study.parse(values, "params.yaml")
    assert study.model == Large(width=3) and study.models == {"a-1": Large(width=4)}
    assert study.methods == {"small": Small(size=5)}
    dumped = study.model_dump(mode="json")
    assert dumped["model"] == {"kind": "large", "width": 3, "edges": [1, 2]}
    assert Study.parse(dumped, "params.yaml") == study


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"kind": "lrge"}}, "'model': no kind 'lrge': did you mean 'large'? (known: small, large)"),
        ({"model": {"width": 3}}, "'model': 'kind' is missing (known: small, large)"),
        ({"model": {"kind": "large", "widht": 3}}, "unknown parameter 'model.widht': did you mean 'width'?"),
        ({"models": {"a": {"kind": "large", "widht": 3}}}, "'models.a.widht': did you mean 'width'?"),
        ({"methods": {"small": {"sise": 3}}}, "'methods.small.sise': did you mean 'size'?"),
        ({"methods": {"smal": {}}}, "'methods': no entry 'smal': did you mean 'small'? (known: small, large)"),
        ({"models": {"My model": {}}}, "'models.My model' = 'My model': a name is lower-case letters"),
    ],
)
def test_a_mistake_in_settings_of_a_seam_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Study.parse(values, "params.yaml")
    assert message in caught.value.problem
