"""Fits of a small study on disk, from frames and an encoder to out-of-fold predictions and a refit."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import classes_of, folds_of, manifest_of, save_source

from echolung.compute import fits as compute
from echolung.core.errors import DataError
from echolung.core.runtime import digest, read_json, write_json
from echolung.data.splits import folds_digest, read_folds, write_folds
from echolung.embedding.embed import EmbedSettings, embed
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import Classification
from echolung.kinds.predictions import units_of
from echolung.methods.fitting import fit_one, refit
from echolung.methods.methods import METHODS
from echolung.models.vit import VideoViTSettings
from echolung.models.weights import initialise

SHAPE = VideoViTSettings(width=16, depth=1, heads=2, image_size=16, frames=4, clip_fps=25.0, tubelet=2, patch=8)
TASK = classes_of(["class 0", "class 1"], "patient")
TASKS = {"cv": TASK, "external": TASK.model_copy(update={"train": "t"})}
SEARCH = {"penalties": [1e-3, 1e-1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/<study> of two sources with 24 and 18 videos, two of each patient; bright ones are of class 1."""
    root, random = tmp_path_factory.mktemp("study") / "data", np.random.default_rng(0)
    initialise(SHAPE, [0], root / "encoders")
    manifests, classes = [], []
    for source, videos in (("s", 24), ("t", 18)):
        names, patient = [f"{source}/{number:02d}" for number in range(videos)], np.arange(videos) // 2
        manifests.append(manifest_of(names, patient))
        classes.append(patient % 2)
        light = 60 + 80 * classes[-1]
        frames = {name: random.integers(0, top, (8, 16, 16), np.uint8) for name, top in zip(names, light, strict=True)}
        store = save_source(root / "ingest" / source, manifests[-1], frames)
        out = root / "embed" / source / "jepa" / "seed0"
        embed(root / "encoders/seed0", "jepa", manifests[-1], store, EmbedSettings(sources=("s",)), out, root / "cache")
    write_folds(root / "split" / "cv.csv", folds_of(manifests[0], classes[0]))
    both = pd.concat(manifests, ignore_index=True)
    write_folds(root / "split" / "external.csv", folds_of(both, np.concatenate(classes), "external", "s"))
    return root


def configuration(name: str, method: str, repeat: int, fold: int) -> dict[str, Any]:
    one = {"task_name": name, "task": TASKS[name].model_dump(mode="json"), "arm": "jepa", "arm_seed": 0, "seed": 3}
    return one | {"method": method, "settings": SEARCH if method == "linear" else {}, "repeat": repeat, "fold": fold}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", ["linear", "hand-made", "source-only", "majority"])
def test_every_scored_video_is_predicted_once_out_of_fold(data: Path, tmp_path: Path, name: str, method: str) -> None:
    folds = read_folds(data / "split" / f"{name}.csv")
    places = folds.loc[folds["fold"] >= 0, ["repeat", "fold"]].drop_duplicates().to_numpy().tolist()
    given = str(data), str(tmp_path / "work")
    results = [fit_one(*given, configuration(name, method, *place)) for place in places]
    predictions = pd.concat([result["predictions"] for result in results])
    units_of(predictions, name, TASKS[name], Classification())  # raises where the contract is broken
    wanted = ["repeat", "fold", "sample_id", "patient_id", "split_group", "y"]
    scored = folds.loc[folds["fold"] >= 0, wanted].sort_values(wanted)
    found = predictions.rename(columns={"y_true": "y"})[wanted].sort_values(wanted)
    assert found.to_numpy().tolist() == scored.to_numpy().tolist(), "rows that only train are not scored"
    assert set(predictions["split_digest"]) == {folds_digest(folds)}
    right = predictions["p_1"].where(predictions["y_true"] == 1, predictions["p_0"]).mean()
    assert right > 0.7 if method in ("linear", "hand-made") else right == pytest.approx(0.5, abs=0.01)
    search = pd.concat([result["search"] for result in results])
    assert (len(search) == 0) == (method == "majority")
    costs = pd.concat([result["costs"] for result in results])
    assert (costs[["fitted", "fit_seconds", "ask_seconds"]] > 0).to_numpy().all() and len(costs) == len(results)
    assert not list((tmp_path / "work").glob("*")), "a finished fit leaves no work in progress"


@pytest.mark.parametrize("method", ["linear", "hand-made", "majority"])
def test_labels_of_the_test_fold_reach_only_y_true(data: Path, tmp_path: Path, method: str) -> None:
    for folder in ("ingest", "embed"):
        (tmp_path / folder).symlink_to(data / folder)
    folds, results = read_folds(data / "split" / "cv.csv"), []
    for labels in (folds["y"], folds["y"].where(folds["fold"] != 1, 1 - folds["y"])):
        write_folds(tmp_path / "split" / "cv.csv", folds.assign(y=labels, stratum=labels.astype(int)))
        results.append(fit_one(str(tmp_path), str(tmp_path / "work"), configuration("cv", method, 0, 1)))
    honest, other = (result["predictions"] for result in results)
    assert (honest["y_true"] + other["y_true"] == 1).all()
    pd.testing.assert_frame_equal(honest[["p_0", "p_1"]], other[["p_0", "p_1"]], check_exact=True)
    pd.testing.assert_frame_equal(results[0]["search"], results[1]["search"], check_exact=True)
    with pytest.raises(DataError, match="no outer fold 3 in repeat 0"):
        fit_one(str(data), str(tmp_path / "work"), configuration("cv", method, 0, 3))


@pytest.mark.parametrize("name", TASKS)
def test_the_deployed_method_is_fitted_on_all_that_the_task_may_train_on(data: Path, name: str, tmp_path: Path) -> None:
    task, folds = TASKS[name], read_folds(data / "split" / f"{name}.csv")
    stores = [data / "embed" / source / "jepa" / "seed0" for source in task.sources]
    recordings = Recordings.of_sources(data / "ingest", task.sources, stores)
    settings = METHODS["linear"].Settings(**SEARCH)

    def search(rows: pd.DataFrame) -> pd.DataFrame:
        return refit("linear", settings, name, task, recordings, rows, 0, tmp_path).search()

    found, scored = search(folds), folds["fold"] == 0
    columns = [column for column in found if str(column).startswith("log_loss_")]
    assert columns == [f"log_loss_{fold}" for fold in range(3 if name == "cv" else 2)], "outer folds choose for cv"
    other = search(folds.assign(y=folds["y"].where(~scored, 1 - folds["y"])))
    assert found.equals(other) == (name == "external")


def test_a_fit_is_another_one_if_inputs_changed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """compute.trials keeps results by their configuration: what is new of it is fitted."""
    asked: list[dict[str, Any]] = []
    results = {"predictions": pd.DataFrame({"task": ["cv"]}), "search": pd.DataFrame(), "costs": pd.DataFrame()}
    monkeypatch.setattr(compute, "run_trials", lambda _, wanted, *__, **___: asked.extend(wanted) or [results])
    study, known = Path(shutil.copytree(data, tmp_path / "data")), set()
    folds = read_folds(study / "split" / "cv.csv")
    wanted = [("jepa", "linear", 0), ("source-only", "source-only", 0), ("majority", "majority", 0)]

    def new(**search: Any) -> dict[str, int]:
        asked.clear()
        own = {"linear": SEARCH | search}
        methods = {(arm, name): METHODS[name].Settings(**own.get(name, {})) for arm, name, _ in wanted}
        compute.fit_task("cv", TASK, wanted, methods, folds, study, tmp_path, seed=3, workers=2)
        fresh = {digest(one): one["method"] for one in asked if digest(one) not in known}
        known.update(fresh)
        return dict(Counter(fresh.values()))

    everything = {"linear": 3, "source-only": 3, "majority": 3}
    assert new() == everything and new() == {}
    assert new(reads=["mean"]) == {"linear": 3}
    record = study / "embed" / "s" / "jepa" / "seed0" / "features.json"
    write_json(record, read_json(record) | {"key": "tokens of another encoder"})
    assert new() == {"linear": 3}
    index = study / "ingest" / "s" / "clips" / "index.json"
    write_json(index, read_json(index) | {"fingerprint": "another decoder"})
    assert new() == everything
    folds["label"] = folds["label"] + "!"
    assert new() == everything


@pytest.mark.usefixtures("session")
def test_what_a_fit_cost_is_kept_with_it_and_makes_no_other_fit_of_it(data: Path, tmp_path: Path) -> None:
    folds, methods = read_folds(data / "split" / "cv.csv"), {("jepa", "linear"): METHODS["linear"].Settings(**SEARCH)}
    given = ("cv", TASK, [("jepa", "linear", 0)], methods, folds, data, tmp_path)
    (first, _, costs), (again, _, same) = (compute.fit_task(*given, seed=3, workers=2) for _ in range(2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    pd.testing.assert_frame_equal(costs, same, check_exact=True)  # clocks never agree: nothing was fitted again
    assert costs["fitted"].tolist() == [16, 16, 16]
