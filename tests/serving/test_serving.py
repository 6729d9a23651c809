"""The classifier in a folder: it answers as the study did, refuses what is not whole, and MLflow serves the same."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_classifier import CLASSES, SIZE

from echolung.core.errors import CheckpointError, RegistryError, TrackingError, VideoError
from echolung.core.runtime import sha256_file, write_json
from echolung.data.clips import ClipStore, letterbox
from echolung.data.video import decode, encode
from echolung.embedding.embed import EmbedSettings, embed
from echolung.embedding.features import Features
from echolung.methods.probes.heads import apply_probe
from echolung.models.weights import initial_encoder, load_encoder, save_encoder
from echolung.registry.models import (
    champion,
    find_champion,
    load_pyfunc,
    make_champion,
    model_name,
    register,
)
from echolung.serving.model import Classifier, predict_videos
from echolung.tracking.experiments import stage_run
from echolung.tracking.store import Store

pytest_plugins = ["small_classifier"]
pytestmark = pytest.mark.usefixtures("one_thread")


def copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder / "classifier", target / "classifier")
    return target / "classifier"


def test_a_video_gets_the_probabilities_it_has_in_the_study(folder: Path, tmp_path: Path) -> None:
    videos = [folder / "a.mp4", folder / "b.avi"]
    clips = {}
    for path in videos:
        video = decode(path, functools.partial(letterbox, size=SIZE))
        digest = sha256_file(path)
        np.save(tmp_path / f"{digest}.npy", video.frames)
        clips[path.stem] = {"sha256": digest, "frames": len(video.frames), "fps": video.fps}
    write_json(tmp_path / "index.json", {"fingerprint": "", "size": SIZE, "clips": clips})
    manifest = pd.DataFrame({"sample_id": list(clips), "sha256": [clip["sha256"] for clip in clips.values()]})
    embed(folder / "encoder", manifest, ClipStore.open(tmp_path), EmbedSettings(views=2), tmp_path / "features")
    tokens = torch.tensor(Features.open(tmp_path / "features").tokens)
    expected = apply_probe(Classifier.open(folder / "classifier").probe, tokens).numpy()

    record, table = predict_videos(folder / "classifier", videos)

    assert (record.study, record.task) == ("phantom", "pocus-pathology")
    probabilities = ["p_covid", "p_pneumonia", "p_regular"]
    distances = ["outside", "distance", "threshold", "false_alarm_rate"]
    assert list(table.columns) == ["video", "predicted", *probabilities, *distances, "damage"]
    found = table[probabilities].to_numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)  # tokens are kept in half precision
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert sorted(table["outside"]) == [False, True]
    for row, best in zip(table.itertuples(), found.argmax(axis=1), strict=True):
        assert row.outside == (row.distance > row.threshold)
        assert row.predicted == (None if row.outside else CLASSES[best])
    known = Classifier.open(folder / "classifier").record.novelty
    assert set(table["threshold"]) == {known.threshold}
    assert set(table["false_alarm_rate"]) == {known.measured}
    assert abs(found[0] - found[1]).max() > 0.01, "the answers differ as the videos do"
    assert list(table["damage"]) == ["", ""]


def test_a_video_gets_the_same_answer_in_any_company(folder: Path) -> None:
    classifier = Classifier.open(folder / "classifier")
    videos = [folder / "a.mp4", folder / "b.avi"]
    together = classifier.predict(videos)
    alone = pd.concat([classifier.predict([video]) for video in reversed(videos)][::-1], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone)


def test_a_file_that_is_no_video_is_named(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        predict_videos(folder / "classifier", [folder / "a.mp4", text])
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        predict_videos(folder / "classifier", [tmp_path / "absent.mp4"])


def test_a_still_is_not_a_video(folder: Path, tmp_path: Path) -> None:
    encode(tmp_path / "still.avi", np.zeros((1, 64, 64), np.uint8), 25.0, "mjpeg")
    with pytest.raises(VideoError, match=r"still\.avi has one frame"):
        Classifier.open(folder / "classifier").predict([tmp_path / "still.avi"])


def test_a_truncated_video_is_answered_with_a_warning(folder: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 60, 44), dtype=np.uint8)
    encode(tmp_path / "whole.avi", frames, 25, "mjpeg")
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    _, table = predict_videos(folder / "classifier", [tmp_path / "cut.avi"])
    assert table["damage"][0] != ""


def test_parts_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    other, record = load_encoder(folder / "encoder")
    other = initial_encoder(other.settings, 1)
    save_encoder(tmp_path / "encoder", other, record)
    mixed = copy(folder, tmp_path)
    for name in ("encoder.safetensors", "encoder.json"):
        shutil.copyfile(tmp_path / "encoder" / name, mixed / name)
    with pytest.raises(CheckpointError, match="not the one that the probe was fitted on"):
        Classifier.open(mixed)


@pytest.mark.parametrize(
    "name", ["classifier.json", "encoder.safetensors", "probe.safetensors", "probe.json", "novelty.safetensors"]
)
def test_a_damaged_part_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    damaged = copy(folder, tmp_path)
    (damaged / name).write_bytes((damaged / name).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="classifier"):
        Classifier.open(damaged)
    (damaged / name).unlink()
    with pytest.raises(CheckpointError, match="classifier"):
        Classifier.open(damaged)


def test_the_registered_model_is_code_and_safetensors_and_answers_the_same(folder: Path, tracking: Store) -> None:
    assert find_champion(tracking, "phantom", "pocus-pathology") is None
    with pytest.raises(RegistryError, match="has no champion yet") as error:
        champion(tracking, "phantom", "pocus-pathology")
    assert error.value.remedy == "Run `echolung promote pocus-pathology`."

    columns = Classifier.open(folder / "classifier").record.columns
    with stage_run(tracking, "phantom", "promote", "pocus-pathology", {}) as run:
        version = register(
            tracking, run, "phantom", "pocus-pathology", folder / "classifier", columns, {"arm": "jepa"}, "a model"
        )
        assert find_champion(tracking, "phantom", "pocus-pathology") is None, "registered is not yet champion"
        make_champion(tracking, version)
    assert tracking.client().get_run(run.id).info.status == "FINISHED"
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what runs next in this process finds its own store"

    found = champion(tracking, "phantom", "pocus-pathology")
    assert (found.name, found.number, found.tags["arm"]) == ("echolung-phantom-pocus-pathology", 1, "jepa")
    assert find_champion(tracking, "lung", "pocus-pathology") is None, "a phantom cannot stand in for a real one"
    files = [path for path in found.model.rglob("*") if path.is_file()]
    assert not {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".pyc"}
    assert not any(path.read_bytes().startswith(b"\x80") for path in files), "a pickle begins with this byte"
    assert any(path.name == "MLmodel" for path in files)

    videos = [str(folder / "a.mp4"), str(folder / "b.avi")]
    served = load_pyfunc(found).predict(pd.DataFrame({"video": videos}))
    pd.testing.assert_frame_equal(served, predict_videos(found.classifier, videos)[1])


def test_a_champion_whose_files_are_gone_is_reported(folder: Path, tracking: Store) -> None:
    columns = Classifier.open(folder / "classifier").record.columns
    with stage_run(tracking, "gone", "promote", "t", {}) as run:
        version = register(tracking, run, "gone", "t", folder / "classifier", columns, {}, "")
        make_champion(tracking, version)
    assert version.name == model_name("gone", "t")
    shutil.rmtree(version.model)
    with pytest.raises((RegistryError, TrackingError), match="cannot be read") as error:
        champion(tracking, "gone", "t")
    assert "promote t --reset" in error.value.remedy
