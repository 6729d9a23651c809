"""The methods that draw structures: `segmentation` (a U-Net), `light-decoder` (on an encoder's frozen tokens) and
`mean-mask`, which looks at nothing. Trained on traced frames only.

The first inner fold decides when a U-Net stops; the others train. The light decoder takes a fixed number of steps, so
that its inner folds can tell how many training patients are needed: `search` has its Dice by their number (`curve`).

Dimension letters: N traced frames, S side of the store's frames, C classes (background first), T frames.
"""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pydantic
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from echolung.core.errors import DataError
from echolung.core.runtime import code_digest, derived_seed, digest, exclusive, read_json, write_json
from echolung.data.masks import STRUCTURES
from echolung.embedding.recordings import Recordings
from echolung.kinds.segmentation import SegmentationTask, scored, segmentation_of
from echolung.kinds.task import Task
from echolung.methods.gradcam import grad_cam
from echolung.methods.method import Drawing, Maps, Method, Rows, device_of
from echolung.methods.traced import CHUNK, CLASSES, Traced, mean_dice, train
from echolung.methods.training import TrainingSettings
from echolung.models.segmentation import LightDecoder, UNet, prepared

RECORD, WEIGHTS = "segmenter.json", "segmenter.safetensors"
LAYER = "net.decoder.blocks.0"
"""Of a U-Net, for Grad-CAM: where the bottleneck first meets a skip. The bottleneck's own map, at half the resolution,
is compared with it by benchmarks/deletion.py."""


class Segmenter(Method):
    """A network on traced frames; a subclass says what it sees."""

    kinds = ("segmentation",)
    code: ClassVar[tuple[str, ...]] = (
        *("echolung.models.segmentation", "echolung.kinds.segmentation", "echolung.data.masks"),
        *("echolung.methods.segmentation", "echolung.methods.traced", "echolung.methods.training"),
    )

    def __init__(self, task: SegmentationTask, record: dict[str, Any], net: nn.Module, search: pd.DataFrame) -> None:
        """`record`: plain values that `build` makes the same network from."""
        self.task, self.record, self.net, self._search = task, record, net.eval(), search

    @classmethod
    @abc.abstractmethod
    def build(cls, record: dict[str, Any]) -> nn.Module:
        """The network, untrained."""

    @abc.abstractmethod
    def inputs(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        """What the network sees of these frames, or of the traced ones (None)."""

    @torch.no_grad()
    def probabilities(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        """float32 (T, C, S, S)."""
        x = torch.from_numpy(self.inputs(recordings, sample_id, frames))
        device = next((part.device for part in self.net.parameters()), torch.device("cpu"))
        parts = [self.net(x[at : at + CHUNK].to(device)).softmax(dim=1).cpu() for at in range(0, len(x), CHUNK)]
        return torch.cat(parts).numpy()

    def maps(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        """Label maps uint8 (T, S, S) of frames, or of the traced ones (None); only the task's structures."""
        p = self.probabilities(recordings, sample_id, frames)
        others = [at + 1 for at, name in enumerate(STRUCTURES) if name not in self.task.structures]
        p[:, 0] += p[:, others].sum(axis=1)
        p[:, others] = 0
        return p.argmax(axis=1).astype(np.uint8)

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        """Of traced frames where there are masks to score against, else of every frame."""
        rows = []
        for name in sample_ids:
            truth = recordings.masks(name)
            frames = None if truth is not None else np.arange(len(recordings.frames(name)))
            rows.append(scored(self.task, self.maps(recordings, name, frames), truth))
        return np.stack(rows)

    def explain(self, recordings: Recordings, sample_id: str) -> Maps:
        """Of a recording that nobody traced: the task's structures on every frame, and what the first rests on."""
        every, first = np.arange(len(recordings.frames(sample_id))), self.task.structures[0]
        views = recordings.shape[0] if self.reads_tokens else 1
        heat, words = self.heat(recordings, sample_id, every, STRUCTURES.index(first) + 1)
        heat, drawn = (
            one.reshape(views, -1, *one.shape[1:]) for one in (heat, self.maps(recordings, sample_id, every))
        )
        return Maps(heat, signed=False, words=words.format(first), drawing=Drawing(drawn, STRUCTURES))

    def heat(self, recordings: Recordings, sample_id: str, frames: np.ndarray, label: int) -> tuple[np.ndarray, str]:
        """float64 (T, height, width) for a structure, 1 where it says nothing, and what it is."""
        p = self.probabilities(recordings, sample_id, frames)[:, label].astype(np.float64)
        return 2 * p, "twice the probability of the {}, where over 1"

    def save(self, directory: Path) -> None:
        write_json(directory / RECORD, {"task": self.task.model_dump(mode="json"), "record": self.record})
        save_model(self.net, str(directory / WEIGHTS))

    @classmethod
    def load(cls, directory: Path) -> Self:
        found = read_json(directory / RECORD)
        net = cls.build(found["record"])
        load_model(net, directory / WEIGHTS)
        task = SegmentationTask.parse(found["task"], str(directory / RECORD))
        return cls(task, found["record"], net.to(device_of()), pd.DataFrame())


class UNetSettings(TrainingSettings):
    """The network, what it sees, and when it stops."""

    encoder: str = "mit_b0"  # of segmentation-models-pytorch; `tu-<name>` for one of timm
    weights: str = ""  # a file of the encoder's weights; empty for random ones
    decoder: tuple[pydantic.PositiveInt, ...] = pydantic.Field((128, 64, 32, 16, 16), min_length=5, max_length=5)
    """Channels of the decoder's stages, coarse to fine."""
    attention: Literal["none", "se", "cbam", "danet"] = "none"
    """What the encoder's maps pass on their way to the decoder."""
    clip: Literal[1, 3, 5, 7, 9] = 1
    """Frames that it sees to draw the middle one; more than one needs videos, not stills."""
    clip_step: float = pydantic.Field(0.04, gt=0)  # seconds between them
    sides: int = pydantic.Field(2, ge=0, le=3)  # coarser stages that are supervised, too
    seed: int = 0
    """Of its weights and batches. Methods that train the same network on the same frames train it once."""
    image_size: int = pydantic.Field(128, ge=32, multiple_of=32)
    augment: bool = True
    clahe: bool = False
    bilateral: bool = False
    validate_every: int = pydantic.Field(50, ge=1)
    """Steps between two looks at the inner fold; each is a checkpoint, too."""
    patience: int = pydantic.Field(6, ge=1)  # looks without a better Dice after which it stops


class Segmentation(Segmenter):
    """A U-Net on single frames, or on clips whose middle frame it draws."""

    gpus = 1.0
    Settings = UNetSettings

    @classmethod
    def build(cls, record: dict[str, Any]) -> nn.Module:
        return unet(UNetSettings.parse(record, "a segmenter"))

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        torch.manual_seed(derived_seed(settings.seed, "net"))
        net, record = unet(settings, settings.weights), settings.model_dump(mode="json")
        one = cls(segmentation_of(task), record, net, pd.DataFrame())
        rows = training.sort_values("sample_id")
        traced = Traced.of(one.task, recordings, rows, lambda name: one.inputs(recordings, name, None))
        held_out = traced.held_out()
        key = digest([record, cls.files(settings), code_digest(*cls.modules()), traced.fingerprint()])
        shared = directory.parent / f"unet-{key}"
        with exclusive(shared / "lock", "training a U-Net", patience=-1):  # the second finds it trained
            search = train(net, traced, ~held_out, held_out, settings, settings.seed, shared)
        return cls(one.task, record, net, search)

    def inputs(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        every, settings = recordings.frames(sample_id), self.record
        wanted = frames_of(recordings, sample_id, frames)
        if settings["clip"] > 1:
            if len(every) < settings["clip"]:
                problem = f"{sample_id} has {len(every)} frames, fewer than a clip of {settings['clip']}"
                raise DataError(problem, "Draw frames one by one: `clip: 1`.")
            step = max(1, round(settings["clip_step"] * recordings.fps(sample_id)))
            around = step * (np.arange(settings["clip"]) - settings["clip"] // 2)
            wanted = np.clip(wanted[:, None] + around, 0, len(every) - 1)
        used, places = np.unique(wanted, return_inverse=True)
        return prepared(every[used], settings["clahe"], settings["bilateral"])[places.reshape(wanted.shape)]

    def heat(self, recordings: Recordings, sample_id: str, frames: np.ndarray, label: int) -> tuple[np.ndarray, str]:
        heat = grad_cam(self.net, self.net.get_submodule(LAYER), self.inputs(recordings, sample_id, frames), label)
        return heat / (heat.mean() or 1.0), "Grad-CAM of the {}: what speaks for it, as a multiple of the mean"


def unet(settings: UNetSettings, weights: str = "") -> UNet:
    """The network of these settings; random weights without a file."""
    names = {"decoder", "attention", "clip", "sides"}
    return UNet(settings.encoder, settings.image_size, CLASSES, weights=weights, **settings.model_dump(include=names))


class DecoderSettings(TrainingSettings):
    """The decoder, and the curve."""

    channels: int = pydantic.Field(64, ge=1)
    curve: tuple[pydantic.PositiveInt, ...] = ()
    """Numbers of training patients whose Dice on the first inner fold is told in `search`."""
    draws: int = pydantic.Field(3, ge=1)  # random choices of so many patients


class Light(Segmenter):
    """A small decoder on the frozen tokens of single frames."""

    reads_tokens = True
    Settings = DecoderSettings

    @classmethod
    def build(cls, record: dict[str, Any]) -> nn.Module:
        return LightDecoder(tuple(record["grid"]), record["size"], record["width"], record["channels"], CLASSES)

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        spec, features = segmentation_of(task), recordings.features[0].record
        traced = Traced.of(spec, recordings, training, recordings.frame_tokens)
        record = {"grid": features.grid[1:], "size": traced.labels.shape[-1], "width": features.shape[-1]}
        record |= {"channels": settings.channels}

        def fitted(rows: np.ndarray, *draw: int) -> nn.Module:
            torch.manual_seed(derived_seed(seed, "net", *draw))
            net = cls.build(record)
            train(net, traced, rows, np.zeros_like(rows), settings, derived_seed(seed, *draw), None)
            return net

        held_out, found = traced.held_out(), []
        pool = np.unique(traced.patient[~held_out])
        for count in (count for count in settings.curve if count <= len(pool) and held_out.any()):
            for draw in range(settings.draws):
                chosen = np.random.default_rng([seed, draw]).permutation(pool)[:count]  # the smaller within the larger
                net = fitted(np.isin(traced.patient, chosen), count, draw)
                found.append({"patients": count, "draw": draw, "dice": mean_dice(net, traced, held_out)})
        return cls(spec, record, fitted(np.ones_like(held_out)), pd.DataFrame(found))

    def inputs(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        return recordings.frame_tokens(sample_id)


class MeanNet(nn.Module):
    """The same probabilities whatever the frame."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(shape), requires_grad=False)

    def forward(self, frames: Tensor) -> Tensor:
        return self.logits.expand(len(frames), -1, -1, -1)


class MeanMask(Segmenter):
    """At every pixel the structure that is most often there in training: the baseline."""

    @classmethod
    def build(cls, record: dict[str, Any]) -> nn.Module:
        return MeanNet(tuple(record["shape"]))

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        spec = segmentation_of(task)
        traced = Traced.of(spec, recordings, training, lambda name: frames_of(recordings, name, None))
        shares = torch.stack([(traced.labels == label).double().mean(dim=0) for label in range(CLASSES)])
        one = cls(spec, {"shape": list(shares.shape)}, MeanNet(tuple(shares.shape)), pd.DataFrame())
        one.net.logits.data = shares.clamp_min(1e-6).log().float()
        return one

    def inputs(self, recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
        return np.zeros((len(frames_of(recordings, sample_id, frames)), 1), np.uint8)


def frames_of(recordings: Recordings, sample_id: str, frames: np.ndarray | None) -> np.ndarray:
    """`frames`, or those that are traced."""
    if frames is not None:
        return frames
    masks = recordings.masks(sample_id)
    assert masks is not None
    return masks.frames
