"""Parameters are strict: every mistake in params.yaml is one line that names the key and the nearest known one."""

from __future__ import annotations

import pytest

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters


class Inner(Parameters):
    learning_rate: float = 1e-3


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
    ],
)
def test_a_mistake_is_named_with_its_remedy(values: dict, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Outer.parse(values, "params.yaml")
    assert message in str(caught.value)
    assert "params.yaml" in caught.value.remedy
