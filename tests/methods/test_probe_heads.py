"""Batched probe heads against what they stand for: torch's own attention, optimiser and one head at a time."""

import hashlib
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from echolung.core.errors import CheckpointError, SettingsError
from echolung.methods.probes.heads import (
    HEADS,
    NORM_EPSILON,
    HeadwiseAdamW,
    ProbeForm,
    ProbeHeads,
    ProbeRecord,
    apply_probe,
    load_probe,
    save_probe,
)

torch.set_num_threads(1)

WIDTH, TOKENS, CLASSES = 24, 10, 3
FORMS = {
    "attentive": ProbeForm(kind="attentive", width=WIDTH, classes=CLASSES, attention_head_width=8),
    "attentive with mlp": ProbeForm(
        kind="attentive", width=WIDTH, classes=CLASSES, attention_head_width=8, mlp_ratio=2.0
    ),
    "linear": ProbeForm(kind="linear", width=WIDTH, classes=CLASSES),
}


class NaiveAttentiveProbe(nn.Module):
    """The attentive probe as a textbook has it: keys and values of every token, torch's attention."""

    def __init__(self, heads: ProbeHeads, index: int) -> None:
        super().__init__()
        weights = {name: value[index].detach().clone() for name, value in heads.state_dict().items()}
        width = heads.form.width
        self.mean, self.std = weights["mean"], weights["std"]
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, width // heads.form.attention_head_width, batch_first=True)
        self.query = nn.Parameter(weights["query"].reshape(1, 1, width))
        self.classifier = nn.Linear(width, heads.form.classes)
        self.to(heads.mean.dtype)
        eye, zeros = torch.eye(width), torch.zeros(width)
        projections = torch.cat([eye, weights["key"].flatten(0, 1), weights["value"].flatten(0, 1)])
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(projections)
            self.attention.in_proj_bias.copy_(torch.cat([zeros, torch.full((width,), 0.3), weights["value_bias"]]))
            self.attention.out_proj.weight.copy_(eye)
            self.attention.out_proj.bias.zero_()
            self.norm.weight.copy_(weights["norm"])
            self.norm.bias.copy_(weights["norm_bias"])
            self.classifier.weight.copy_(weights["classifier"])
            self.classifier.bias.copy_(weights["classifier_bias"])
        self.mlp: nn.Sequential | None = None
        if "mlp_in" in weights:
            hidden = len(weights["mlp_in"])
            self.mlp = nn.Sequential(
                nn.LayerNorm(width, eps=NORM_EPSILON), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
            ).to(heads.mean.dtype)
            names = ("mlp_norm", "mlp_norm_bias", "mlp_in", "mlp_in_bias", "mlp_out", "mlp_out_bias")
            with torch.no_grad():
                for parameter, name in zip(self.mlp.parameters(), names, strict=True):
                    parameter.copy_(weights[name])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPSILON)
        x = (x - self.mean) / self.std * self.norm.weight + self.norm.bias
        z = self.attention(self.query.to(x).expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0]
        if self.mlp is not None:
            z = z + self.mlp(z)
        return self.classifier(z)


def scrambled(form: ProbeForm, heads: int, dtype: torch.dtype = torch.float32) -> ProbeHeads:
    """Heads that differ from one another in every parameter and statistic."""
    generator = torch.Generator().manual_seed(3)
    probe = HEADS[form.kind](form, heads).to(dtype)
    with torch.no_grad():
        for name, value in probe.state_dict().items():
            noise = torch.randn(value.shape, generator=generator).to(dtype)
            value.add_(noise.abs() if name == "std" else 0.4 * noise)
    return probe


def some_tokens(clips: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (2 * torch.randn(clips, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)) + 1).to(dtype)


@pytest.mark.parametrize("name", ["attentive", "attentive with mlp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_absorbed_attention_is_torch_multihead_attention(name: str, dtype: torch.dtype, tolerance: float) -> None:
    probe, tokens = scrambled(FORMS[name], heads=4, dtype=dtype), some_tokens(dtype=dtype)
    logits = probe(probe.inputs(tokens))
    for index in range(4):
        expected = NaiveAttentiveProbe(probe, index)(tokens)
        torch.testing.assert_close(logits[:, index], expected, rtol=tolerance, atol=tolerance)


def test_gradients_pass_through_the_absorption() -> None:
    probe, tokens = scrambled(FORMS["attentive"], heads=2, dtype=torch.float64), some_tokens(dtype=torch.float64)
    naive = NaiveAttentiveProbe(probe, 1)
    probe(probe.inputs(tokens))[:, 1].square().sum().backward()
    naive(tokens).square().sum().backward()
    key, value = naive.attention.in_proj_weight.grad[WIDTH:].chunk(2)
    for name, expected in {"key": key, "value": value, "norm": naive.norm.weight.grad}.items():
        gradient = probe.get_parameter(name).grad
        torch.testing.assert_close(gradient[1].reshape(expected.shape), expected, rtol=1e-9, atol=1e-11)
        assert not gradient[0].any()


def test_linear_probe_is_a_linear_map_of_the_standardised_mean() -> None:
    probe, tokens = scrambled(FORMS["linear"], heads=3), some_tokens()
    mean = F.layer_norm(tokens, (WIDTH,), eps=NORM_EPSILON).mean(dim=1)
    logits = probe(probe.inputs(tokens))
    for index in range(3):
        x = (mean - probe.mean[index]) / probe.std[index]
        expected = F.linear(x, probe.classifier[index], probe.classifier_bias[index])
        torch.testing.assert_close(logits[:, index], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_slice_of_heads_answers_as_the_whole(form: ProbeForm) -> None:
    probe, tokens = scrambled(form, heads=6), some_tokens()
    inputs = probe.inputs(tokens)
    torch.testing.assert_close(probe(inputs, slice(2, 5)), probe(inputs)[:, 2:5], rtol=1e-5, atol=1e-5)


def train(probe: ProbeHeads, rates: list[float], decays: list[float], weights: torch.Tensor, steps: int) -> None:
    """`steps` steps on shared batches, with weights (H, clips) of zero where a clip is held out of a head."""
    tokens, generator = some_tokens(clips=20), torch.Generator().manual_seed(5)
    classes = torch.randint(CLASSES, (20,), generator=generator)
    optimiser = HeadwiseAdamW(probe, torch.tensor(rates), torch.tensor(decays))
    for _ in range(steps):
        batch = torch.randperm(20, generator=generator)[:8]
        log_p = probe(probe.inputs(tokens[batch])).log_softmax(dim=-1)
        losses = -log_p.gather(2, classes[batch].view(-1, 1, 1).expand(-1, probe.heads, 1))[..., 0]
        (losses * weights[:, batch].T).sum().div(8).backward()
        optimiser.step()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_head_ends_where_it_would_have_ended_alone(form: ProbeForm) -> None:
    rates, decays = [1e-3, 3e-3, 1e-2, 1e-3], [0.0, 0.1, 0.01, 0.5]
    weights = torch.ones(4, 20)
    weights[0, :7], weights[2, 7:14] = 0, 0
    together = HEADS[form.kind](form, heads=4, seed=2)
    train(together, rates, decays, weights, steps=30)
    for index in range(4):
        alone = HEADS[form.kind](form, heads=1, seed=2)
        train(alone, rates[index : index + 1], decays[index : index + 1], weights[index : index + 1], steps=30)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name][index], value[0], rtol=1e-5, atol=1e-5, msg=name)
        tokens = some_tokens()[:, None]
        p = apply_probe(alone, tokens)
        torch.testing.assert_close(apply_probe(together.head(index), tokens), p, rtol=0, atol=1e-5)
    assert not torch.equal(together.classifier[0], together.classifier[3])


def test_optimiser_is_torch_adamw_with_one_group_per_head() -> None:
    probe = scrambled(FORMS["attentive"], heads=3, dtype=torch.float64)
    rates, decays = [1e-3, 1e-2, 3e-2], [0.0, 0.3, 0.1]
    references = [{n: nn.Parameter(v[h].detach().clone()) for n, v in probe.named_parameters()} for h in range(3)]
    groups = [
        {
            "params": [v for n, v in parameters.items() if (n in probe.decayed) == decay],
            "lr": rates[h],
            "weight_decay": decays[h] * decay,
        }
        for h, parameters in enumerate(references)
        for decay in (True, False)
    ]
    torch_optimiser = torch.optim.AdamW(groups)
    optimiser = HeadwiseAdamW(probe, torch.tensor(rates), torch.tensor(decays))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for name, parameter in probe.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).double()
            for head in range(3):
                references[head][name].grad = parameter.grad[head].clone()
        optimiser.step()
        torch_optimiser.step()
    for name, parameter in probe.named_parameters():
        for head in range(3):
            torch.testing.assert_close(parameter[head], references[head][name], rtol=1e-6, atol=1e-7)


def test_heads_start_alike_and_at_the_given_frequencies() -> None:
    probe = HEADS["attentive"](FORMS["attentive"], heads=2, seed=7)
    frequencies = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    probe.start_at(frequencies)
    assert torch.equal(probe.key[0], probe.key[1])
    assert not torch.equal(probe.key[0], HEADS["attentive"](FORMS["attentive"], heads=1, seed=8).key[0])
    for head in range(2):
        p = apply_probe(probe.head(head), some_tokens()[:, None])
        torch.testing.assert_close(p, frequencies[head].double().expand_as(p), rtol=1e-6, atol=1e-6)


def test_a_channel_that_never_changes_stays_finite() -> None:
    probe = HEADS["linear"](FORMS["linear"], heads=1)
    probe.standardise(torch.zeros(1, WIDTH), torch.zeros(1, WIDTH))
    assert (probe.std > 0).all()


def test_probabilities_are_the_mean_over_views() -> None:
    probe, tokens = scrambled(FORMS["attentive"], heads=1), some_tokens(clips=6)
    p = apply_probe(probe, tokens.half().reshape(3, 2, TOKENS, WIDTH))
    each = probe(probe.inputs(tokens.half()))[:, 0].softmax(dim=-1).double()
    torch.testing.assert_close(p, (each[0::2] + each[1::2]) / 2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_width_errors_are_named() -> None:
    with pytest.raises(SettingsError, match="does not divide"):
        HEADS["attentive"](ProbeForm(kind="attentive", width=30, classes=2), heads=1)
    with pytest.raises(CheckpointError, match="48 wide"):
        apply_probe(scrambled(FORMS["linear"], heads=1), torch.zeros(1, 1, 4, 48))


def a_record(form: ProbeForm) -> ProbeRecord:
    return ProbeRecord(
        form=form,
        task="blues-covid",
        classes=["a", "b", "c"],
        unit="patient",
        views=2,
        arm="jepa",
        arm_seed=0,
        encoder_sha256="e",
        features_key="k",
        split_digest="d",
        videos=10,
        patients=5,
        learning_rate=1e-3,
        weight_decay=0.1,
        epochs=7,
        inner_log_loss=0.6,
        seed=1,
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_saved_probe_answers_the_same(tmp_path, form: ProbeForm) -> None:
    probe = scrambled(form, heads=1)
    record = save_probe(tmp_path / "probe", probe, a_record(form))
    loaded, loaded_record = load_probe(tmp_path / "probe")
    tokens = some_tokens()[:, None]
    assert torch.equal(apply_probe(loaded, tokens), apply_probe(probe, tokens))
    assert loaded_record == record
    assert len(record.weights_sha256) == 64


def test_what_is_not_our_probe_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_probe(tmp_path / "nowhere")
    save_probe(tmp_path, scrambled(FORMS["linear"], heads=1), a_record(FORMS["linear"]))
    weights, json = tmp_path / "probe.safetensors", tmp_path / "probe.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-8])
    with pytest.raises(CheckpointError, match="damaged"):
        load_probe(tmp_path)
    weights.write_bytes(good)
    json.write_text('{"format": "other"}')
    with pytest.raises(CheckpointError, match="does not hold a probe"):
        load_probe(tmp_path)
    json.write_bytes(b"\x80\x04not json")
    with pytest.raises(CheckpointError):
        load_probe(tmp_path)


@pytest.mark.parametrize("claim", [{"width": 2**30}, {"classes": 2**30}, {"mlp_ratio": 1e9}])
def test_a_form_that_claims_more_than_its_weights_fills_no_memory(tmp_path, claim: dict) -> None:
    form = FORMS["attentive with mlp"]
    record = save_probe(tmp_path, scrambled(form, heads=1), a_record(form))
    forged = record.model_copy(update={"form": form.model_copy(update=claim)})
    (tmp_path / "probe.json").write_text(forged.model_dump_json())
    with pytest.raises(CheckpointError, match="wide and its weights are"):
        load_probe(tmp_path)


def test_a_pickle_is_never_opened(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    record = save_probe(tmp_path, scrambled(FORMS["linear"], heads=1), a_record(FORMS["linear"]))
    weights = tmp_path / "probe.safetensors"
    weights.write_bytes(pickle.dumps(Bomb()))
    forged = record.model_copy(update={"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    (tmp_path / "probe.json").write_text(forged.model_dump_json())
    with pytest.raises(CheckpointError, match="does not hold a probe"):
        load_probe(tmp_path)
