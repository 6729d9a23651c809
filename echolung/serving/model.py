"""A classifier in one folder: video files in, class probabilities out.

    encoder.safetensors, encoder.json   the frozen encoder with its preprocessing
    probe.safetensors, probe.json       the probe that reads its tokens
    novelty.safetensors                 what the training videos are like: means and covariances
    classifier.json                     what it answers, at which size videos were kept when it was fitted, and how far
                                        from the training videos one may lie to be answered

A video takes the way it took in the study, through the same functions: decoded, letterboxed, cut to the same views.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pydantic
import torch

from echolung.core.errors import CheckpointError, EcholungError, VideoError
from echolung.core.parameters import Parameters
from echolung.core.runtime import Progress, read_json, write_json
from echolung.data.clips import letterbox
from echolung.data.video import decode
from echolung.embedding.embed import encode_clips, evaluation_clips
from echolung.methods.novelty import Descriptions, Novelty, NoveltyRecord, describe, load_novelty, save_novelty
from echolung.methods.probes.heads import ProbeHeads, ProbeRecord, apply_probe, load_probe, save_probe
from echolung.models.encoder import Encoder
from echolung.models.weights import RECORD as ENCODER_RECORD
from echolung.models.weights import WEIGHTS as ENCODER_WEIGHTS
from echolung.models.weights import load_encoder

RECORD = "classifier.json"
REMEDY = "Promote a model again: `echolung promote TASK`."


class ClassifierRecord(Parameters):
    """classifier.json."""

    format: Literal["echolung-classifier-3"] = "echolung-classifier-3"
    study: str
    task: str
    classes: list[str]
    """In the order of the columns p_<class>."""
    unit: Literal["video", "patient"]
    """What one decision is about; for `patient`, average the probabilities of a patient's videos."""
    views: int = pydantic.Field(ge=1, le=1024)
    """Clips cut from each video."""
    frame_size: int = pydantic.Field(ge=1, le=1024)
    """Side of the square frames that videos are letterboxed to before the encoder resizes them, in pixels."""
    encoder_sha256: str
    probe_sha256: str
    novelty: NoveltyRecord
    """How far a video may lie from the training videos, and how often that says too much."""

    @property
    def columns(self) -> dict[str, str]:
        """The columns of its answers, and their types as MLflow names them."""
        probabilities = {f"p_{name}": "double" for name in self.classes}
        distances = {"outside": "boolean", "distance": "double", "threshold": "double", "false_alarm_rate": "double"}
        return {"video": "string", "predicted": "string", **probabilities, **distances, "damage": "string"}


def write_classifier(
    directory: Path,
    encoder_directory: Path,
    probe: ProbeHeads,
    fitted: ProbeRecord,
    novelty: Novelty,
    study: str,
    frame_size: int,
) -> ClassifierRecord:
    """Put an encoder, the probe that was fitted on its tokens, and what these tokens look like into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (ENCODER_WEIGHTS, ENCODER_RECORD):
        shutil.copyfile(encoder_directory / name, directory / name)
    saved = save_probe(directory, probe, fitted)
    record = ClassifierRecord(
        study=study,
        task=fitted.task,
        classes=fitted.classes,
        unit=fitted.unit,
        views=fitted.views,
        frame_size=frame_size,
        encoder_sha256=fitted.encoder_sha256,
        probe_sha256=saved.weights_sha256,
        novelty=save_novelty(directory, novelty),
    )
    write_json(directory / RECORD, record.model_dump())
    return record


@dataclass(frozen=True)
class Look:
    """What a classifier made of one video. V views, T frames of a clip, N tokens of width D, C classes."""

    total_frames: int
    fps: float
    damage: str
    clips: np.ndarray
    """uint8 (V, T, S, S)."""
    tokens: torch.Tensor
    """float16 (V, N, D), on the CPU."""
    p: np.ndarray
    """float64 (C,): probabilities."""
    described: Descriptions
    """As the training videos were, to be compared with them."""
    distance: float
    """To the training videos."""


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier."""

    record: ClassifierRecord
    encoder: Encoder
    probe: ProbeHeads
    novelty: Novelty

    @classmethod
    def open(cls, directory: Path) -> Classifier:
        """Load what `write_classifier` wrote; nothing is unpickled.

        Raises CheckpointError if a part is missing, damaged, or does not belong to the others.
        """
        path = directory / RECORD
        try:
            record = ClassifierRecord.parse(read_json(path), str(path))
        except (EcholungError, TypeError, ValueError) as error:
            problem = error.problem if isinstance(error, EcholungError) else str(error)
            raise CheckpointError(f"{directory} holds no classifier ({problem})", REMEDY) from None
        encoder, encoder_record = load_encoder(directory)
        probe, probe_record = load_probe(directory)
        parts = {
            "the encoder is not the one that the probe was fitted on": (
                encoder_record.weights_sha256,
                probe_record.encoder_sha256,
            ),
            "the encoder is another than classifier.json names": (encoder_record.weights_sha256, record.encoder_sha256),
            "the probe is another than classifier.json names": (probe_record.weights_sha256, record.probe_sha256),
            "the probe tells other classes apart": (probe_record.classes, record.classes),
        }
        for problem, (one, other) in parts.items():
            if one != other:
                raise CheckpointError(f"{directory}: {problem}", REMEDY)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(record, encoder.to(device), probe.to(device), load_novelty(directory, record.novelty))

    def predict(self, videos: Iterable[str | Path], on_progress: Progress | None = None) -> pd.DataFrame:
        """One row per video, in the columns of `ClassifierRecord.columns`.

        video, predicted (class; None where `outside`), p_<class> for every class, outside (bool: farther from the
        training videos than the threshold, so that the probabilities mean nothing), distance, threshold,
        false_alarm_rate (measured share of videos of new patients that are said to be outside though they are of the
        kind that was trained on), damage ("" for a whole file).

        Raises VideoError, naming the file, where nothing can be decoded; DependencyError without FFmpeg.
        """
        paths = [Path(video) for video in videos]
        rows = []
        for done, path in enumerate(paths, start=1):
            rows.append(self.row(str(path), self.look(path)))
            if on_progress:
                on_progress(done, len(paths))
        return self.table(rows)

    def look(self, path: Path) -> Look:
        """Decode a video and pass it through encoder and probe; raises as `predict`."""
        video = decode(path, functools.partial(letterbox, size=self.record.frame_size))
        if len(video.frames) < 2:
            raise VideoError(f"{path} has one frame, and a video has two or more", "Give the video, not a still of it.")
        clips = evaluation_clips(video.frames, video.fps, self.encoder.settings, self.record.views)
        tokens = encode_clips(self.encoder, clips)
        described = Descriptions.stack([describe(tokens, self.encoder.settings.grid, video.frames)])
        return Look(
            total_frames=len(video.frames),
            fps=video.fps,
            damage=video.damage,
            clips=clips,
            tokens=tokens,
            p=apply_probe(self.probe, tokens[None])[0].cpu().numpy(),
            described=described,
            distance=float(self.novelty.usual.distances(described)[0]),
        )

    def row(self, video: str, look: Look) -> dict[str, object]:
        """The answer for one video, by column."""
        known = self.novelty.record
        outside = not look.distance <= known.threshold  # also where it is not a number
        return {
            "video": video,
            "predicted": None if outside else self.record.classes[int(look.p.argmax())],
            **{f"p_{name}": float(value) for name, value in zip(self.record.classes, look.p, strict=True)},
            "outside": outside,
            "distance": look.distance,
            "threshold": known.threshold,
            "false_alarm_rate": known.measured,
            "damage": look.damage,
        }

    def table(self, rows: list[dict[str, object]]) -> pd.DataFrame:
        """Rows as `predict` returns them; what was not predicted stays None, which JSON knows, and not NaN."""
        table = pd.DataFrame(rows, columns=list(self.record.columns))
        return table.assign(predicted=pd.Series([row["predicted"] for row in rows], dtype=object))


def predict_videos(
    directory: Path, videos: Iterable[str | Path], on_progress: Progress | None = None
) -> tuple[ClassifierRecord, pd.DataFrame]:
    """What the classifier in `directory` answers for video files, and what it is: `Classifier.predict`."""
    classifier = Classifier.open(directory)
    return classifier.record, classifier.predict(videos, on_progress)
