"""Where a probe looks: the weights that its answer is made of, shown by making the answer from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echolung.methods.probes.attention import attention, contributions, token_weights
from echolung.methods.probes.heads import AttentiveHeads, LinearHeads, ProbeForm

WIDTH, HEAD, CLASSES = 24, 12, 3


def drawn(kind: type[AttentiveHeads] | type[LinearHeads], seed: int = 0) -> AttentiveHeads | LinearHeads:
    """A probe none of whose parameters is at its starting value."""
    name = "attentive" if kind is AttentiveHeads else "linear"
    probe = kind(ProbeForm(kind=name, width=WIDTH, classes=CLASSES, attention_head_width=HEAD), heads=1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        probe.standardise(torch.randn(1, WIDTH, generator=generator), 0.5 + torch.rand(1, WIDTH, generator=generator))
    return probe


def clips(seed: int = 1) -> torch.Tensor:
    return torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_attention_is_that_of_queries_and_keys_and_pools_to_the_probes_own_answer() -> None:
    probe = drawn(AttentiveHeads)
    assert isinstance(probe, AttentiveHeads)
    value = {name: tensor[0].detach().double().numpy() for name, tensor in probe.state_dict().items()}
    found = attention(probe, clips())
    assert found.shape == (4, WIDTH // HEAD, 7)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 2, dtype=torch.float64))
    logits = np.empty((4, CLASSES))
    for b, clip in enumerate(clips().double().numpy()):
        tokens = (normalised(clip) - value["mean"]) / value["std"] * value["norm"] + value["norm_bias"]
        gathered = []
        for a in range(WIDTH // HEAD):
            keys = tokens @ value["key"][a].T
            scores = keys @ value["query"][a] / np.sqrt(HEAD)
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            np.testing.assert_allclose(found[b, a], weights, atol=1e-5)
            gathered.append(found[b, a].numpy() @ (tokens @ value["value"][a].T))
        z = np.concatenate(gathered) + value["value_bias"]
        logits[b] = value["classifier"] @ z + value["classifier_bias"]
    np.testing.assert_allclose(probe(probe.inputs(clips()))[:, 0].detach(), logits, atol=1e-4)


def test_contributions_add_up_to_the_linear_probes_logits_and_each_is_a_tokens_own() -> None:
    probe = drawn(LinearHeads)
    assert isinstance(probe, LinearHeads)
    found = contributions(probe, clips())
    assert found.shape == (4, 7, CLASSES)
    logits = probe(probe.inputs(clips()))[:, 0].detach().double()
    torch.testing.assert_close(found.sum(1) + probe.classifier_bias.detach().double(), logits, atol=1e-5, rtol=1e-5)
    weight, mean, std = (probe.state_dict()[name][0].double().numpy() for name in ("classifier", "mean", "std"))
    token = normalised(clips()[2, 5].double().numpy())
    np.testing.assert_allclose(found[2, 5], weight @ ((token - mean) / std) / 7, atol=1e-6)


def test_a_planted_token_gets_the_mass_of_a_query_that_looks_for_it() -> None:
    probe = drawn(AttentiveHeads, seed=3)
    direction = torch.zeros(WIDTH)
    direction[:12], direction[12:] = 1.0, -1.0  # unchanged by the LayerNorm of a token
    with torch.no_grad():
        probe.standardise(torch.zeros(1, WIDTH), torch.ones(1, WIDTH))
        probe.norm.fill_(1.0)
        probe.query.fill_(1.0)
        probe.key.copy_(direction.expand_as(probe.key) * 0.1)
    tokens = torch.randn(1, 7, WIDTH, generator=torch.Generator().manual_seed(5))
    tokens[0, 4] = direction
    weights = token_weights(probe, tokens, class_index=0)
    assert weights[0].argmax() == 4
    assert weights[0, 4] > 0.9


def test_what_is_drawn_is_the_mean_over_attention_heads_or_what_speaks_for_the_class() -> None:
    attentive, linear = drawn(AttentiveHeads), drawn(LinearHeads)
    assert isinstance(attentive, AttentiveHeads)
    assert isinstance(linear, LinearHeads)
    torch.testing.assert_close(token_weights(attentive, clips(), 2), attention(attentive, clips()).mean(1))
    torch.testing.assert_close(token_weights(linear, clips(), 2), contributions(linear, clips())[..., 2])
    assert (token_weights(attentive, clips(), 0) == token_weights(attentive, clips(), 2)).all(), "of no class"
    assert (token_weights(linear, clips(), 0) != token_weights(linear, clips(), 2)).any()


@pytest.mark.parametrize("kind", [AttentiveHeads, LinearHeads])
def test_half_precision_tokens_are_taken_as_the_classifier_takes_them(
    kind: type[AttentiveHeads] | type[LinearHeads],
) -> None:
    probe = drawn(kind)
    exact, half = token_weights(probe, clips(), 1), token_weights(probe, clips().half(), 1)
    torch.testing.assert_close(exact, half, atol=5e-3, rtol=5e-2)
