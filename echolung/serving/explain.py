"""Which parts of a clip a classifier's answer rests on: its probe's token weights, laid over the frames.

An attentive probe is shown by its query's attention (mean over attention heads; it sums to 1 over a clip's tokens and
says what was read, not what for). A linear probe is shown by what each token adds to the logit of the class with the
highest probability (exact; with the bias it sums to that logit, and has either sign). Both are of the probe alone: the
tokens have exchanged information in the encoder before, so a token is not only its own patch.

Dimension letters: V views, T frames of a clip, S side of a frame in pixels, N tokens.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_path
from echolung.data.clips import evaluation_starts
from echolung.methods.probes.attention import token_weights
from echolung.serving.answers import OUTSIDE
from echolung.serving.model import Classifier, Look


@dataclass(frozen=True)
class Explanation:
    """What is drawn of one video."""

    frames: np.ndarray
    """uint8 (V, T, S, S): the letterboxed frames that the encoder was given."""
    weights: np.ndarray
    """float64 (V, time, height, width): one number per token, times N. Attention: 1 is an even share."""
    seconds: np.ndarray
    """float64 (V, T): when in the video each frame is shown."""
    signed: bool
    """Contributions, which have either sign, rather than attention."""

    @property
    def overlay(self) -> np.ndarray:
        """The weights at every frame and pixel, float64 (V, T, S, S): bilinear within a frame, held over a tubelet."""
        views, frames, side = self.frames.shape[:3]
        flat = torch.from_numpy(self.weights).flatten(0, 1)[:, None]
        fine = F.interpolate(flat, (side, side), mode="bilinear")[:, 0].unflatten(0, (views, -1))
        return fine.repeat_interleave(frames // self.weights.shape[1], dim=1).numpy()

    @property
    def course(self) -> np.ndarray:
        """The mean weight of each tubelet, float64 (V, time)."""
        return self.weights.mean(axis=(2, 3))


def explain(classifier: Classifier, look: Look) -> Explanation:
    """What the classifier's answer for a video rests on."""
    settings = classifier.encoder.settings
    best = int(look.p.argmax())
    weights = token_weights(classifier.probe, look.tokens.to(classifier.probe.mean.device), best)
    starts = evaluation_starts(look.total_frames, look.fps, settings.frames, settings.clip_fps, len(look.clips))
    last = (look.total_frames - 1) / look.fps
    return Explanation(
        frames=look.clips,
        weights=weights.double().cpu().unflatten(1, settings.grid).numpy() * weights.shape[1],
        seconds=np.minimum(starts[:, None] + np.arange(settings.frames) / settings.clip_fps, last),
        signed=classifier.probe.form.kind == "linear",
    )


def explain_videos(classifier: Classifier, videos: Sequence[Path], folder: Path, model: str) -> pd.DataFrame:
    """Answer for video files as `Classifier.predict` does, and draw each into `folder`: <stem>.gif and <stem>.png.

    Videos of one name get -2, -3 and so on. Raises DataError if the folder cannot be written to, before any video is
    looked at; VideoError as `predict`.
    """
    from echolung.serving.pictures import write_gif, write_png

    with _blamed(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    rows = []
    for path, name in zip(videos, _names(videos), strict=True):
        look = classifier.look(path)
        rows.append(classifier.row(str(path), look))
        found = explain(classifier, look)
        caption = caption_of(classifier, rows[-1], model)
        with _blamed(folder), atomic_path(folder / f"{name}.gif") as temporary:
            write_gif(temporary, found, caption, classifier.encoder.settings.clip_fps)
        with _blamed(folder), atomic_path(folder / f"{name}.png") as temporary:
            write_png(temporary, found, caption)
    return classifier.table(rows)


@contextlib.contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    """What the system refuses within is said of the folder of pictures."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"pictures cannot be written to {folder} ({reason})", "Name a folder that can be written to."
        ) from None


@dataclass(frozen=True)
class Caption:
    """What stands beside the pictures."""

    answer: str
    probabilities: str
    model: str
    method: str
    file: str


def caption_of(classifier: Classifier, row: dict[str, object], model: str) -> Caption:
    """The words for one row of `Classifier.predict`."""
    classes = classifier.record.classes
    best = max(classes, key=lambda name: float(str(row[f"p_{name}"])))
    if classifier.probe.form.kind == "linear":
        method = f"what each token adds to the logit of {best} (exact for this linear probe), times the tokens"
    else:
        heads = classifier.probe.form.width // classifier.probe.form.attention_head_width
        of = f"mean over {heads} heads" if heads > 1 else "one head"
        method = f"attention of the probe's query ({of}), in even shares: 1, a token like any other, has no colour"
    probabilities = "   ".join(f"{name} {float(str(row[f'p_{name}'])):.1%}" for name in classes)
    distance = f"distance {row['distance']:.2f} to the training videos, threshold {row['threshold']:.2f}"
    return Caption(
        answer=OUTSIDE if row["outside"] else f"predicted: {row['predicted']}",
        probabilities=f"{distance}: no class is named" if row["outside"] else probabilities,
        model=f"{model}. Research use only; not a medical device.",
        method=method,
        file=Path(str(row["video"])).name,
    )


def _names(videos: Sequence[Path]) -> list[str]:
    """One file name per video, without suffix."""
    names: list[str] = []
    for video in videos:
        count = 1
        name = video.stem
        while name in names:
            count += 1
            name = f"{video.stem}-{count}"
        names.append(name)
    return names
