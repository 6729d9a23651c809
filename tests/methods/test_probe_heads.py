"""Batched probe heads against torch's own attention and optimiser, and against one head at a time."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from echolung.core.errors import CheckpointError, SettingsError
from echolung.methods.probes.attention import attention, contributions, token_weights
from echolung.methods.probes.heads import (
    HEADS,
    NORM_EPSILON,
    HeadwiseAdamW,
    ProbeForm,
    ProbeHeads,
    apply_probe,
    load_probe,
    save_probe,
)

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, TOKENS, CLASSES = 24, 10, 3
ATTENTIVE = ProbeForm(kind="attentive", width=WIDTH, classes=CLASSES, attention_head_width=8)
FORMS = {
    "attentive": ATTENTIVE,
    "attentive with mlp": ATTENTIVE.model_copy(update={"mlp_ratio": 2.0}),
    "linear": ProbeForm(kind="linear", width=WIDTH, classes=CLASSES),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


class NaiveAttentiveProbe(nn.Module):
    """The attentive probe as in a textbook: keys and values of every token, torch's attention."""

    def __init__(self, heads: ProbeHeads, index: int) -> None:
        super().__init__()
        weights = {name: value[index].detach().clone() for name, value in heads.state_dict().items()}
        width = heads.form.width
        self.mean, self.std = weights["mean"], weights["std"]
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, width // heads.form.attention_head_width, batch_first=True)
        self.query = nn.Parameter(weights["query"].reshape(1, 1, width))
        self.classifier = nn.Linear(width, heads.form.classes)
        hidden = len(weights.get("mlp_in", ()))
        self.mlp = (
            nn.Sequential(
                nn.LayerNorm(width, eps=NORM_EPSILON), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
            )
            if hidden
            else None
        )
        eye, zeros = torch.eye(width), torch.zeros(width)
        state = {
            "query": self.query,
            "norm.weight": weights["norm"],
            "norm.bias": weights["norm_bias"],
            "attention.in_proj_weight": torch.cat([eye, weights["key"].flatten(0, 1), weights["value"].flatten(0, 1)]),
            "attention.in_proj_bias": torch.cat([zeros, torch.full((width,), 0.3), weights["value_bias"]]),
            "attention.out_proj.weight": eye,
            "attention.out_proj.bias": zeros,
            "classifier.weight": weights["classifier"],
            "classifier.bias": weights["classifier_bias"],
        }
        for layer, name in ((0, "mlp_norm"), (1, "mlp_in"), (3, "mlp_out")) if hidden else ():
            state |= {f"mlp.{layer}.weight": weights[name], f"mlp.{layer}.bias": weights[f"{name}_bias"]}
        self.to(heads.mean.dtype).load_state_dict(state)

    def attended(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the query gathers (B, D), and its attention (B, A, N)."""
        x = F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPSILON)
        x = (x - self.mean) / self.std * self.norm.weight + self.norm.bias
        z, weights = self.attention(self.query.to(x).expand(len(x), -1, -1), x, x, average_attn_weights=False)
        return z[:, 0], weights[:, :, 0]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        z = self.attended(tokens)[0]
        return self.classifier(z if self.mlp is None else z + self.mlp(z))


def scrambled(form: ProbeForm, heads: int = 1, dtype: torch.dtype = torch.float64) -> ProbeHeads:
    """Heads that differ from one another in every parameter and statistic."""
    generator = torch.Generator().manual_seed(3)
    probe = HEADS[form.kind](form, heads).to(dtype)
    with torch.no_grad():
        for name, value in probe.state_dict().items():
            noise = torch.randn(value.shape, generator=generator).to(dtype)
            value.add_(noise.abs() if name == "std" else 0.4 * noise)
    return probe


def some_tokens(clips: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (2 * torch.randn(clips, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)) + 1).to(dtype)


@pytest.mark.parametrize("name", ["attentive", "attentive with mlp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_absorbed_attention_is_torch_multihead_attention(name: str, dtype: torch.dtype, tolerance: float) -> None:
    probe, tokens = scrambled(FORMS[name], 4, dtype), some_tokens(dtype=dtype)
    logits = probe(probe.inputs(tokens))
    for index in range(4):
        expected = NaiveAttentiveProbe(probe, index)(tokens)
        torch.testing.assert_close(logits[:, index], expected, rtol=tolerance, atol=tolerance)


def train(probe: ProbeHeads, rates: list[float], decays: list[float], weights: torch.Tensor) -> None:
    """20 steps on shared batches, with weights (H, clips) of zero where a clip is held out of a head."""
    tokens, generator = some_tokens(20, torch.float32), torch.Generator().manual_seed(5)
    classes = torch.randint(CLASSES, (20,), generator=generator)
    optimiser = HeadwiseAdamW(probe, torch.tensor(rates), torch.tensor(decays))
    for _ in range(20):
        batch = torch.randperm(20, generator=generator)[:8]
        log_p = probe(probe.inputs(tokens[batch])).log_softmax(dim=-1)
        losses = -log_p.gather(2, classes[batch].view(-1, 1, 1).expand(-1, probe.heads, 1))[..., 0]
        (losses * weights[:, batch].T).sum().div(8).backward()
        optimiser.step()


@EVERY_FORM
def test_every_head_ends_where_it_ends_when_trained_alone(form: ProbeForm) -> None:
    rates, decays = [1e-3, 3e-3, 1e-2, 1e-3], [0.0, 0.1, 0.01, 0.5]
    weights = torch.ones(4, 20)
    weights[0, :7], weights[2, 7:14] = 0, 0
    together, tokens = HEADS[form.kind](form, heads=4, seed=2), some_tokens(dtype=torch.float32)
    train(together, rates, decays, weights)
    logits = together(together.inputs(tokens), slice(1, 4))
    for index in range(4):
        one = slice(index, index + 1)
        alone = HEADS[form.kind](form, heads=1, seed=2)
        train(alone, rates[one], decays[one], weights[one])
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name][one], value, rtol=1e-5, atol=1e-5, msg=name)
        p = apply_probe(together.head(index), tokens[:, None])
        torch.testing.assert_close(apply_probe(alone, tokens[:, None]), p, rtol=0, atol=1e-5)
        if index:
            torch.testing.assert_close(logits[:, index - 1].double().softmax(-1), p, rtol=1e-5, atol=1e-5)
    assert not torch.equal(together.classifier[0], together.classifier[3])


def test_the_optimiser_is_torch_adamw_with_groups_per_head() -> None:
    probe = scrambled(ATTENTIVE, 3)
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
            for head in range(3):
                references[head][name].grad = parameter.grad[head].clone()
        optimiser.step()
        expected.step()
    for name, parameter in probe.named_parameters():
        for head in range(3):
            torch.testing.assert_close(parameter[head], references[head][name], rtol=1e-6, atol=1e-7)


def test_heads_start_alike_at_the_given_frequencies_and_answer_with_the_mean_over_views() -> None:
    probe = HEADS["attentive"](ATTENTIVE, heads=2, seed=7)
    frequencies = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    probe.start_at(frequencies)
    assert torch.equal(probe.key[0], probe.key[1])
    assert not torch.equal(probe.key[0], HEADS["attentive"](ATTENTIVE, heads=1, seed=8).key[0])
    p = apply_probe(probe.head(1), some_tokens()[:, None])
    torch.testing.assert_close(p, frequencies[1].double().expand_as(p), rtol=1e-6, atol=1e-6)
    probe.standardise(torch.zeros(2, WIDTH), torch.zeros(2, WIDTH))
    assert (probe.std > 0).all(), "a channel that never changes"
    other, tokens = scrambled(ATTENTIVE), some_tokens().half()
    each = other(other.inputs(tokens))[:, 0].softmax(dim=-1)
    torch.testing.assert_close(apply_probe(other, tokens.unflatten(0, (3, 2))), (each[0::2] + each[1::2]) / 2)


# --- what an answer rests on -----------------------------------------------------------------------------------------


def test_attention_is_that_of_torch_and_contributions_add_up_to_the_logit() -> None:
    attentive, linear, tokens = scrambled(ATTENTIVE), scrambled(FORMS["linear"]), some_tokens()
    expected = NaiveAttentiveProbe(attentive, 0).attended(tokens)[1]
    torch.testing.assert_close(attention(attentive, tokens), expected)
    torch.testing.assert_close(token_weights(attentive, tokens, 2), expected.mean(dim=1))
    added = contributions(linear, tokens)
    torch.testing.assert_close(added.sum(dim=1) + linear.classifier_bias, linear(linear.inputs(tokens))[:, 0])
    changed = tokens.clone()
    changed[:, 3] = torch.randn(WIDTH, dtype=torch.float64)
    same = (contributions(linear, changed) == added).all(dim=2)
    assert same.sum(dim=0).tolist() == [6, 6, 6, 0, 6, 6, 6, 6, 6, 6], "each token's contribution is its own"
    torch.testing.assert_close(token_weights(linear, tokens, 2), added[..., 2])
    torch.testing.assert_close(token_weights(linear, tokens.half(), 2), added[..., 2], atol=5e-3, rtol=5e-2)


# --- on disk ---------------------------------------------------------------------------------------------------------


@EVERY_FORM
def test_a_saved_probe_answers_the_same(tmp_path: Path, form: ProbeForm) -> None:
    probe, tokens = scrambled(form, dtype=torch.float32), some_tokens()[:, None]
    save_probe(tmp_path, probe)
    assert torch.equal(apply_probe(load_probe(tmp_path), tokens), apply_probe(probe, tokens))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("probe.json", None, "does not exist"),
        ("probe.safetensors", b"\x10\x00\x00", "does not hold a probe"),
        ("probe.safetensors", pickle.dumps(Bomb()), "does not hold a probe"),
        ("probe.json", b"\x80\x04not json", "does not hold a probe"),
        ("probe.json", {"attention_head_width": 7}, "does not divide the encoder's width 24"),
        ("probe.json", {"width": 2**30}, "wide and its weights are"),
        ("probe.json", {"classes": 2**30}, "wide and its weights are"),
        ("probe.json", {"mlp_ratio": 1e9}, "wide and its weights are"),
    ],
)
def test_what_is_not_a_probe_is_refused(tmp_path: Path, file: str, content: object, message: str) -> None:
    form = FORMS["attentive with mlp"]
    save_probe(tmp_path, scrambled(form))
    if content is None:
        (tmp_path / file).unlink()
    elif isinstance(content, dict):  # claims more than its weights hold: no memory may be filled
        (tmp_path / file).write_text(json.dumps(form.model_dump() | content))
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_probe(tmp_path)


def test_a_width_that_does_not_fit_is_named() -> None:
    with pytest.raises(SettingsError, match="attention_head_width = 64 does not divide the encoder's width 30"):
        HEADS["attentive"](ProbeForm(kind="attentive", width=30, classes=2), heads=1)
    with pytest.raises(CheckpointError, match="48 wide"):
        apply_probe(scrambled(FORMS["linear"]), torch.zeros(1, 1, 4, 48))
