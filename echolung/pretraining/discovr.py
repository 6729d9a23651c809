"""Online cluster distillation from an image branch to a video branch, DISCOVR (Mishra et al. 2025, arXiv 2506.11777).

Each branch is a student and a slow copy of it, the teacher. A student sees a tenth of a clip, or of a frame, and its
class token is to say what the teacher's says of the whole (DINO, Caron et al. 2021, arXiv 2104.14294). Beside that, a
decoder completes the video student's tokens, and each is to fall to the same prototype as the image teacher's token of
the same place, under an assignment that gives all prototypes equally many.

    L = L_clusters + L_video + L_image

With the video branch alone, the targets are its own teacher's tokens: close to SIGMA (Salehi et al. 2024,
arXiv 2407.15447). The paper's second cluster term, with the roles exchanged, would move the prototypes alone.

Dimension letters, besides the package's: K prototypes, O numbers of a DINO head, n tokens of this worker.
"""

import copy
import math
from typing import Any, Literal, NamedTuple

import pydantic
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

from echolung.core.errors import SettingsError, TrialError
from echolung.core.parameters import Parameters
from echolung.core.runtime import derived_seed
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.predictor import Predictor
from echolung.models.vit import INIT_STD, VideoViT, VideoViTSettings
from echolung.pretraining.masking import sample_tubes
from echolung.pretraining.objective import Objective, follow, following, maskable_encoder
from echolung.pretraining.sampling import CropSettings

TUBELET = 2  # frames of a token of the video branch, where the image branch is handed on
EPSILON = 1e-6  # added to a channel's deviation
UNDECIDED = 1.5
"""A token's largest share, times the number of prototypes, is 1 if nothing tells them apart; 7 or more at the start."""


class DiscovrSettings(Parameters):
    """Cluster distillation; the defaults are the paper's for ViT-B. The released code has `aligned: false`,
    `centring: probabilities`, `ema: [0.99, 0.99]` and `centre_momentum: 0.8`."""

    branches: tuple[Literal["video"]] | tuple[Literal["video"], Literal["image"]] = ("video", "image")
    visible: float = pydantic.Field(0.1, gt=0, lt=1)  # share of the places that a student sees
    local_masks: int = pydantic.Field(4, gt=0)
    """Masks under which a class token is distilled. Another, global mask is for the decoder."""
    decoder_width: int = pydantic.Field(384, gt=0)
    decoder_depth: int = pydantic.Field(4, gt=0)
    decoder_heads: int = pydantic.Field(6, gt=0)
    prototypes: int = pydantic.Field(3000, gt=1)
    sinkhorn_iterations: int = pydantic.Field(10, gt=0)
    sinkhorn_epsilon: float = pydantic.Field(0.05, ge=0.03)
    """Smaller is closer to one prototype per token; below .03 single precision does not hold exp(-2 / epsilon)."""
    head_hidden: int = pydantic.Field(2048, gt=0)
    head_bottleneck: int = pydantic.Field(256, gt=0)
    head_out: int = pydantic.Field(16384, gt=1)
    temperature: float = pydantic.Field(0.1, gt=0)  # of the students and of the cluster loss
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Of the teachers, from the first step to the end of the warm-up."""
    temperature_warmup: float = pydantic.Field(0.075, ge=0, le=1)
    """Share of the steps over which it rises; 30 of 400 epochs."""
    ema: tuple[float, float] | None = (0.996, 1.0)
    """Fraction of a teacher that is kept at a step: by a cosine from the first step to the last. null follows the
    length of the run, as in `jepa`."""
    centre_momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    centring: Literal["logits", "probabilities"] = "logits"
    """What the mean is taken of that is subtracted from a teacher's logits."""
    aligned: bool = True
    """Compare tokens of the same place. The released code compares the decoder's own order, visible tokens first, with
    every other token of the image teacher."""
    crop: CropSettings = CropSettings()


class Head(nn.Module):
    """The projection head of DINO: three layers, unit length, and cosines with O directions."""

    def __init__(self, width: int, settings: DiscovrSettings) -> None:
        super().__init__()
        hidden = settings.head_hidden
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, settings.head_bottleneck),
        )  # fmt: skip
        self.directions = nn.Parameter(torch.empty(settings.head_out, settings.head_bottleneck))
        for parameter in self.parameters():
            nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.trunc_normal_(parameter, std=INIT_STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., O), between -1 and 1."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.directions, dim=-1))


class Branch(nn.Module):
    """Student, teacher and their heads."""

    centre: torch.Tensor
    fresh: torch.Tensor  # (O,): what `centre` moves to after the step

    def __init__(self, encoder: VideoViT, settings: DiscovrSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student, self.teacher = encoder, copy.deepcopy(encoder).requires_grad_(False)
        self.head = Head(encoder.width, settings)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(settings.head_out))

    def forward(
        self, pixels: torch.Tensor, masks: list[torch.Tensor], heat: torch.Tensor, workers: int, student: VideoViT
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the class tokens under `masks`, each (b, N), and the teacher's tokens (b, N, D). `heat` is the
        teacher's temperature."""
        with torch.no_grad():
            summary, tokens = self.teacher.summarised(pixels)
            logits = self.teacher_head(summary).float()
            target = ((logits - self.centre) / heat).softmax(dim=-1)
            self.fresh = (target if self.settings.centring == "probabilities" else logits).mean(dim=0)
            if workers > 1:
                torch.distributed.all_reduce(self.fresh)
                self.fresh /= workers
        losses = []
        for mask in masks:
            said = self.head(student.summarised(pixels, mask)[0]).float() / self.settings.temperature
            losses.append(-(target * said.log_softmax(dim=-1)).sum(dim=-1).mean())
        return torch.stack(losses).mean(), tokens.float()

    @torch.no_grad()
    def after_step(self, momentum: float) -> None:
        follow(self.teacher, self.student, momentum)
        follow(self.teacher_head, self.head, momentum)
        self.centre.lerp_(self.fresh, 1 - self.settings.centre_momentum)


class Masks(NamedTuple):
    """Visible tokens, bool (B, N) of either branch."""

    whole: torch.Tensor
    video: list[torch.Tensor]
    image: list[torch.Tensor]


class Discovr(Objective):
    """Two branches, decoder and prototypes. The encoder's `attention` says which branch is handed on, `clip` the
    video's and `frame` the image's: teacher or student, whichever is judged better on held-out videos."""

    Settings = DiscovrSettings
    done: torch.Tensor

    def __init__(self, encoder: ClipSettings, settings: DiscovrSettings, seed: int, steps: int) -> None:
        super().__init__(encoder, settings, seed, steps)
        video, image = _shapes(encoder, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("discovr", seed))
            self.video = Branch(maskable_encoder(video, seed, "discovr"), settings)
            if "image" in settings.branches:
                self.image = Branch(maskable_encoder(image, seed, "discovr"), settings)
            self.decoder = Predictor(
                self.video.student, width=settings.decoder_width, depth=settings.decoder_depth,
                heads=settings.decoder_heads, mlp_ratio=4.0, mask_tokens=1,
            )  # fmt: skip
            self.prototypes = nn.Parameter(F.normalize(torch.randn(settings.prototypes, video.width), dim=1))
        self.mine = "video" if encoder is video else "image"
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))  # `forward` is not told the step

    @property
    def each(self) -> dict[str, Branch]:
        return {name: getattr(self, name) for name in self.settings.branches}

    @property
    def handed_on(self) -> Encoder:
        return self.each[self.mine].teacher

    @property
    def choices(self) -> dict[str, Encoder]:
        return {"teacher": self.each[self.mine].teacher, "student": self.each[self.mine].student}

    def draw(self, clips: int, generator: torch.Generator) -> Masks:
        """Tubes for the video student; for the image student, other places in every frame."""
        grid, visible = self.video.student.grid, self.settings.visible
        whole, *video = (sample_tubes(visible, clips, grid, generator) for _ in range(1 + self.settings.local_masks))
        frames, count = clips * self.video.student.settings.frames, len(video) if "image" in self.each else 0
        image = [sample_tubes(visible, frames, (1, *grid[1:]), generator).view(clips, -1) for _ in range(count)]
        return Masks(whole, video, image)

    def teacher_temperature(self) -> torch.Tensor:
        """Of the current step, on the device."""
        first, last = self.settings.teacher_temperature
        share = self.done / max(1.0, self.settings.temperature_warmup * self.steps)
        return first + (last - first) * share.clamp(max=1.0)

    def momentum(self, step: int) -> float:
        """Fraction of the teachers that is kept at `step`."""
        if self.settings.ema is None:
            return following(step, self.steps)
        first, last = self.settings.ema
        return last - (last - first) * (math.cos(math.pi * step / max(1, self.steps - 1)) + 1) / 2

    def forward(
        self, views: torch.Tensor, drawn: Masks, rows: slice, context: VideoViT | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """Sum of the losses of clips uint8 (b, T, S, S); each is a mean over clips, frames or tokens."""
        pixels, temperature = self.video.student.pixels(views), self.teacher_temperature()
        whole = drawn.whole[rows]
        workers = len(drawn.whole) // len(whole)
        told: dict[str, torch.Tensor | float] = {"teacher_temperature": temperature}
        students, losses = {name: branch.student for name, branch in self.each.items()}, []
        if context is not None:
            students[self.mine] = context
        for name, branch in self.each.items():
            masks = [mask[rows] for mask in getattr(drawn, name)]
            loss, tokens = branch(pixels, masks, temperature, workers, students[name])  # the image's tokens come last
            told[f"loss_{name}"] = loss.detach()
            losses.append(loss)
        completed = self.decoder.everywhere(students["video"](pixels, whole), whole, 0).float()
        of_decoder, of_teacher = self._pairs(completed, tokens, whole)
        with torch.autocast(pixels.device.type, enabled=False):  # a bfloat16 cosine / .05 is off by 10%
            prototypes = self.prototypes.float()
            with torch.no_grad():
                scores = F.normalize(of_teacher, dim=-1) @ prototypes.T
                shares = sinkhorn(scores, self.settings.sinkhorn_epsilon, self.settings.sinkhorn_iterations, workers)
                largest, target = shares.max(dim=1)
            cosines = F.normalize(of_decoder, dim=-1) @ prototypes.T
            clusters = F.cross_entropy(cosines / self.settings.temperature, target)
        self.certainty = largest.mean() * self.settings.prototypes
        used = torch.bincount(target, minlength=self.settings.prototypes).count_nonzero()
        told |= {"loss_clusters": clusters.detach(), "certainty": self.certainty, "prototypes_used": used}
        return torch.stack([*losses, clusters]).sum(), told

    def _pairs(
        self, completed: torch.Tensor, tokens: torch.Tensor, visible: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of the decoder (b, N, D), and of the teacher they are compared with: both (b * N, D)."""
        time, *places = self.video.student.grid
        targets = standardised(tokens, places[0] * places[1])
        every = targets.shape[1] // completed.shape[1]  # frames of a tubelet, the first of which is compared
        if self.settings.aligned:
            targets = targets.unflatten(1, (time, every, -1))[:, :, 0]
        else:
            order = (~visible).int().argsort(dim=1, stable=True).to(completed.device)
            completed = completed.gather(1, order[..., None].expand_as(completed))
            targets = targets[:, ::every]
        return completed.flatten(0, 1), targets.flatten(0, -2)

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        """The teachers follow, the centres move, prototypes are of length 1 again. Raises TrialError on a collapse."""
        if float(self.certainty) < UNDECIDED:
            raise TrialError(
                f"the prototypes collapsed: at step {step + 1} every token suits all {self.settings.prototypes} alike",
                "Lower pretrain.training.learning_rate, set clip_gradient (1.0, say), or raise ema.",
            )
        self.done += 1
        for branch in self.each.values():
            branch.after_step(self.momentum(step))
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        return {"ema": self.momentum(step)}


def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int, workers: int = 1) -> torch.Tensor:
    """Cosines (n, K) -> the share of each token that each prototype gets, float32 (n, K); a token's shares sum to 1.

    Sinkhorn's iteration (Cuturi 2013; SwAV, Caron et al. 2020, arXiv 2006.09882): `iterations` times,
    exp(scores / epsilon) is scaled so that every prototype gets 1 / K of the tokens of all workers, then so that every
    token counts 1 / n.
    """
    kernel = ((scores.float() - 1) / epsilon).exp()  # a cosine is 1 at most
    tokens = len(kernel) * workers
    of_token = kernel.new_full((len(kernel),), 1 / tokens)
    of_prototype = kernel.new_zeros(kernel.shape[1])
    for _ in range(iterations):  # only the two factors change: the matrix is read, not written
        mass = of_token @ kernel
        if workers > 1:
            torch.distributed.all_reduce(mass)
        of_prototype = 1 / (kernel.shape[1] * mass)
        of_token = 1 / (tokens * (kernel @ of_prototype))
    return kernel * of_prototype * (of_token * tokens)[:, None]


def standardised(tokens: torch.Tensor, places: int) -> torch.Tensor:
    """Tokens (b, N, D) with mean 0 and deviation 1 in every channel over the `places` of each frame."""
    frames = tokens.unflatten(1, (-1, places))
    deviation, mean = torch.std_mean(frames, dim=2, keepdim=True)
    return ((frames - mean) / (deviation + EPSILON)).flatten(1, 2)


def _shapes(encoder: Any, settings: DiscovrSettings) -> tuple[VideoViTSettings, VideoViTSettings]:
    """The shapes of the video and the image branch; `encoder` is one of them. Raises SettingsError if it cannot be."""
    if not isinstance(encoder, VideoViTSettings) or not encoder.class_token:
        raise SettingsError(
            "the objective discovr trains the class token of an encoder of kind 'video-vit'",
            "Set `class_token: true` in the `shape` of the encoder.",
        )
    fixed = encoder.model_dump() | {"weights": ""}  # only what is handed on starts from weights
    if encoder.attention == "clip":
        return encoder, VideoViTSettings.parse(fixed | {"attention": "frame", "tubelet": 1}, "encoder")
    if "image" not in settings.branches:
        problem = "an encoder whose tokens attend within a frame is discovr's image branch, which `branches` leaves out"
        raise SettingsError(problem, "Set `attention: clip`, or the branches to [video, image].")
    return VideoViTSettings.parse(fixed | {"attention": "clip", "tubelet": TUBELET}, "encoder"), encoder
