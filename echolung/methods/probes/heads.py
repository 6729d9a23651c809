"""Probes on frozen tokens: many heads of one kind, evaluated and trained in one batched pass.

The backbone is frozen, so every head of a search (learning rate x weight decay x inner fold) sees the same tokens.
Parameters carry a leading head axis, each head has its own learning rate and weight decay, and no head sees another:
every one ends where it would have ended alone.

The attentive probe is the cross-attention block of V-JEPA 2's probe (Assran et al. 2025, arXiv 2506.09985): LayerNorm,
one learned query, no output projection, a residual MLP where asked for, a linear classifier. With one query, the keys
and values of the tokens need never be computed: W_k and the norm's affine are absorbed into the query, and W_v is
applied after pooling. Both are exact, and turn N x D x D work per token and head into N x D.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from echolung.core.errors import CheckpointError, EcholungError, SettingsError
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_path, read_json, sha256_file, write_json

# Dimension letters: B clips, N tokens, D width, H probe heads, A attention heads, K width of an attention head,
# M width of the MLP, C classes.

NORM_EPSILON = 1e-6
VARIANCE_FLOOR = 1e-6
"""Added to a channel's variance before tokens are divided by its root: a constant channel stays quiet."""

Kind = Literal["attentive", "linear"]


class ProbeForm(Parameters):
    """What a probe is made of. `mlp_ratio` 0 leaves the residual MLP out; the linear probe uses neither of the last."""

    kind: Kind
    width: int = pydantic.Field(ge=1)
    classes: int = pydantic.Field(ge=2)
    attention_head_width: int = pydantic.Field(default=64, ge=1)
    mlp_ratio: float = pydantic.Field(default=0.0, ge=0)


class ProbeHeads(nn.Module):
    """H heads of one kind. All start from the same weights, drawn from `seed`, with a classifier of zeros.

    Tokens are first normalised by a parameter-free LayerNorm (`inputs`), then standardised per channel by `mean` and
    `std` (H, D): buffers that hold statistics of each head's own training videos.
    """

    decayed: tuple[str, ...] = ("classifier",)
    """Names of the parameters that weight decay applies to: matrices, as usual, not biases and norms."""
    mean: Tensor
    std: Tensor
    classifier: Tensor
    classifier_bias: Tensor

    def __init__(self, form: ProbeForm, heads: int, seed: int = 0) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("mean", torch.zeros(heads, form.width))
        self.register_buffer("std", torch.ones(heads, form.width))
        for name, value in self.initial(torch.Generator().manual_seed(seed)).items():
            self.register_parameter(name, nn.Parameter(value.expand(heads, *value.shape).clone()))

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The parameters of one head before training."""
        return {
            "classifier": torch.zeros(self.form.classes, self.form.width),
            "classifier_bias": torch.zeros(self.form.classes),
        }

    @property
    def heads(self) -> int:
        return self.mean.shape[0]

    def inputs(self, tokens_BND: Tensor) -> Tensor:
        """What `forward` takes, from tokens of any float type: the part of the work that is the same for every head."""
        raise NotImplementedError

    def standardise(self, mean_HD: Tensor, variance_HD: Tensor) -> None:
        """Set the statistics that tokens are standardised by."""
        self.mean.copy_(mean_HD)
        self.std.copy_((variance_HD + VARIANCE_FLOOR).sqrt())

    def start_at(self, frequencies_HC: Tensor) -> None:
        """Let every head begin by predicting these class frequencies (> 0)."""
        with torch.no_grad():
            self.classifier_bias.copy_(frequencies_HC.log())

    def head(self, index: int) -> Self:
        """One head alone, as a copy."""
        one = type(self)(self.form, heads=1)
        one.load_state_dict({name: value[index : index + 1] for name, value in self.state_dict().items()})
        return one.to(self.mean)


class LinearHeads(ProbeHeads):
    """Mean over the tokens, standardised, then a linear classifier: multinomial logistic regression."""

    def inputs(self, tokens_BND: Tensor) -> Tensor:
        """(B, D): the mean of each clip's normalised tokens."""
        return normalised(tokens_BND, self.mean.dtype).mean(dim=1)

    def forward(self, inputs_BD: Tensor, heads: slice = slice(None)) -> Tensor:
        """Logits (B, H, C) of the heads asked for."""
        x_HBD = (inputs_BD - self.mean[heads, None]) / self.std[heads, None]
        logits_HBC = x_HBD @ self.classifier[heads].mT + self.classifier_bias[heads, None]
        return logits_HBC.transpose(0, 1)


class AttentiveHeads(ProbeHeads):
    """One learned query attends to all tokens; what it gathers goes through an optional MLP to a linear classifier."""

    decayed = ("classifier", "key", "value", "mlp_in", "mlp_out")
    norm: Tensor
    norm_bias: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    value_bias: Tensor
    mlp_norm: Tensor
    mlp_norm_bias: Tensor
    mlp_in: Tensor
    mlp_in_bias: Tensor
    mlp_out: Tensor
    mlp_out_bias: Tensor

    def __init__(self, form: ProbeForm, heads: int, seed: int = 0) -> None:
        if form.width % form.attention_head_width:
            raise SettingsError(
                f"probe.attention_head_width = {form.attention_head_width} does not divide the encoder's width"
                f" {form.width}",
                "Choose a divisor of the width, 64 for example.",
            )
        self.hidden = round(form.width * form.mlp_ratio)
        super().__init__(form, heads, seed)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        width, per_head, hidden = self.form.width, self.form.attention_head_width, self.hidden

        def normal(std: float, *shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * std

        parameters = {
            "norm": torch.ones(width),
            "norm_bias": torch.zeros(width),
            "query": normal(0.02, width // per_head, per_head),
            "key": normal(width**-0.5, width // per_head, per_head, width),
            "value": normal(width**-0.5, width // per_head, per_head, width),
            "value_bias": torch.zeros(width),
        }
        if hidden:
            parameters |= {
                "mlp_norm": torch.ones(width),
                "mlp_norm_bias": torch.zeros(width),
                "mlp_in": normal(width**-0.5, hidden, width),
                "mlp_in_bias": torch.zeros(hidden),
                "mlp_out": normal(hidden**-0.5, width, hidden),
                "mlp_out_bias": torch.zeros(width),
            }
        return parameters | super().initial(generator)

    def inputs(self, tokens_BND: Tensor) -> Tensor:
        """(B, N, D): each token normalised."""
        return normalised(tokens_BND, self.mean.dtype)

    def forward(self, inputs_BND: Tensor, heads: slice = slice(None)) -> Tensor:
        """Logits (B, H, C) of the heads asked for."""
        # The token as the naive probe sees it is gain * x + offset; a constant added to all scores changes nothing.
        gain_HD = self.norm[heads] / self.std[heads]
        offset_HD = self.norm_bias[heads] - self.mean[heads] * gain_HD
        value_HAKD = self.value[heads]
        query_HAD = torch.einsum("hak,hakd->had", self.query[heads], self.key[heads]) * gain_HD[:, None]
        query_BQD = (query_HAD.flatten(0, 1) * value_HAKD.shape[2] ** -0.5).expand(len(inputs_BND), -1, -1)
        # bmm, not @: with one matrix for the whole batch, matmul would copy scores to turn them round.
        pooled_BQD = torch.bmm(torch.bmm(query_BQD, inputs_BND.mT).softmax(dim=-1), inputs_BND)
        pooled_BHAD = pooled_BQD.unflatten(1, value_HAKD.shape[:2]) * gain_HD[:, None] + offset_HD[:, None]
        z_BHD = torch.einsum("bhad,hakd->bhak", pooled_BHAD, value_HAKD).flatten(2) + self.value_bias[heads]
        if self.hidden:
            z_BHD = z_BHD + self._mlp(z_BHD, heads)
        return torch.einsum("bhd,hcd->bhc", z_BHD, self.classifier[heads]) + self.classifier_bias[heads]

    def _mlp(self, z_BHD: Tensor, heads: slice) -> Tensor:
        z_BHD = normalised(z_BHD, z_BHD.dtype) * self.mlp_norm[heads] + self.mlp_norm_bias[heads]
        hidden_BHM = F.gelu(torch.einsum("bhd,hmd->bhm", z_BHD, self.mlp_in[heads]) + self.mlp_in_bias[heads])
        return torch.einsum("bhm,hdm->bhd", hidden_BHM, self.mlp_out[heads]) + self.mlp_out_bias[heads]


HEADS: dict[str, type[ProbeHeads]] = {"attentive": AttentiveHeads, "linear": LinearHeads}


class HeadwiseAdamW:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate and a weight decay (H,) for every head."""

    def __init__(
        self, heads: ProbeHeads, learning_rates_H: Tensor, weight_decays_H: Tensor, epsilon: float = 1e-8
    ) -> None:
        self.heads = heads
        self.rates = learning_rates_H.to(heads.mean)
        self.kept = 1 - self.rates * weight_decays_H.to(heads.mean)
        self.betas = (0.9, 0.999)
        self.epsilon = epsilon
        self.steps = 0
        self.moments = {
            name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in heads.named_parameters()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients, and clear them."""
        self.steps += 1
        first, second = self.betas
        rates_H = self.rates / (1 - first**self.steps)
        correction = (1 - second**self.steps) ** 0.5
        for name, parameter in self.heads.named_parameters():
            gradient = parameter.grad
            assert gradient is not None, name
            shape = (-1, *[1] * (parameter.dim() - 1))
            mean, square = self.moments[name]
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            if name in self.heads.decayed:
                parameter.mul_(self.kept.view(shape))
            # The gradient's memory is free now: no step allocates the size of the parameters again.
            torch.sqrt(square, out=gradient).div_(correction).add_(self.epsilon)
            parameter.sub_(torch.div(mean, gradient, out=gradient).mul_(rates_H.view(shape)))
            parameter.grad = None


@torch.no_grad()
def apply_probe(probe: ProbeHeads, tokens: Tensor) -> Tensor:
    """Class probabilities (B, C) of videos, from their tokens (B, views, N, D): the mean over the views.

    Raises CheckpointError if the tokens have another width than the probe was trained on.
    """
    if tokens.shape[-1] != probe.form.width:
        raise CheckpointError(
            f"the encoder's tokens are {tokens.shape[-1]} wide and the probe was trained on {probe.form.width}",
            "Use the encoder that the probe was fitted on.",
        )
    videos, views = tokens.shape[:2]
    logits_BHC = probe(probe.inputs(tokens.flatten(0, 1).to(probe.mean.device)))
    return logits_BHC[:, 0].double().softmax(dim=-1).unflatten(0, (videos, views)).mean(dim=1)


class ProbeRecord(Parameters):
    """What is saved beside a probe's weights: its form, how it was chosen and fitted, and what it may be applied to."""

    format: Literal["echolung-probe"] = "echolung-probe"
    form: ProbeForm
    task: str
    classes: list[str]
    """Names of the classes, in the order of the probabilities."""
    unit: Literal["video", "patient"]
    views: int = pydantic.Field(ge=1)
    """Evaluation views per video that it was fitted on and is applied to."""
    arm: str
    arm_seed: int
    encoder_sha256: str
    """Digest of the weights of the encoder whose tokens it reads."""
    features_key: str
    """Key of the feature store it was fitted on: encoder weights, preprocessing, sampling and videos."""
    split_digest: str
    videos: int
    patients: int
    learning_rate: float
    weight_decay: float
    epochs: int = pydantic.Field(ge=0)
    """Passes over the training videos; 0 where no pass lowered the log-loss of the class frequencies."""
    inner_log_loss: float
    """Log-loss on held-out inner folds that this learning rate, decay and number of epochs were chosen by."""
    seed: int
    weights_sha256: str = ""


def save_probe(directory: Path, probe: ProbeHeads, record: ProbeRecord) -> ProbeRecord:
    """Write `probe.safetensors` and `probe.json` (one head); returns the record with the digest of the weights."""
    assert probe.heads == 1, "a saved probe is one head"
    weights = directory / "probe.safetensors"
    with atomic_path(weights) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in probe.state_dict().items()}, temporary)
    record = record.model_copy(update={"form": probe.form, "weights_sha256": sha256_file(weights)})
    write_json(directory / "probe.json", record.model_dump())
    return record


def load_probe(directory: Path) -> tuple[ProbeHeads, ProbeRecord]:
    """A probe that `save_probe` wrote. Nothing is unpickled. Raises CheckpointError if it is damaged or not ours."""
    remedy = "Fit the probe again, or name a folder that `echolung promote` wrote."
    weights = directory / "probe.safetensors"
    try:
        record = ProbeRecord.parse(read_json(directory / "probe.json"), str(directory / "probe.json"))
        if sha256_file(weights) != record.weights_sha256:
            raise CheckpointError(f"{weights} is damaged, or belongs to another probe.json", remedy)
        tensors = load_file(weights)
        _check_extent(record.form, tensors)
        probe = HEADS[record.form.kind](record.form, heads=1)
        probe.load_state_dict(tensors)
    except (EcholungError, OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        problem = error.problem if isinstance(error, EcholungError) else str(error).splitlines()[0]
        raise CheckpointError(f"{directory} does not hold a probe of EchoLung ({problem})", remedy) from None
    return probe.eval(), record


def _check_extent(form: ProbeForm, tensors: dict[str, Tensor]) -> None:
    """A probe is as wide as its weights: one that only claims to be would fill the memory before they are compared."""
    widest = max((size for tensor in tensors.values() if tensor.numel() for size in tensor.shape), default=0)
    claimed = max(form.width, form.classes, form.width * form.mlp_ratio if form.kind == "attentive" else 0)
    if claimed > widest:
        raise ValueError(f"its form is {claimed:g} wide and its weights are {widest}")


def normalised(x: Tensor, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last axis, without parameters."""
    return F.layer_norm(x.to(dtype), x.shape[-1:], eps=NORM_EPSILON)
