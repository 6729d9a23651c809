"""A params.yaml that is wrong, in whatever way, is one line; a good one says what its arms and tasks need."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from conftest import ROOT

from echolung.core.errors import SettingsError
from echolung.core.runtime import stop_asked
from echolung.methods.methods import METHODS
from echolung.settings import Settings, load
from echolung.stage import Stage

SEARCH = {"encoder": "mae", "space": {"shape.depth": [2]}}


def parameters(change: Callable[[dict[str, Any]], object] = lambda values: None) -> Settings:
    """params.yaml of the phantom study, changed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(values)
    return Settings.parse(values, "params.yaml")


def test_a_file_without_parameters_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content, message in [
        (None, "cannot be read"),
        (b"", "holds no parameters"),
        (b"- a list\n", "holds no parameters"),
        (b"study: \xff\xfe\n", "is not YAML"),
        (b"[" * 1000, "is not YAML"),
        (b"!!python/object/apply:os.system ['touch canary']\n", "is not YAML"),
    ]:
        if content is not None:
            (tmp_path / "params.yaml").write_bytes(content)
        with pytest.raises(SettingsError, match=message) as caught:
            load(tmp_path)
        assert "\n" not in caught.value.problem and caught.value.remedy
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("study", "My Study", "lower-case letters, digits and hyphens"),
        ("tasks.a b", {}, "lower-case letters"),
        ("tasks.pocus-pathology.kind", "ranking", "no kind 'ranking'"),
        ("tasks.pocus-pathology.source", "pocsu", "names the source 'pocsu', but ingest.sources has"),
        ("stop_after", "0.1s", "'stop_after' = 0.1: input should be greater than or equal to 1"),
        ("stop_after", "soon", "'stop_after'"),
        ("tasks.pocus-pathology.clases", ["a", "b"], "did you mean 'classes'"),
        ("pretrain.encoders.mae", {"objective": "mae"}, "parameter 'pretrain.encoders.mae.pool' is missing"),
        ("pretrain.encoders.mae.pool", "lungs", "pretrain.encoders.mae.pool names the source 'lungs'"),
        ("pretrain.encoders.random", {"objective": "jepa", "pool": "unlabelled"}, "random encoders and a pretrained"),
        ("embed.sources", ["pocus"], r"embed.sources must list the sources that tasks read: \[blues, hearts, pocus\]"),
        ("arms.mae.encoder", "jepa-lungs", "but the encoders are random, imported, mae"),
        ("arms.mae.seeds", [0, 5], "arms.mae.seeds are not all in pretrain.seeds"),
        ("arms.mae.against", ["hand-made"], "arms.mae.against names hand-made; reference arms: random"),
        ("arms.random.seeds", [1, 1], "arms.random has a seed twice: 1, 1"),
        ("arms.random.shape", {"widht": 3}, "shape of encoder 'random'|did you mean 'width'"),
        ("arms.random.shape", {"kind": "resnet"}, "has kind 'resnet'; there are video-vit"),
        ("arms.random.role", "control", "no reference arm has a method for tasks.pocus-pathology"),
        ("arms.majority", {"method": "majority", "role": "control"}, "arms.majority is the baseline of"),
        ("arms.mae.method", "logistic", "no method 'logistic'; there are attentive"),
        ("arms.mae.method", ["linear", "linear"], "each method once"),
        ("arms.mae.encoder", None, "reads an encoder's features: name one with `encoder`"),
        ("arms.mae.shape", {"depth": 2}, "a pretrained encoder has its own"),
        ("arms.random.encoder", "imported", "`encoder: imported` needs a file"),
        ("fit.methods.attentive.epoch", 3, "unknown parameter 'fit.methods.attentive.epoch': did you mean 'epochs'"),
        ("fit.methods.lineal", {}, "no entry 'lineal': did you mean 'linear'"),
        ("report.arms", ["random"], "report.arms must list the arms"),
        ("search.one", SEARCH | {"encoder": "jpea"}, "encoder is 'jpea'; there are mae"),
        ("search.one", SEARCH | {"readout": "elsewhere"}, "must be a task on drawn recordings"),
    ],
)
def test_what_does_not_fit_together_is_named_before_anything_runs(place: str, value: object, message: str) -> None:
    def change(values: dict[str, Any]) -> None:
        *parents, last = place.split(".")
        for parent in parents:
            values = values[parent]
        values[last] = value

    with pytest.raises(SettingsError, match=message):
        parameters(change)


@pytest.mark.parametrize(("limit", "hours", "over"), [(None, 100, False), ("11h", 10, False), ("11h", 12, True)])
def test_work_is_asked_to_stop_when_the_time_since_dvc_began_is_over(limit, hours, over, tmp_path: Path) -> None:
    settings, nothing = parameters(lambda values: values.update(stop_after=limit)), cast(Any, None)
    began, bars = time.time() - 3600 * hours, contextlib.ExitStack()
    stage = Stage("fit", "", tmp_path, settings, nothing, nothing, began=began, bars=bars)
    stage.scratch("fit").mkdir(parents=True)
    (stage.scratch("fit") / "stop").write_text("stop")  # of an earlier call
    with stage.stopping("fit") as stop:
        while over and not stop_asked(stop):
            time.sleep(0.01)
        assert stop_asked(stop) == over


def test_copies_are_searched_for_among_recordings_that_the_study_does_not_draw() -> None:
    task = parameters().tasks["pocus-pathology"]
    assert parameters().copied(task) == 1
    real = parameters(lambda values: values["ingest"]["sources"]["pocus"].update(root="/data/pocus"))
    assert real.copied(task) == real.split.near_duplicate < 1
    assert real.copied(task.model_copy(update={"source": "blues", "train": "pocus"})) < 1


def test_what_is_needed_follows_from_arms_and_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "volumes", type("Volumes", (METHODS["hand-made"],), {"kinds": ("regression",)}))

    def change(values: dict[str, Any]) -> None:
        values["tasks"]["cross"] = values["tasks"]["pocus-pathology"] | {"source": "blues", "train": "pocus"}
        values["arms"]["volumes"] = {"method": "volumes", "role": "control"}
        values["pretrain"]["encoders"]["own"] = {"objective": "jepa", "pool": "pocus", "shape": {"depth": 2}}
        values["arms"]["random"]["method"] = ["linear", "attentive"]
        values["arms"]["own"] = {"encoder": "own", "method": "linear", "role": "candidate", "seeds": [1]}
        values["arms"]["deep"] = {"encoder": "random", "method": "linear", "role": "reference", "shape": {"depth": 8}}
        values["report"]["arms"] = list(values["arms"])

    settings, encoders = parameters(change), ["random", "mae", "own", "deep"]
    assert settings.embedded("pocus") == settings.embedded("blues") == encoders
    others = ["random", "mae", "hand-made", "source-only"]
    assert list(settings.arms_of("pocus-pathology")) == [*others, "deep"]
    assert list(settings.arms_of("cross")) == [*others, "own", "deep"]
    assert settings.encoders_of("cross") == encoders, "an encoder may train on its own pool"
    draws = [("random", method, seed) for method in ("linear", "attentive") for seed in settings.draws]
    runs = [("mae", "linear", seed) for seed in (0, 1)]
    fits = settings.fits("blues-covid")
    assert [fit for fit in fits if fit[0] in ("random", "mae", "own")] == [*draws, *runs, ("own", "linear", 1)]
    assert fits[-1] == ("majority", "majority", 0)
    assert {name: vars(shape)["depth"] for name, (shape, _) in settings.initial().items()} == {"random": 6, "deep": 8}
    assert settings.shape("own").model_dump() == settings.encoder.model_dump() | {"depth": 2}
    assert settings.known_arm("pocus-pathology", None) == "mae"
    with pytest.raises(SettingsError, match=r"no task 'pocus-patology'.*Did you mean 'pocus-pathology'"):
        settings.known_task("pocus-patology")
    with pytest.raises(SettingsError, match="arm 'own' takes no part in pocus-pathology"):
        settings.known_arm("pocus-pathology", "own")
