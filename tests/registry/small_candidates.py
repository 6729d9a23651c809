"""A small study whose arms are candidates for champion: a plugin that the tests of promotion name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.data.clips import write_index as write_clips_index
from echolung.data.splits import SplitSettings, make_folds
from echolung.embedding.features import Features, FeaturesRecord, write_index
from echolung.kinds.task import Task
from echolung.methods.controls import control_predictions
from echolung.methods.novelty import NoveltySettings
from echolung.methods.probes.probe import fit_trial
from echolung.methods.probes.selection import ProbeSettings
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import EncoderRecord, initial_encoder, save_encoder
from echolung.registry.candidate import Candidate
from echolung.registry.promote import Promotion, promote
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import Store, store

VIDEOS, PATIENTS, WIDTH = 36, 18, 24
TASK = Task(
    source="pocus", label="diagnosis", kind="multiclass", classes=["covid", "pneumonia", "regular"], unit="video"
)
SETTINGS = ProbeSettings(kinds=["linear"], learning_rates=[0.03], weight_decays=[0.01], epochs=6, batch=12)
SIGNALS = {"noise": 0.0, "jepa": 1.5, "stronger": 6.0, "spoilt": 5.0}
"""How much of the classes is in an arm's features. `spoilt` was pretrained on two of the videos."""
SIZE = 16


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """One candidate per arm: real encoders, drawn features with more or less signal, real out-of-fold predictions."""
    folder = tmp_path_factory.mktemp("study")
    y = np.arange(VIDEOS) % PATIENTS % 3
    ids = [f"pocus/{index:02d}" for index in range(VIDEOS)]
    patients = [f"p{index % PATIENTS:02d}" for index in range(VIDEOS)]
    table = pd.DataFrame({"sample_id": ids, "patient_id": patients, "split_group": patients, "y": y})
    folds = make_folds(table.assign(label=[TASK.classes[k] for k in y]), SplitSettings(outer=3, inner=2))
    write_clips(folder / "clips", ids)
    direction = np.random.default_rng(7).normal(size=(3, WIDTH))
    parts = [control_predictions(folds, "pocus-pathology", TASK, {}).predictions]
    encoders = EncoderSettings(width=WIDTH, depth=1, heads=2, image_size=32, frames=4, clip_fps=8, patch=16)
    for seed, (arm, signal) in enumerate(SIGNALS.items()):
        record = EncoderRecord(settings=encoders, arm=arm, objective="jepa", seed=0)
        record = save_encoder(folder / arm / "encoder", initial_encoder(encoders, seed), record)
        random = np.random.default_rng(seed + 10)
        tokens = random.normal(size=(VIDEOS, 2, 8, WIDTH)) + signal * direction[y][:, None, None] / WIDTH**0.5
        write_features(folder / arm / "features", tokens, ids, arm, record.weights_sha256)
        features = Features.open(folder / arm / "features")
        parts += [
            fit_trial(features, folds, 0, fold, "pocus-pathology", TASK, SETTINGS).predictions for fold in range(3)
        ]
    verdicts = pd.DataFrame(
        {
            "task": "pocus-pathology",
            "arm": ["jepa", "jepa", "stronger"],
            "reference": ["random", "majority", "random"],
            "outcome": ["undecided", "better", "better"],
            "text": ["No difference was shown.", "Better than nothing.", "Better."],
        }
    )
    return {
        arm: Candidate(
            study="phantom",
            name="pocus-pathology",
            task=TASK,
            arm=arm,
            seed=0,
            probe="linear",
            frame_size=40,
            encoder=folder / arm / "encoder",
            features=folder / arm / "features",
            clips=folder / "clips",
            folds=folds,
            predictions=pd.concat(parts, ignore_index=True),
            verdicts=verdicts,
        )
        for arm in SIGNALS
    }


def write_clips(directory: Path, ids: list[str]) -> None:
    directory.mkdir()
    random = np.random.default_rng(5)
    clips: dict[str, dict[str, object]] = {}
    for name in ids:
        sha = name.replace("/", "-")
        np.save(directory / f"{sha}.npy", random.integers(0, 255, (5, SIZE, SIZE), dtype=np.uint8))
        clips[name] = {"sha256": sha, "frames": 5, "fps": 10.0}
    write_clips_index(directory, SIZE, clips, "")


def write_features(directory: Path, tokens: np.ndarray, ids: list[str], arm: str, encoder: str) -> None:
    directory.mkdir(parents=True)
    np.save(directory / "tokens.npy", tokens.astype(np.float16))
    record = FeaturesRecord(
        key=f"key-{arm}",
        arm=arm,
        seed=0,
        encoder_sha256=encoder,
        shape=tokens.shape,
        effective_rank=3.0,
        seen_in_pretraining=ids[:2] if arm == "spoilt" else [],
    )
    contents = [name.replace("/", "-") for name in ids]
    columns = {"sample_id": ids, "sha256": contents, "finite": True, "std": 1.0, "seen_in_pretraining": False}
    write_index(directory, record, pd.DataFrame(columns))


@pytest.fixture
def project(tmp_path: Path, prepared: Path) -> Store:
    """A project of its own, its database copied from an initialised one."""
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(prepared.read_bytes())
    return store(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    store(root)
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def elect(project: Store) -> Callable[..., Promotion]:
    """Promote in the project, as the command does."""

    return functools.partial(promoted, project)


def promoted(place: Store, candidate: Candidate, **options: bool) -> Promotion:
    """What the command does, with a store of one's own."""
    with stage_run(place, "phantom", "promote", candidate.name, {}) as run:
        return promote(place, run, candidate, SETTINGS, NoveltySettings(), bootstrap=100, **options)
