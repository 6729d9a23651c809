"""A search tries what it is told, stops the worse half, and reads out on drawn labels or on held-out videos."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import classes_of, folds_of, manifest_of, save_source

from echolung.compute.search import Readout, SearchSettings, search, search_runs
from echolung.core.errors import SettingsError, TrialError
from echolung.data.splits import write_folds
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViT
from echolung.pretraining import checkpoint
from echolung.pretraining.settings import PretrainSettings

pytestmark = pytest.mark.usefixtures("session")
SHAPE = VideoViT.Settings(width=24, depth=1, heads=2, image_size=16, frames=4, clip_fps=10.0, patch=8)
TASK = classes_of()
TRAINING = {"steps": 8, "batch": 4, "learning_rate": 1e-3, "log_every": 2, "rank_every": 2, "held_out": 0.2}
PARTS = {"encoders": {"mae": {"objective": "mae", "pool": "s"}}, "training": TRAINING}
DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2}
PRETRAIN = PretrainSettings.parse(PARTS | {"objectives": {"mae": DECODER}}, "pretrain")
SPACE = {"training.learning_rate": [1e-3, 1e-2], "objective.visible": [0.25, 0.5]}
SEARCH: dict[str, Any] = {"encoder": "mae", "space": SPACE}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/<study> of 24 videos, the bright ones of class 1."""
    root, random = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    names = [f"s/{number:02d}" for number in range(24)]
    manifest, y = manifest_of(names, range(24)), np.arange(24) % 2
    light = {name: 60 + 80 * int(k) for name, k in zip(names, y, strict=True)}
    frames = {name: random.integers(0, top, (8, 16, 16), np.uint8) for name, top in light.items()}
    save_source(root / "ingest" / "s", manifest, frames)
    write_folds(root / "split" / "bright.csv", folds_of(manifest, y))
    write_folds(root / "split" / "noise.csv", folds_of(manifest, np.repeat([0, 1, 1, 0], 6)))
    return root


def run(data: Path, tmp_path: Path, readout: Readout | None, **changes: Any) -> tuple[Any, Any]:
    settings = SearchSettings.parse(SEARCH | changes, "search")
    runs = search_runs("one", settings, PRETRAIN, lambda _: SHAPE, data / "ingest", tmp_path, readout)
    return search(settings, runs, readout, tmp_path, 2)


def test_a_readout_finds_what_the_labels_are_about_and_unknown_values_are_no_search(data: Path) -> None:
    encoder = initial_encoder(SHAPE, 0)
    bright, noise = (Readout(data, name, TASK, 2)(encoder) for name in ("bright", "noise"))
    assert bright["readout/auroc"] > 0.95 > 0.8 > noise["readout/auroc"]
    assert bright["readout/brier"] < 0.1 < noise["readout/brier"]
    with pytest.raises(SettingsError, match="with `repeats` no run stops early"):
        SearchSettings.parse(SEARCH | {"repeats": 2}, "search")
    with pytest.raises(SettingsError, match="'steps': values of training"):
        SearchSettings.parse(SEARCH | {"space": {"steps": [1]}}, "search")


def test_the_whole_grid_is_tried_the_worse_stop_early_and_the_best_comes_first(data: Path, tmp_path: Path) -> None:
    trials, curves = run(data, tmp_path, Readout(data, "bright", TASK, 1), rungs=2)
    assert len(trials) == 4 and trials["trial"].nunique() == 4 and len(trials[list(SPACE)].drop_duplicates()) == 4
    assert trials["stopped"].tolist() == sorted(trials["stopped"]), "those that ran to the end first"
    ended = trials[~trials["stopped"]]
    assert (ended["steps"] == 8).all() and ended["score"].is_monotonic_decreasing and len(ended)
    assert (trials.loc[trials["stopped"], "steps"] < 8).all()
    assert (curves.groupby("trial")["step"].max().sort_index() == trials.set_index("trial")["steps"].sort_index()).all()
    assert (curves["clips"] == 4 * curves["step"]).all()


def test_the_held_out_loss_needs_no_labels_and_a_recipe_that_diverges_comes_last(data: Path, tmp_path: Path) -> None:
    space = {"training.learning_rate": [1e-3, 1e30]}
    trials, _ = run(data, tmp_path / "a", None, space=space, rungs=0)
    assert trials["training.learning_rate"].tolist() == [1e-3, 1e30]
    assert trials["score"].notna().tolist() == [True, False] and trials["score"][0] < 0
    assert trials["error"][0] == "" and "diverged" in trials["error"][1]


def test_a_combination_is_ranked_by_the_mean_over_its_seeds(data: Path, tmp_path: Path) -> None:
    trials, _ = run(data, tmp_path, Readout(data, "bright", TASK, 1), rungs=0, repeats=2, seed=3, trials=3)
    assert len(trials) == 6 and trials["seed"].tolist() == [3, 4] * 3 and trials["trial"].nunique() == 6
    pairs = trials["score"].to_numpy().reshape(3, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all() and (np.diff(pairs.mean(axis=1)) <= 0).all()
    np.testing.assert_allclose(trials["mean"], np.repeat(pairs.mean(axis=1), 2))


def test_every_recipe_may_fail(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="every trial failed: pretraining diverged"):
        run(data, tmp_path / "b", None, space={"training.learning_rate": [1e30]})


def test_an_interrupted_search_goes_on_and_other_labels_are_another_search(data: Path, tmp_path: Path) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"*/{checkpoint.NAME}")}

    readout = Readout(data, "bright", TASK, 1)
    first, before = run(data, tmp_path, readout, rungs=0), written()
    for again, table in zip(run(data, tmp_path, readout, rungs=0), first, strict=True):
        pd.testing.assert_frame_equal(again, table)
    assert written() == before != {}
    keys = {one.key for one in (readout, Readout(data, "noise", TASK, 1), Readout(data, "bright", TASK, 2))}
    assert len(keys) == 3
