"""Small models, and a small study whose arms can be promoted: a plugin for the tests of serving and the registry."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import features_of, folds_of, manifest_of, save_source

from echolung.core.runtime import derived_seed
from echolung.data.splits import write_folds
from echolung.data.video import encode
from echolung.embedding.features import write_index
from echolung.kinds.classification import ClassificationTask
from echolung.methods.fitting import fit_one
from echolung.methods.method import Method
from echolung.methods.methods import METHODS
from echolung.methods.novelty import Novelty, NoveltySettings, describe, fit_novelty
from echolung.methods.probes.heads import ProbeForm, ProbeHeads
from echolung.methods.probes.linear import Linear
from echolung.methods.probes.probe import Attentive
from echolung.models.vit import VideoViTSettings
from echolung.models.weights import initialise, read_record
from echolung.registry import models as registry
from echolung.registry.candidate import Candidate
from echolung.registry.promote import Promotion, promote
from echolung.serving.model import Model, ModelRecord, write_model
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import Store, store

SIZE, WIDTH, VIEWS = 40, 24, 2
STUDY, TASK = "phantom", "pocus-pathology"
CLASSES = ["covid", "pneumonia", "regular"]
SPEC = ClassificationTask(kind="classification", source="pocus", label="diagnosis", classes=CLASSES, unit="video")
ENCODER = VideoViTSettings(width=WIDTH, depth=1, heads=2, image_size=32, frames=4, clip_fps=8.0)

# --- models that were never fitted ---


def drawn(kind: str) -> Method:
    """A probe of random weights."""
    if kind == "linear":
        columns = [f"{name}_{channel}" for name in ("mean", "std") for channel in range(WIDTH)]
        random = np.random.default_rng(2)
        weights = {"coefficients": 0.3 * random.normal(size=(3, 2 * WIDTH)), "intercepts": np.zeros(3)}
        return Linear(columns, weights, pd.DataFrame())
    heads = ProbeHeads(ProbeForm(width=WIDTH, classes=3, attention_head_width=12), heads=1, seed=1)
    torch.nn.init.normal_(heads.classifier, std=0.3, generator=torch.Generator().manual_seed(2))
    return Attentive(heads, pd.DataFrame())


def usual(described: Mapping[str, np.ndarray]) -> Novelty:
    """Training recordings that differ a little from one that is `described` (1, P)."""
    random = np.random.default_rng(3)
    known = {name: one + 0.05 * random.normal(size=(20, one.shape[1])) for name, one in described.items()}
    return fit_novelty(known, np.arange(20), NoveltySettings())


def make_model(folder: Path, name: str, novelty: Novelty, method=None, kind="attentive", task=SPEC) -> Path:
    """A model of the folder's encoder and a method, as `folder`/`name`/model."""
    chosen, target = method or drawn(kind), folder / name / registry.FOLDER
    record = ModelRecord(
        study=STUDY, task_name=TASK, task=task.model_dump(mode="json"), arm="jepa", method=kind, arm_seed=0,
        views=VIEWS, frame_size=SIZE, novelty=novelty.record,
    )  # fmt: skip
    write_model(target, record, chosen, novelty, folder / "encoder" / "seed0" if chosen.reads_tokens else None)
    return target


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, an encoder, and a model of random weights that was trained on videos like a.mp4; b.avi is outside."""
    folder = tmp_path_factory.mktemp("serving")
    random = np.random.default_rng(0)
    for name, (height, width) in {"a.mp4": (48, 64), "b.avi": (60, 44)}.items():
        frames = random.integers(0, 255, (1, height, width)) * np.linspace(0.3, 1, 30)[:, None, None]
        frames[:, : height // 3 * (name == "b.avi")] = 0
        encode(folder / name, frames.astype(np.uint8), 20, "h264" if name == "a.mp4" else "mjpeg")
    initialise(ENCODER, [0], folder / "encoder", "jepa")
    blank = {"tokens": np.zeros((1, 30 * WIDTH)), "handmade": np.zeros((1, 39))}
    draft = Model.open(make_model(folder, "draft", usual(blank)))
    make_model(folder, "whole", usual(described(draft, folder / "a.mp4")))
    return folder


def described(model: Model, path: Path) -> dict[str, np.ndarray]:
    """A file as novelty sees it."""
    return describe(model.read(path), [str(path)])


@pytest.fixture(scope="session")
def model(folder: Path) -> Model:
    return Model.open(folder / "whole" / registry.FOLDER)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store(tmp_path_factory.mktemp("project"))


def registered(place: Store, study: str, folder: Path, tags: Mapping[str, str] | None = None) -> registry.Version:
    """The model in `folder` as a new version, and as the champion."""
    with stage_run(place, study, "promote", TASK, {}) as run:
        columns = Model.open(folder).columns
        version = registry.register(place, run, study, TASK, folder, columns, tags or {}, "a model")
    registry.make_champion(place, version.name, version.number)
    return version


# --- a study with arms to promote ---

VIDEOS, PATIENTS, FOLDS = 36, 18, 3
SETTINGS = METHODS["linear"].Settings()
SIGNALS = {"jepa": 1.5, "stronger": 6.0}
"""How much of the classes is in an arm's features."""


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """A candidate per arm: real encoders, drawn features with more or less signal, real out-of-fold predictions."""
    data = tmp_path_factory.mktemp("study")
    y, ids = np.arange(VIDEOS) % PATIENTS % 3, [f"pocus/{index:02d}" for index in range(VIDEOS)]
    facts = {"diagnosis": [CLASSES[k] for k in y], "frames": 5, "fps": 10.0, "height": SIZE, "width": SIZE}
    manifest = manifest_of(ids, np.arange(VIDEOS) % PATIENTS, **facts)
    folds = folds_of(manifest, y, outer=FOLDS, inner=2)
    write_folds(data / "split" / f"{TASK}.csv", folds)
    random = np.random.default_rng(5)
    save_source(data / "ingest" / "pocus", manifest, {name: _moving(random, k) for name, k in zip(ids, y, strict=True)})
    direction = np.random.default_rng(7).normal(size=(3, WIDTH))
    for seed, (arm, signal) in enumerate(SIGNALS.items()):
        initialise(ENCODER, [seed], data / "encoders" / arm, arm)
        (data / "encoders" / arm / f"seed{seed}").rename(data / "encoders" / arm / "seed0")
        random = np.random.default_rng(derived_seed(arm))
        tokens = random.normal(size=(VIDEOS, VIEWS, 8, WIDTH)) + signal * direction[y][:, None, None] / WIDTH**0.5
        weights = read_record(data / "encoders" / arm / "seed0").weights_sha256
        _embedded(data / "embed" / "pocus" / arm / "seed0", tokens, manifest, arm, weights)
    fits = [(arm, "linear") for arm in SIGNALS] + [("hand-made", "hand-made"), ("majority", "majority")]
    tables = [
        fit_one(str(data), str(data / "work"), {
            "task_name": TASK, "task": SPEC.model_dump(mode="json"), "arm": arm, "method": method, "arm_seed": 0,
            "repeat": 0, "fold": fold, "seed": 0, "settings": SETTINGS.model_dump() if method == "linear" else {},
        })["predictions"]
        for arm, method in fits for fold in range(FOLDS)
    ]  # fmt: skip
    rows = [
        ("jepa", "random", "undecided", "No difference was shown."),
        ("jepa", "majority", "better", "Better than the baseline."),
        ("stronger", "random", "better", "Better."),
    ]
    verdicts = pd.DataFrame(rows, columns=["arm", "reference", "outcome", "text"]).assign(task=TASK, method="linear")
    return {
        arm: Candidate(
            study=STUDY, name=TASK, task=SPEC, arm=arm, seed=0, method=method,
            settings=SETTINGS if method == "linear" else METHODS[method].Settings(), fit_seed=0, views=VIEWS,
            frame_size=SIZE, encoder=data / "encoders" / arm / "seed0" if method == "linear" else None, data=data,
            work=data / "work" / "promote", folds=folds, decided_on=folds, verdicts=verdicts,
            predictions=pd.concat(tables, ignore_index=True),
        )
        for arm, method in fits[:-1]
    }  # fmt: skip


def _moving(random: np.random.Generator, label: int) -> np.ndarray:
    """Noise uint8 (5, SIZE, SIZE); how much it moves depends on the class, which hand-made numbers see."""
    still, moves = random.integers(0, 200, (1, SIZE, SIZE)), random.integers(0, 10 + 20 * label, (5, SIZE, SIZE))
    return (still + moves).astype(np.uint8)


def _embedded(directory: Path, tokens: np.ndarray, manifest: pd.DataFrame, arm: str, encoder: str, seconds=0.0) -> None:
    directory.mkdir(parents=True)
    made = features_of(list(manifest["sample_id"]), tokens, (2, 2, 2))
    np.save(directory / "tokens.npy", made.tokens)
    np.save(directory / "summary.npy", made.summaries)
    known = {"key": f"key-{arm}", "arm": arm, "encoder_sha256": encoder, "seconds": seconds}
    record = made.record.model_copy(update=known)
    write_index(directory, record, manifest.assign(finite=True, std=1.0, seen_in_pretraining=False))


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("initialised")
    store(root)
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, initialised: Path) -> Store:
    """A project of its own, its database copied from an initialised one."""
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(initialised.read_bytes())
    return store(tmp_path)


@pytest.fixture
def promoting(project: Store) -> Callable[..., Promotion]:
    """Promote in the project, as the command does."""
    return functools.partial(promoted, project)


def promoted(place: Store, candidate: Candidate, **options: bool) -> Promotion:
    """What the command does, with a store of one's own."""
    with stage_run(place, STUDY, "promote", candidate.name, {}) as run:
        return promote(place, run, candidate, NoveltySettings(), bootstrap=100, **options)
