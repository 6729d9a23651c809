"""A model in one folder: video files in, answers out.

    model.json             what it answers, how files are prepared, the threshold of novelty, digests of the other files
    encoder.{safetensors,json}   the frozen encoder, if the method reads its tokens
    method/                what `Method.save` wrote
    novelty.safetensors    what the training recordings are like

A file is decoded, letterboxed and cut into views by the functions of the study, and `Method.predict` answers.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from safetensors import SafetensorError

from echolung.core.errors import CheckpointError, EcholungError, VideoError
from echolung.core.parameters import Parameters
from echolung.core.runtime import read_json, sha256_file, write_json
from echolung.data.clips import evaluation_starts
from echolung.data.containers import NO_RATE
from echolung.data.video import decode
from echolung.embedding.embed import encode_clips, evaluation_clips
from echolung.embedding.features import Features
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.kinds.kind import Kind
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.methods.method import Method
from echolung.methods.methods import METHODS
from echolung.methods.novelty import Novelty, NoveltyRecord, describe
from echolung.models import weights
from echolung.models.encoder import Encoder

RECORD = "model.json"
REMEDY = "Promote a model again: `echolung promote TASK`."
CLIPS = 16  # clips that pass through the encoder at a time
FACTS = {"outside": "boolean", "distance": "double", "threshold": "double", "false_alarm_rate": "double"}
FACTS |= {"damage": "string", "in_training": "boolean"}


class ModelRecord(Parameters):
    """model.json."""

    format: Literal["echolung-model"] = "echolung-model"
    study: str
    task_name: str
    task: dict[str, Any]  # the task's parameters
    arm: str
    method: str
    arm_seed: int
    views: int = pydantic.Field(ge=1, le=1024)  # clips cut from each video
    frame_size: int = pydantic.Field(ge=1, le=4096)  # side of the square that videos are letterboxed to, in pixels
    novelty: NoveltyRecord
    trained_on: tuple[str, ...] = ()  # SHA-256 of the labelled recordings that the method was fitted on
    files: dict[str, str] = {}  # SHA-256 of the other files of the folder


def write_model(directory: Path, record: ModelRecord, method: Method, novelty: Novelty, encoder: Path | None) -> None:
    """Write a model folder. `encoder`: the folder of the encoder whose tokens the method reads."""
    (directory / "method").mkdir(parents=True)
    for name in (weights.WEIGHTS, weights.RECORD) if encoder else ():
        shutil.copyfile(Path(str(encoder)) / name, directory / name)
    method.save(directory / "method")
    novelty.save(directory)
    record = record.model_copy(update={"files": _digests(directory)})
    write_json(directory / RECORD, record.model_dump(mode="json"))


def read_model(directory: Path) -> ModelRecord:
    """The record of a model folder; raises CheckpointError if a file is missing, added or changed."""
    path = directory / RECORD
    try:
        record = ModelRecord.parse(read_json(path), str(path))
        found = _digests(directory)
    except (EcholungError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a model ({getattr(error, 'problem', error)})", REMEDY) from None
    if wrong := sorted(name for name in {*found, *record.files} if found.get(name) != record.files.get(name)):
        raise CheckpointError(f"{directory}: {', '.join(wrong)} missing, added or changed since it was written", REMEDY)
    return record


def _digests(directory: Path) -> dict[str, str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path != directory / RECORD]
    return {path.relative_to(directory).as_posix(): sha256_file(path) for path in files}


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    record: ModelRecord
    task: Task
    method: Method
    novelty: Novelty
    encoder: Encoder | None

    @classmethod
    def open(cls, directory: Path) -> Model:
        """Load what `write_model` wrote, without a pickle; raises CheckpointError as `read_model` does."""
        record = read_model(directory)
        kind, method = KINDS.get(record.task.get("kind", "")), METHODS.get(record.method)
        if kind is None or method is None:
            missing = f"kind '{record.task.get('kind')}'" if kind is None else f"method '{record.method}'"
            raise CheckpointError(f"{directory} needs the {missing}, which this EchoLung does not have", REMEDY)
        encoder = None
        if method.reads_tokens:
            encoder = weights.load_encoder(directory)[0].to("cuda" if torch.cuda.is_available() else "cpu")
        task = kind.Settings.parse(record.task, str(directory / RECORD))
        try:
            fitted, novelty = method.load(directory / "method"), Novelty.load(directory, record.novelty)
        except (EcholungError, SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            problem = f"{directory} does not hold a fitted {record.method} ({getattr(error, 'problem', error)})"
            raise CheckpointError(problem, REMEDY) from None
        return cls(record, task, fitted, novelty, encoder)

    @property
    def kind(self) -> Kind:
        return KINDS[self.task.kind]

    @property
    def columns(self) -> dict[str, str]:
        """The columns of `predict`, and their types as MLflow names them."""
        return {"video": "string", **self.kind.answer_columns(self.task), **FACTS}

    def predict(self, paths: Sequence[str | Path], fps: float | None = None) -> pd.DataFrame:
        """One row per video file.

        video (the path), the columns of the kind's answer (the first is None if `outside`), outside (farther from the
        training recordings than the threshold), distance, threshold, false_alarm_rate (as measured at promotion),
        damage, in_training (the model was fitted on this very file). Raises VideoError naming the file if nothing can
        be decoded, or if it does not say its frame rate and `fps` is not given; DependencyError without FFmpeg.
        """
        return pd.concat([self.answer(str(path), self.read(Path(path), fps)) for path in paths], ignore_index=True)

    def read(self, path: Path, fps: float | None = None) -> Recordings:
        """Decode a file, and encode its views: one recording, with the path as its `sample_id`."""
        video, name = decode(path, self.record.frame_size), str(path)
        if len(video.frames) < 2:
            raise VideoError(f"{path} has one frame, and a video has two or more", "Give the video, not a still of it.")
        faults = video.damage.split("; ")
        if NO_RATE in faults:
            if fps is None:
                raise VideoError(f"{path} does not say its frame rate", "Give it: `echolung predict FILE --fps 50`.")
            video = dataclasses.replace(video, fps=fps, damage="; ".join(one for one in faults if one != NO_RATE))
        facts = vars(video) | {"sample_id": name, "source": "", "path": name, "frames": len(video.frames)}
        features = None
        if self.encoder:
            views = evaluation_clips(video.frames, video.fps, self.encoder.settings, self.record.views)
            parts = [encode_clips(self.encoder, views[at : at + CLIPS]).numpy() for at in range(0, len(views), CLIPS)]
            features = Features.in_memory([name], np.concatenate(parts)[None], self.encoder.grid)
        clips = HeldClips({name: (video.frames, video.fps)})
        return Recordings([Part(pd.DataFrame([facts]), clips, features)])

    def answer(self, name: str, one: Recordings) -> pd.DataFrame:
        """The row of `predict`, of what `read` made of the file `name`."""
        table = self.kind.answer(self.task, self.method.predict(one, [name]))
        distance = self.novelty.distances(describe(one, [name]))
        known = self.record.novelty
        outside = ~(distance <= known.threshold)  # true for NaN
        first = table.columns[0]
        table[first] = table[first].astype(object).where(~outside, None)
        table.insert(0, "video", name)
        table["outside"], table["distance"], table["threshold"] = outside, distance, known.threshold
        table["false_alarm_rate"], table["damage"] = known.measured, one.manifest([name])["damage"].item()
        table["in_training"] = sha256_file(Path(name)) in self.record.trained_on
        return table

    def clips(self, name: str, one: Recordings) -> tuple[np.ndarray, np.ndarray]:
        """Views uint8 (V, T, S, S), all frames as one without an encoder; when a frame is shown, in seconds (V, T)."""
        frames, fps = one.frames(name), one.fps(name)
        if self.encoder is None:
            return frames[None], np.arange(len(frames))[None] / fps
        settings = self.encoder.settings
        starts = evaluation_starts(len(frames), fps, settings.frames, settings.clip_fps, self.record.views)
        seconds = np.minimum(starts[:, None] + np.arange(settings.frames) / settings.clip_fps, (len(frames) - 1) / fps)
        return evaluation_clips(frames, fps, settings, self.record.views), seconds
