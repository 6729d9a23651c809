"""A small classifier and a tracking store that the tests of serving share: a plugin that they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from echolung.data.video import encode
from echolung.methods.handmade import handmade_features
from echolung.methods.novelty import Descriptions, Novelty, NoveltySettings, fit_novelty
from echolung.methods.probes.heads import HEADS, Kind, ProbeForm, ProbeHeads, ProbeRecord
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import EncoderRecord, initial_encoder, save_encoder
from echolung.serving.model import Classifier, write_classifier
from echolung.tracking.store import Store, store

SIZE = 40
CLASSES = ["covid", "pneumonia", "regular"]
WIDTH = 24


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, an encoder, and a classifier of random weights: a.mp4 is what it knows, b.avi lies outside."""
    folder = tmp_path_factory.mktemp("serving")
    random = np.random.default_rng(0)
    for name, (height, width) in {"a.mp4": (48, 64), "b.avi": (60, 44)}.items():
        frames = random.integers(0, 255, (1, height, width)) * np.linspace(0.3, 1, 30)[:, None, None]
        encode(folder / name, frames.astype(np.uint8), 20, "h264" if name == "a.mp4" else "mjpeg")
    settings = EncoderSettings(width=WIDTH, depth=1, heads=2, image_size=32, frames=4, clip_fps=8, patch=16)
    record = EncoderRecord(settings=settings, arm="jepa", objective="jepa", seed=0)
    record = save_encoder(folder / "encoder", initial_encoder(settings, 0), record)
    make_classifier(folder, "draft", usual(1e9))
    draft = Classifier.open(folder / "draft")
    near, far = sorted(draft.look(folder / name).distance for name in ("a.mp4", "b.avi"))
    assert far > 1.01 * near, "the two videos can be told apart by their distance"
    make_classifier(folder, "classifier", usual((near + far) / 2))
    return folder


def usual(threshold: float) -> Novelty:
    """Training videos that were never there, and a threshold."""
    random = np.random.default_rng(3)
    looks = len(handmade_features(np.zeros((2, SIZE, SIZE), np.uint8)))
    known = Descriptions(random.normal(0, 1, (20, 30 * WIDTH)), random.normal(0, 1, (20, looks)))
    novelty = fit_novelty(known, np.arange(20), NoveltySettings())
    return Novelty(novelty.usual, novelty.record.model_copy(update={"threshold": threshold}))


def make_classifier(folder: Path, name: str, novelty: Novelty, kind: Kind = "attentive") -> ProbeHeads:
    """A classifier of the folder's encoder and a drawn probe, as `folder`/`name`."""
    probe = HEADS[kind](ProbeForm(kind=kind, width=WIDTH, classes=3, attention_head_width=12), heads=1, seed=1)
    torch.nn.init.normal_(probe.classifier, std=0.3, generator=torch.Generator().manual_seed(2))
    encoder = EncoderRecord.model_validate_json((folder / "encoder" / "encoder.json").read_text())
    fitted = ProbeRecord(
        form=probe.form,
        task="pocus-pathology",
        classes=CLASSES,
        unit="video",
        views=2,
        arm="jepa",
        arm_seed=0,
        encoder_sha256=encoder.weights_sha256,
        features_key="k",
        split_digest="s",
        videos=2,
        patients=2,
        learning_rate=0.1,
        weight_decay=0.0,
        epochs=1,
        inner_log_loss=1.0,
        seed=0,
    )
    write_classifier(folder / name, folder / "encoder", probe, fitted, novelty, "phantom", SIZE)
    return probe


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store(tmp_path_factory.mktemp("project"))
