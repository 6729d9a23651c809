"""Heads of attentive probes, one query alone or after V-JEPA 2's blocks: against naive references, and as if alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import classes_of
from test_probe import Study
from torch import Tensor
from torch.nn import functional as F

from echolung.methods.probes.heads import Probe, ProbeForm, ProbeHeads
from echolung.methods.probes.pooler import Classifier, PoolerHeads
from echolung.methods.probes.probe import AttentiveBlocks

FORM = ProbeForm(width=16, classes=3, attention_head_width=8, blocks=3)
TOKENS = 2 * torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0)).double() + 1


def scrambled(net: Any) -> Any:
    """In double precision, with every parameter and statistic another."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in net.double().state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(noise.abs() if name == "std" else 0.4 * noise)
    return net


def textbook(probe: ProbeHeads, index: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C) of one head, and its attention (B, A, N), with keys and values of every token."""
    w = {name: value[index] for name, value in probe.state_dict().items()}
    x = (F.layer_norm(tokens, (16,), eps=1e-6) - w["mean"]) / w["std"]
    x = x * w["norm"] + w["norm_bias"]
    keys, values = (torch.einsum("bnd,akd->bank", x, w[name]) for name in ("key", "value"))
    weights = (torch.einsum("ak,bank->ban", w["query"], keys) / w["query"].shape[1] ** 0.5).softmax(dim=-1)
    z = torch.einsum("ban,bank->bak", weights, values).flatten(1) + w["value_bias"]
    return F.linear(z, w["classifier"], w["classifier_bias"]), weights


def test_heads_answer_and_attend_as_in_the_textbook_all_at_once_or_some() -> None:
    probe = scrambled(ProbeHeads(FORM, 4))
    logits = probe(probe.inputs(TOKENS))
    torch.testing.assert_close(probe(probe.inputs(TOKENS), slice(1, 3)), logits[:, 1:3])
    for index in range(4):
        torch.testing.assert_close(logits[:, index], textbook(probe, index, TOKENS)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(probe.attention(TOKENS), textbook(probe, 0, TOKENS)[1])
    torch.testing.assert_close(probe.probabilities(probe.inputs(TOKENS), 2)[1], logits[2:4].softmax(-1).mean(0))


@pytest.mark.parametrize(
    ("kind", "decayed"),
    [
        (ProbeHeads, lambda name, part: name in ("classifier", "key", "value")),
        (PoolerHeads, lambda name, part: part.ndim > 1),
    ],
)
def test_every_head_ends_where_it_would_alone_with_torch_s_adamw(kind: type[Probe], decayed: Callable) -> None:
    rates, decays, y = [1e-3, 1e-2, 3e-2], [0.0, 0.5, 0.1], torch.tensor([0, 1, 2, 1])
    every, alone = kind(FORM, 3, seed=7).double(), [kind(FORM, 1, seed=7).double() for _ in rates]
    groups = [
        {"params": [part for name, part in one.named_parameters() if decayed(name, part) == some], "lr": rate}
        | {"weight_decay": decay if some else 0.0}
        for one, rate, decay in zip(alone, rates, decays, strict=True)
        for some in (True, False)
    ]
    together = every.optimiser(*(torch.tensor(one, dtype=torch.float64) for one in (rates, decays)))
    expected = torch.optim.AdamW(groups)
    for _ in range(6):
        every.zero_grad()
        expected.zero_grad()
        answers = torch.cat([one(TOKENS) for one in alone], dim=1)
        for told in (every(TOKENS), answers):
            sum(F.cross_entropy(told[:, number], y) for number in range(3)).backward()
        together.step()
        expected.step()
    answers = torch.cat([one(TOKENS) for one in alone], dim=1)
    torch.testing.assert_close(every(TOKENS), answers, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(answers[:, 0], answers[:, 1])


def test_names_are_those_of_the_published_probes() -> None:
    cross = "pooler.cross_attention_block"
    layers = [f"{cross}.{part}" for part in ("norm1", "norm2", "xattn.q", "xattn.kv", "mlp.fc1", "mlp.fc2")]
    for block in range(3):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        layers += [f"pooler.blocks.{block}.{part}" for part in parts]
    expected = {f"{layer}.{kind}" for layer in [*layers, "linear"] for kind in ("weight", "bias")}
    assert set(Classifier(FORM).state_dict()) == expected | {"pooler.query_tokens"}


def attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One clip (., 16) of two heads, a query and a head at a time."""
    rows = []
    for q in query:
        parts = []
        for head in (slice(0, 8), slice(8, 16)):
            weights = torch.stack([q[head] @ k[head] / 8**0.5 for k in keys]).softmax(0)
            parts.append(sum(w * v[head] for w, v in zip(weights, values, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def test_a_head_with_blocks_is_what_the_paper_describes() -> None:
    one = scrambled(Classifier(FORM))
    w = one.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (16,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def mlp(x: Tensor, name: str) -> Tensor:
        return linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    cross, query_tokens = "pooler.cross_attention_block", w["pooler.query_tokens"][0]
    for x, found in zip(TOKENS, one(TOKENS), strict=True):
        for block in (f"pooler.blocks.{number}" for number in range(3)):
            q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(16, dim=1)
            x = x + linear(attended(q, k, v), f"{block}.attn.proj")
            x = x + mlp(x, block)
        k, v = linear(norm(x, f"{cross}.norm1"), f"{cross}.xattn.kv").split(16, dim=1)
        query = query_tokens + attended(linear(query_tokens, f"{cross}.xattn.q"), k, v)
        torch.testing.assert_close(found, linear(query + mlp(query, cross), "linear")[0])


def test_the_method_starts_at_frequencies_learns_is_explained_and_comes_back_from_disk(tmp_path: Path) -> None:
    heads, frequencies = PoolerHeads(FORM, 2).double(), torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]).double()
    heads.start_at(frequencies)
    torch.testing.assert_close(heads(TOKENS).softmax(dim=-1), frequencies.expand(4, -1, -1))
    study = Study(signal=2.0)
    settings = AttentiveBlocks.Settings(learning_rates=[3e-3], epochs=14, batch=8, attention_head_width=8, blocks=1)
    fitted = AttentiveBlocks.fit(settings, classes_of("abc"), study.recordings(), study.training, 0, tmp_path)
    p = fitted.predict(study.recordings(), study.test)
    assert (p.argmax(axis=1) == study.y).mean() > 0.8
    maps = fitted.explain(study.recordings(), study.test[0])
    assert maps.weights.min() >= 0 and abs(maps.weights.mean() - 1) < 1e-6
    fitted.save(tmp_path)
    assert (AttentiveBlocks.load(tmp_path).predict(study.recordings(), study.test) == p).all()
