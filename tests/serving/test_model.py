"""A model folder answers as the study did, refuses what is damaged, and MLflow serves the same."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import save_clips
from small_models import CLASSES, ENCODER, SIZE, STUDY, TASK, VIEWS, described, make_model, registered, usual

from echolung.core.errors import CheckpointError, NoChampionError, VideoError
from echolung.core.runtime import sha256_file
from echolung.data import nifti
from echolung.data.video import decode, encode
from echolung.embedding.embed import EmbedSettings, embed
from echolung.embedding.features import Features
from echolung.embedding.recordings import Part, Recordings
from echolung.methods.controls import HandMade
from echolung.models.weights import initialise
from echolung.registry.models import champion
from echolung.serving.answers import as_json, as_text, short_names
from echolung.serving.model import Model

pytest_plugins = ["small_models"]
VIDEOS = ("a.mp4", "b.avi")
NUMBERS = [f"p_{name}" for name in CLASSES]


def test_a_video_gets_the_answer_that_it_has_in_the_study(folder: Path, model: Model, tmp_path: Path) -> None:
    decoded = {name: decode(folder / name, SIZE) for name in VIDEOS}
    frames, fps = {name: one.frames for name, one in decoded.items()}, [one.fps for one in decoded.values()]
    store, settings = save_clips(tmp_path / "clips", frames, fps), EmbedSettings(sources=("pocus",), views=VIEWS)
    manifest = pd.DataFrame({"sample_id": VIDEOS, "sha256": VIDEOS})
    embed(folder / "encoder" / "seed0", "jepa", manifest, store, settings, tmp_path / "features", tmp_path / "cache")
    study = Recordings([Part(manifest, store, Features.open(tmp_path / "features"))])
    table = model.predict([folder / name for name in VIDEOS])
    assert list(table.columns) == list(model.columns)
    np.testing.assert_allclose(table[NUMBERS], model.method.predict(study, VIDEOS), atol=2e-3)
    assert list(table["outside"]) == list(table["distance"] > table["threshold"]) == [False, True]
    assert list(table["predicted"]) == [CLASSES[int(table[NUMBERS].to_numpy()[0].argmax())], None]
    assert set(table["false_alarm_rate"]) == {model.record.novelty.measured}
    assert list(table["damage"]) == ["", ""] and list(table["in_training"]) == [False, False]
    known = model.record.model_copy(update={"trained_on": (sha256_file(folder / "a.mp4"),)})
    table = dataclasses.replace(model, record=known).predict([folder / name for name in VIDEOS])
    assert list(table["in_training"]) == [True, False]
    assert "fitted on a.mp4: these answers say nothing about new videos" in as_text("", model, table)


def test_a_model_without_an_encoder_answers_too(folder: Path, model: Model) -> None:
    random = np.random.default_rng(0)
    looks = described(model, folder / "a.mp4")["handmade"]
    one = model.read(folder / "a.mp4")
    columns = [str(column) for column in HandMade.table(one, [str(folder / "a.mp4")])]
    coefficients = random.normal(size=(3, len(columns)))
    weights = {"coefficients": coefficients, "intercepts": -coefficients @ looks[0]}
    method = HandMade(columns, weights, pd.DataFrame())
    made = Model.open(make_model(folder, "hand-made", usual({"handmade": looks}), method, "hand-made"))
    table = made.predict([folder / name for name in VIDEOS])
    assert made.encoder is None and not (folder / "hand-made" / "model" / "encoder.json").exists()
    np.testing.assert_allclose(table.loc[0, NUMBERS].astype(float), 1 / 3, atol=1e-6)
    assert list(table["outside"]) == [False, True]


def test_a_truncated_video_is_answered_with_its_damage(model: Model, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 60, 44), dtype=np.uint8)
    encode(tmp_path / "whole.avi", frames, 25, "mjpeg")
    whole = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    table = model.predict([tmp_path / "cut.avi"])
    assert table["damage"][0] != "" and f"cut.avi: {table['damage'][0]}" in as_text("m", model, table)


def test_a_file_that_does_not_say_its_frame_rate_needs_to_be_told(folder: Path, model: Model, tmp_path: Path) -> None:
    video, path = decode(folder / "a.mp4"), tmp_path / "a.nii.gz"
    nifti.write(path, video.frames, 1.0)
    with pytest.raises(VideoError, match=r"a.nii.gz does not say its frame rate.*--fps"):
        model.predict([path])
    columns = [*NUMBERS, "damage"]
    told = model.predict([path], video.fps)[columns]
    pd.testing.assert_frame_equal(told, model.predict([folder / "a.mp4"])[columns])
    assert (model.predict([path], 3 * video.fps)[NUMBERS] != told[NUMBERS]).any(axis=None)
    assert model.predict([folder / "a.mp4"], 3.0)[columns].equals(told), "a file that says it is believed"


FOREIGN = {"method/probe.safetensors": b"\x80\x04.", "method/probe.json": b"{}", "novelty.safetensors": b""}
"""Whole files of something else."""


@pytest.mark.parametrize("name", ["model.json", "encoder.safetensors", "encoder.json", *FOREIGN])
def test_a_damaged_missing_or_foreign_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder / "whole" / "model", tmp_path / "model"))
    whole = (copy / name).read_bytes()
    for content in (whole[:-20], whole[:-3] + b"\1\1\1", None):
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"(?s){copy}.*echolung promote"):
            Model.open(copy)
        (copy / name).touch()
    if name == "encoder.safetensors":
        initialise(ENCODER, [1], tmp_path / "other", "jepa")
        shutil.copyfile(tmp_path / "other" / "seed1" / name, copy / name)
        with pytest.raises(CheckpointError, match="changed since it was written"):
            Model.open(copy)
    if name in FOREIGN:
        (copy / name).write_bytes(FOREIGN[name])
        record = json.loads((copy / "model.json").read_text())
        record["files"][name] = sha256_file(copy / name)
        (copy / "model.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=r"(?s)does not hold a fitted attentive.*echolung promote"):
            Model.open(copy)


def test_the_table_fits_100_columns_and_names_files_not_folders(folder: Path, model: Model) -> None:
    answers = model.predict([folder / name for name in VIDEOS])
    answers["video"] = [f"/ward/{'x' * 80}.mp4", "/ward/b.avi"]
    lines = as_text("title", model, answers).splitlines()
    assert max(map(len, lines)) <= 110 and all(len(line) <= 100 for line in lines[:5])
    assert lines[2].split() == ["file", "predicted", *NUMBERS, "distance"]
    assert lines[4].split()[:5] == ["b.avi", "outside", "-", "-", "-"]
    assert lines[-1] == "For research use only; not a medical device."
    assert short_names([Path("one/a.mp4"), Path("two/a.mp4")]) == ["one/a.mp4", "two/a.mp4"]
    (row, _) = as_json({}, model, answers)["predictions"]
    assert sum(row[name] for name in NUMBERS) == pytest.approx(1)


def test_the_registered_model_is_no_pickle_and_answers_alike_elsewhere(folder, model, tracking, tmp_path) -> None:
    with pytest.raises(NoChampionError, match=rf"has no champion yet\. Run `echolung promote {TASK}`\.$"):
        champion(tracking, STUDY, TASK)
    registered(tracking, STUDY, folder / "whole" / "model", {"arm": "jepa"})
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what runs next in this process finds its own store"
    found = champion(tracking, STUDY, TASK)
    assert (found.number, found.tags["arm"]) == (1, "jepa")
    files = [path for path in found.artifacts.rglob("*") if path.is_file()]
    assert not {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".pyc"}
    assert not any(path.read_bytes().startswith(b"\x80") for path in files), "a pickle begins with this byte"
    script = (
        "import base64, sys, pandas as pd, mlflow.pyfunc\n"
        "sent = [base64.b64encode(open(name, 'rb').read()).decode() for name in sys.argv[2:]]\n"
        "served = mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.DataFrame({'content': sent}))\n"
        "import echolung; print(echolung.__file__); print(served.to_json())"
    )
    videos = [str(folder / name) for name in VIDEOS]
    command = [sys.executable, "-c", script, str(found.artifacts), *videos]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    where, answers = done.stdout.splitlines()[-2:]
    assert where.startswith(str(found.artifacts)), "its own copy of the code"
    served = pd.DataFrame(json.loads(answers))
    np.testing.assert_allclose(served[NUMBERS], model.predict(videos)[NUMBERS], atol=1e-6)
    assert list(served["outside"]) == [False, True]
