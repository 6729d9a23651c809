"""Rows of `arms:` are checked, and say which task they take part in."""

from __future__ import annotations

import pytest

from echolung.core.errors import SettingsError
from echolung.kinds.classification import ClassificationTask
from echolung.methods.arms import Arm, baseline_of, in_task
from echolung.methods.methods import METHODS

TASK = ClassificationTask(kind="classification", source="pocus", label="l", classes=["a", "b"], unit="video")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"method": "attentiv"}, "no method 'attentiv'; there are attentive"),
        ({"method": []}, "at least one"),
        ({"method": ["linear", "linear"], "encoder": "random"}, "each method once"),
        ({"method": "linear"}, "reads an encoder's features: name one with `encoder`"),
        ({"method": "linear", "encoder": "jepa", "shape": {"depth": 2}}, "a pretrained encoder has its own"),
        ({"method": "hand-made", "role": "baseline"}, "role"),
        ({"method": "hand-made", "role": "control", "against": ["random"]}, "`against` is for candidates"),
        ({"method": "hand-made", "encoders": "random"}, "did you mean 'encoder'"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Arm.parse({"role": "candidate"} | row, "arms.x")


def test_an_encoder_never_scores_its_own_pool_and_a_method_only_tasks_of_its_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Volumes(METHODS["hand-made"]):  # type: ignore[misc]
        kinds = ("regression",)

    monkeypatch.setitem(METHODS, "volumes", Volumes)
    arms = {
        "random": Arm(encoder="random", method=["linear", "attentive"], role="reference"),
        "hearts": Arm(encoder="jepa-hearts", method="linear", role="candidate"),
        "pocus": Arm(encoder="jepa-pocus", method="linear", role="candidate"),
        "both": Arm(encoder="jepa-hearts", method=["volumes", "linear"], role="candidate"),
        "volumes": Arm(method="volumes", role="control"),
    }
    pools = {"jepa-hearts": "hearts", "jepa-pocus": "pocus"}
    assert list(in_task(arms, TASK, pools)) == ["random", "hearts", "both"]
    external = TASK.model_copy(update={"source": "blues", "train": "pocus"})
    assert list(in_task(arms, external, pools)) == ["random", "hearts", "pocus", "both"], "it may train on its pool"
    assert arms["both"].methods(TASK) == ["linear"]
    assert (arms["random"].pretrained, arms["hearts"].pretrained, arms["volumes"].pretrained) == (False, True, False)
    assert baseline_of(TASK) == "majority"
