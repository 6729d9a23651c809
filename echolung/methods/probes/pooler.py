"""V-JEPA 2's own probe: blocks of self-attention, then cross-attention of one learned query (arXiv 2506.09985).

Parameters are named as in the published probes: `pooler.query_tokens`, `pooler.blocks.{i}`,
`pooler.cross_attention_block`, `linear`. Heads share nothing but the batches: each is a network with its own AdamW, and
a search costs as many times one head, unlike with `ProbeHeads`. Meant for a GPU.

Dimension letters as in `heads`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echolung.methods.probes.heads import Probe, ProbeForm
from echolung.models.vit import INIT_STD, MLP, NORM_EPS, Block, initialise

MLP_RATIO = 4.0


class CrossAttention(nn.Module):
    """A query attends to tokens; no output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def parts(self, query_B1D: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, A, ., K)."""
        query = self.q(query_B1D).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(x_BND).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def forward(self, query_B1D: Tensor, x_BND: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.parts(query_B1D, x_BND)).transpose(1, 2).flatten(2)


class CrossAttentionBlock(nn.Module):
    """Cross-attention and an MLP around a query, both residual; the tokens are normalised, the query is not."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.xattn, self.mlp = CrossAttention(width, heads), MLP(width, int(MLP_RATIO * width))

    def forward(self, query_B1D: Tensor, x_BND: Tensor) -> Tensor:
        query_B1D = query_B1D + self.xattn(query_B1D, self.norm1(x_BND))
        return query_B1D + self.mlp(self.norm2(query_B1D))


class Pooler(nn.Module):
    """Tokens (B, N, D) to one vector (B, D)."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, MLP_RATIO) for _ in range(blocks))
        self.cross_attention_block = CrossAttentionBlock(width, heads)
        nn.init.trunc_normal_(self.query_tokens, std=INIT_STD)
        initialise(self, self.blocks)
        with torch.no_grad():
            self.cross_attention_block.mlp.fc2.weight.div_((2.0 * (blocks + 1)) ** 0.5)

    def mixed(self, x_BND: Tensor) -> Tensor:
        """The tokens after self-attention."""
        for block in self.blocks:
            x_BND = block(x_BND, None)
        return x_BND

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.cross_attention_block(self.query_tokens.expand(len(x_BND), -1, -1), self.mixed(x_BND))[:, 0]


class Classifier(nn.Module):
    """One head: a pooler and a linear classifier, of zeros at first."""

    def __init__(self, form: ProbeForm) -> None:
        super().__init__()
        self.pooler = Pooler(form.width, form.width // form.attention_head_width, form.blocks)
        self.linear = nn.Linear(form.width, form.classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.linear(self.pooler(x_BND))


class PoolerHeads(Probe):
    """H classifiers side by side."""

    def __init__(self, form: ProbeForm, heads: int, seed: int = 0) -> None:
        super().__init__(form, heads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = Classifier(form)
        self.each = nn.ModuleList(Classifier(form) for _ in range(heads))
        for one in self.each:
            one.load_state_dict(first.state_dict())

    def start_at(self, frequencies_HC: Tensor) -> None:
        with torch.no_grad():
            for one, frequencies_C in zip(self.each, frequencies_HC, strict=True):
                cast(Classifier, one).linear.bias.copy_(frequencies_C.log())

    def optimiser(self, learning_rates_H: Tensor, weight_decays_H: Tensor) -> torch.optim.AdamW:
        groups: list[dict[str, Any]] = []
        for one, rate, decay in zip(self.each, learning_rates_H.tolist(), weight_decays_H.tolist(), strict=True):
            for flat in (False, True):
                some = [part for part in one.parameters() if (part.ndim <= 1) == flat]
                groups.append({"params": some, "lr": rate, "weight_decay": 0.0 if flat else decay})
        return torch.optim.AdamW(groups, foreach=True)

    def forward(self, inputs_BND: Tensor, heads: slice = slice(None)) -> Tensor:
        """Logits (B, H, C) of the heads asked for."""
        chosen = list(zip(self.each, self.mean, self.std, strict=True))[heads]
        return torch.stack([one((inputs_BND - mean) / std) for one, mean, std in chosen], dim=1)

    @torch.no_grad()
    def attention(self, tokens_BND: Tensor) -> Tensor:
        pooler = cast(Classifier, self.each[0]).pooler
        x = (self.inputs(tokens_BND) - self.mean[0]) / self.std[0]
        block = pooler.cross_attention_block
        query, key, _ = block.xattn.parts(pooler.query_tokens.expand(len(x), -1, -1), block.norm1(pooler.mixed(x)))
        return ((query @ key.mT)[:, :, 0].double() * query.shape[-1] ** -0.5).softmax(dim=-1)
