"""Batched probe heads against textbook attention, and torch's optimiser."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from echolung.methods.probes.heads import HeadwiseAdamW, ProbeForm, ProbeHeads

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, TOKENS, CLASSES = 24, 10, 3
FORM = ProbeForm(width=WIDTH, classes=CLASSES, attention_head_width=8)


def scrambled(heads: int) -> ProbeHeads:
    """Heads in double precision that differ from one another in every parameter and statistic."""
    generator = torch.Generator().manual_seed(3)
    probe = ProbeHeads(FORM, heads).double()
    with torch.no_grad():
        for name, value in probe.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(noise.abs() if name == "std" else 0.4 * noise)
    return probe


def textbook(probe: ProbeHeads, index: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) of one head, and its attention (B, A, N), with keys and values of every token."""
    w = {name: value[index] for name, value in probe.state_dict().items()}
    x = (F.layer_norm(tokens, (WIDTH,), eps=1e-6) - w["mean"]) / w["std"]
    x = x * w["norm"] + w["norm_bias"]
    keys, values = (torch.einsum("bnd,akd->bank", x, w[name]) for name in ("key", "value"))
    weights = (torch.einsum("ak,bank->ban", w["query"], keys) / w["query"].shape[1] ** 0.5).softmax(dim=-1)
    z = torch.einsum("ban,bank->bak", weights, values).flatten(1) + w["value_bias"]
    return F.linear(z, w["classifier"], w["classifier_bias"]), weights


def test_heads_answer_and_attend_as_in_the_textbook_all_at_once_or_some() -> None:
    probe = scrambled(4)
    tokens = 2 * torch.randn(6, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double() + 1
    logits = probe(probe.inputs(tokens))
    torch.testing.assert_close(probe(probe.inputs(tokens), slice(1, 3)), logits[:, 1:3])
    for index in range(4):
        torch.testing.assert_close(logits[:, index], textbook(probe, index, tokens)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(probe.attention(tokens), textbook(probe, 0, tokens)[1])
    torch.testing.assert_close(probe.probabilities(probe.inputs(tokens), 2)[1], logits[2:4].softmax(-1).mean(0))


def test_the_optimiser_is_torch_adamw_with_groups_per_head() -> None:
    probe = scrambled(3)
    rates, decays = [1e-3, 1e-2, 3e-2], [0.0, 0.3, 0.1]
    references = [{n: nn.Parameter(v[h].detach().clone()) for n, v in probe.named_parameters()} for h in range(3)]
    groups = [
        {"params": [v for n, v in reference.items() if (n in probe.decayed) == decay], "lr": rate, "weight_decay": w}
        for reference, rate, head_decay in zip(references, rates, decays, strict=True)
        for decay, w in ((True, head_decay), (False, 0.0))
    ]
    expected, optimiser = torch.optim.AdamW(groups), HeadwiseAdamW(probe, torch.tensor(rates), torch.tensor(decays))
    for _ in range(12):
        for name, parameter in probe.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            for reference, gradient in zip(references, parameter.grad.clone(), strict=True):
                reference[name].grad = gradient
        optimiser.step()
        expected.step()
    for name, parameter in probe.named_parameters():
        torch.testing.assert_close(parameter, torch.stack([one[name] for one in references]), rtol=1e-6, atol=1e-7)
