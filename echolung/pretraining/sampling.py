"""Training clips: which videos a step sees, where each clip begins, and how it is cropped.

Everything is a pure function of (seed, step): a resumed run sees the same clips, on any number of workers, and no
sampler state needs saving.

Dimension letters: b clips of this worker, T frames, S side of the encoder's frames, V videos, W side of the store's.
"""

import functools

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.data.clips import ClipStore, evaluation_starts, read_clip
from echolung.models.encoder import ClipSettings


class CropSettings(Parameters):
    """Random resized crop, the same for all frames of a clip."""

    scale: tuple[float, float] = (0.5, 1.0)  # area of the crop as a fraction of the frame, uniform between these
    aspect: tuple[float, float] = (0.9, 1.1)  # width / height of the crop, log-uniform between these

    @pydantic.field_validator("scale", "aspect")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("two positive numbers are expected, the smaller first")
        return value


class TrainingClips(Dataset[torch.Tensor]):
    """Item `step` is this worker's part of the batch of that step: uint8 (b, T, S, S). Videos come in a new random
    order per epoch. A clip starts anywhere in its video where it fits, uniformly."""

    def __init__(
        self, store: ClipStore, encoder: ClipSettings, crop: CropSettings, *, seed: int, batch: int, rows: slice
    ) -> None:
        self.store, self.encoder, self.crop = store, encoder, crop
        self.seed, self.batch, self.rows = seed, batch, rows

    def __getitem__(self, step: int) -> torch.Tensor:
        chance = np.random.default_rng(derived_seed(self.seed, "clips", step)).random((self.batch, 5))
        videos = self.videos(step)
        return torch.stack([self._clip(videos[row], chance[row]) for row in range(*self.rows.indices(self.batch))])

    def videos(self, step: int) -> list[str]:
        """The sample ids of the whole batch of `step`."""
        ids = self.store.sample_ids
        places = [divmod(step * self.batch + row, len(ids)) for row in range(self.batch)]
        return [ids[_order(self.seed, epoch, len(ids))[place]] for epoch, place in places]

    def _clip(self, sample_id: str, chance: np.ndarray) -> torch.Tensor:
        frames, fps, clip_fps = len(self.store.frames(sample_id)), self.store.fps(sample_id), self.encoder.clip_fps
        latest = max(0.0, (frames - 1) / fps - (self.encoder.frames - 1) / clip_fps)
        clip = read_clip(self.store, sample_id, self.encoder.frames, clip_fps, latest * chance[0])
        top, left, height, width = self._box(clip.shape[-1], chance[1:])
        box = torch.from_numpy(clip[:, top : top + height, left : left + width]).float()[None]
        size = (self.encoder.image_size, self.encoder.image_size)
        return F.interpolate(box, size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()

    def _box(self, side: int, chance: np.ndarray) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a crop of a square frame."""
        (low, high), (narrow, wide) = self.crop.scale, self.crop.aspect
        area = (low + (high - low) * chance[0]) * side * side
        aspect = narrow * (wide / narrow) ** chance[1]
        height = min(max(round((area / aspect) ** 0.5), 1), side)
        width = min(max(round((area * aspect) ** 0.5), 1), side)
        return int(chance[2] * (side - height + 1)), int(chance[3] * (side - width + 1)), height, width


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, videos: int) -> np.ndarray:
    return np.random.default_rng(derived_seed(seed, "epoch", epoch)).permutation(videos)


def fixed_clips(store: ClipStore, encoder: ClipSettings, clips: int) -> torch.Tensor:
    """The middle clip of up to `clips` videos, evenly spaced over the store: uint8 (V, T, W, W) of the store's size W.
    The same for every seed and step, so measurements on them are comparable."""
    ids = store.sample_ids
    chosen = [ids[index] for index in np.linspace(0, len(ids) - 1, min(clips, len(ids))).round().astype(int)]
    views = []
    for sample_id in chosen:
        frames, fps = len(store.frames(sample_id)), store.fps(sample_id)
        (start,) = evaluation_starts(frames, fps, encoder.frames, encoder.clip_fps, 1)
        views.append(torch.from_numpy(read_clip(store, sample_id, encoder.frames, encoder.clip_fps, start)))
    return torch.stack(views)
