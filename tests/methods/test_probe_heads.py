"""Batched probe heads against textbook attention, and torch's optimiser."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from echolung.core.errors import CheckpointError
from echolung.methods.probes.heads import HeadwiseAdamW, ProbeForm, ProbeHeads, apply_probe, load_probe, save_probe

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, TOKENS, CLASSES = 24, 10, 3
FORM = ProbeForm(width=WIDTH, classes=CLASSES, attention_head_width=8)


def scrambled(heads: int = 1) -> ProbeHeads:
    """Heads in double precision that differ from one another in every parameter and statistic."""
    generator = torch.Generator().manual_seed(3)
    probe = ProbeHeads(FORM, heads).double()
    with torch.no_grad():
        for name, value in probe.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(noise.abs() if name == "std" else 0.4 * noise)
    return probe


def some_tokens(clips: int = 6) -> torch.Tensor:
    return 2 * torch.randn(clips, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double() + 1


def textbook(probe: ProbeHeads, index: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) of one head, and its attention (B, A, N), with keys and values of every token."""
    w = {name: value[index] for name, value in probe.state_dict().items()}
    x = (F.layer_norm(tokens, (WIDTH,), eps=1e-6) - w["mean"]) / w["std"]
    x = x * w["norm"] + w["norm_bias"]
    keys, values = (torch.einsum("bnd,akd->bank", x, w[name]) for name in ("key", "value"))
    weights = (torch.einsum("ak,bank->ban", w["query"], keys) / w["query"].shape[1] ** 0.5).softmax(dim=-1)
    z = torch.einsum("ban,bank->bak", weights, values).flatten(1) + w["value_bias"]
    return F.linear(z, w["classifier"], w["classifier_bias"]), weights


def test_heads_answer_as_in_the_textbook_all_at_once_or_some() -> None:
    probe, tokens = scrambled(4), some_tokens()
    logits = probe(probe.inputs(tokens))
    torch.testing.assert_close(probe(probe.inputs(tokens), slice(1, 3)), logits[:, 1:3])
    for index in range(4):
        torch.testing.assert_close(logits[:, index], textbook(probe, index, tokens)[0], rtol=1e-12, atol=1e-12)


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


def test_what_an_answer_rests_on_is_the_attention() -> None:
    probe, tokens = scrambled(), some_tokens()
    torch.testing.assert_close(probe.attention(tokens), textbook(probe, 0, tokens)[1])


def test_a_saved_probe_answers_the_same(tmp_path: Path) -> None:
    probe, tokens = scrambled().float(), some_tokens()[:, None]
    save_probe(tmp_path, probe)
    assert torch.equal(apply_probe(load_probe(tmp_path), tokens), apply_probe(probe, tokens))
    with pytest.raises(CheckpointError, match="48 wide"):
        apply_probe(probe, torch.zeros(1, 1, 4, 48))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("probe.json", b"\x80\x04not json", "does not hold a probe"),
        ("probe.safetensors", pickle.dumps({}), "does not hold a probe"),
        ("probe.json", {"attention_head_width": 7}, "does not divide the encoder's width 24"),
        ("probe.json", {"width": 2**30}, "wide and its weights are"),
    ],
)
def test_what_is_not_a_probe_is_refused(tmp_path: Path, file: str, content: bytes | dict, message: str) -> None:
    """A form that claims more than its weights hold fills no memory."""
    save_probe(tmp_path, scrambled())
    changed = json.dumps(FORM.model_dump() | content).encode() if isinstance(content, dict) else content
    (tmp_path / file).write_bytes(changed)
    with pytest.raises(CheckpointError, match=message):
        load_probe(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match="does not hold a probe"):
        load_probe(tmp_path)
