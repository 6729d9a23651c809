"""Attentive probes on frozen tokens: many heads, evaluated and trained in one batched pass.

The backbone is frozen, so every head of a search (learning rate x weight decay x inner fold) reads the same tokens.
Parameters have a leading head axis, and every head ends where it would end if trained alone.

The attentive probe is the cross-attention block of V-JEPA 2's probe (Assran et al. 2025, arXiv 2506.09985): LayerNorm,
one learned query, no output projection, a linear classifier. With one query, the keys and values of the tokens need
never be computed: W_k and the norm's affine are absorbed into the query, and W_v is applied after pooling. Both are
exact, and turn N x D x D work per token and head into N x D.
"""

import abc
from typing import Any

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters

# Dimension letters: B clips, N tokens, D width, H probe heads, A attention heads of width K, C classes.

NORM_EPSILON = 1e-6
VARIANCE_FLOOR = 1e-6  # added to a channel's variance before tokens are divided by its root


class ProbeForm(Parameters):
    """What a probe is made of."""

    width: int = pydantic.Field(ge=1)
    classes: int = pydantic.Field(ge=2)
    attention_head_width: int = pydantic.Field(default=64, ge=1)
    blocks: int = pydantic.Field(default=0, ge=0)
    """Blocks of self-attention before the learned query (`echolung.methods.probes.pooler`)."""


class Probe(nn.Module, abc.ABC):
    """H heads, all with the same initial weights, drawn from `seed`. Tokens pass a LayerNorm without parameters
    (`inputs`), then each channel is standardised by `mean` and `std` (H, D) of each head's own training videos."""

    mean: Tensor
    std: Tensor

    def __init__(self, form: ProbeForm, heads: int) -> None:
        super().__init__()
        self.form = form
        if form.width % form.attention_head_width:
            raise SettingsError(
                f"attention_head_width = {form.attention_head_width} does not divide the encoder's width {form.width}",
                "Choose a divisor of the width, 64 for example, in fit.methods.",
            )
        self.register_buffer("mean", torch.zeros(heads, form.width))
        self.register_buffer("std", torch.ones(heads, form.width))

    def standardise(self, mean_HD: Tensor, variance_HD: Tensor) -> None:
        """Set the statistics that tokens are standardised by."""
        self.mean.copy_(mean_HD)
        self.std.copy_((variance_HD + VARIANCE_FLOOR).sqrt())

    def inputs(self, tokens_BND: Tensor) -> Tensor:
        """(B, N, D): each token normalised."""
        return F.layer_norm(tokens_BND.to(self.mean), tokens_BND.shape[-1:], eps=NORM_EPSILON)

    @torch.no_grad()
    def probabilities(self, inputs_BND: Tensor, views: int, heads: slice = slice(None)) -> Tensor:
        """(V, H, C) of videos with so many views each (B = V * views): the mean over them."""
        return self(inputs_BND, heads).double().softmax(dim=-1).unflatten(0, (-1, views)).mean(dim=1)

    @abc.abstractmethod
    def start_at(self, frequencies_HC: Tensor) -> None:
        """Let every head begin by predicting these class frequencies (> 0)."""

    @abc.abstractmethod
    def optimiser(self, learning_rates_H: Tensor, weight_decays_H: Tensor) -> Any:
        """AdamW with a learning rate and a weight decay for each head; `step()` takes a step along the gradients."""

    @abc.abstractmethod
    def attention(self, tokens_BND: Tensor) -> Tensor:
        """The first head's attention to every token, (B, A, N): at least 0, 1 in sum over the tokens. The weights that
        `forward` pools the tokens by: they show what was read, not which class it supports."""


class ProbeHeads(Probe):
    """One learned query attends to all tokens; what it gathers goes to a linear classifier, of zeros at first."""

    decayed = ("classifier", "key", "value")
    """Names of the parameters that weight decay applies to: matrices, as usual, not biases and norms."""

    def __init__(self, form: ProbeForm, heads: int, seed: int = 0) -> None:
        super().__init__(form, heads)
        width, per_head = form.width, form.attention_head_width
        generator = torch.Generator().manual_seed(seed)

        def normal(std: float, *shape: int) -> nn.Parameter:
            return alike(torch.randn(*shape, generator=generator) * std)

        def alike(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.expand(heads, *value.shape).clone())

        self.norm, self.norm_bias = alike(torch.ones(width)), alike(torch.zeros(width))
        self.query = normal(0.02, width // per_head, per_head)
        self.key = normal(width**-0.5, width // per_head, per_head, width)
        self.value = normal(width**-0.5, width // per_head, per_head, width)
        self.value_bias = alike(torch.zeros(width))
        self.classifier = alike(torch.zeros(form.classes, width))
        self.classifier_bias = alike(torch.zeros(form.classes))

    def start_at(self, frequencies_HC: Tensor) -> None:
        with torch.no_grad():
            self.classifier_bias.copy_(frequencies_HC.log())

    def optimiser(self, learning_rates_H: Tensor, weight_decays_H: Tensor) -> Any:
        return HeadwiseAdamW(self, learning_rates_H, weight_decays_H)

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
        return torch.einsum("bhd,hcd->bhc", z_BHD, self.classifier[heads]) + self.classifier_bias[heads]

    @torch.no_grad()
    def attention(self, tokens_BND: Tensor) -> Tensor:
        inputs_BND = self.inputs(tokens_BND)
        query_AD = torch.einsum("ak,akd->ad", self.query[0], self.key[0]) * (self.norm[0] / self.std[0])
        scores_BAN = torch.einsum("ad,bnd->ban", query_AD, inputs_BND) * self.query.shape[-1] ** -0.5
        return scores_BAN.double().softmax(dim=-1)


class HeadwiseAdamW:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate and a weight decay (H,) for every head."""

    def __init__(self, heads: ProbeHeads, learning_rates_H: Tensor, weight_decays_H: Tensor) -> None:
        self.heads = heads
        self.rates = learning_rates_H.to(heads.mean)
        self.kept = 1 - self.rates * weight_decays_H.to(heads.mean)
        self.betas, self.epsilon, self.steps = (0.9, 0.999), 1e-8, 0
        self.moments = {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in heads.named_parameters()}

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients, whose memory it uses up."""
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
            # No step allocates the size of the parameters again.
            torch.sqrt(square, out=gradient).div_(correction).add_(self.epsilon)
            parameter.sub_(torch.div(mean, gradient, out=gradient).mul_(rates_H.view(shape)))
