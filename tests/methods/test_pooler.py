"""V-JEPA 2's probe of four blocks: published names, a naive reference, heads that share nothing."""

from pathlib import Path

import torch
from test_probe import Study, task
from torch import Tensor
from torch.nn import functional as F

from echolung.methods.probes.heads import ProbeForm
from echolung.methods.probes.pooler import Classifier, PoolerHeads
from echolung.methods.probes.probe import AttentiveBlocks

FORM = ProbeForm(width=16, classes=3, attention_head_width=8, blocks=3)
TOKENS = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))


def scrambled() -> Classifier:
    torch.manual_seed(1)
    one = Classifier(FORM)
    with torch.no_grad():
        for part in one.parameters():
            part.add_(0.3 * torch.randn_like(part))
    return one


def test_names_are_those_of_the_published_probes() -> None:
    names = set(Classifier(FORM).state_dict())
    cross = "pooler.cross_attention_block"
    layers = [f"{cross}.{part}" for part in ("norm1", "norm2", "xattn.q", "xattn.kv", "mlp.fc1", "mlp.fc2")]
    for block in range(3):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        layers += [f"pooler.blocks.{block}.{part}" for part in parts]
    expected = {f"{layer}.{kind}" for layer in [*layers, "linear"] for kind in ("weight", "bias")}
    assert names == expected | {"pooler.query_tokens"}


def attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One clip (., 16) of two heads, a query and a head at a time."""
    rows = []
    for q in query:
        parts = []
        for head in (slice(0, 8), slice(8, 16)):
            weights = torch.tensor([float(q[head] @ k[head]) / 8**0.5 for k in keys]).softmax(0)
            parts.append(sum(w * v[head] for w, v in zip(weights, values, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def test_a_head_is_what_the_paper_describes() -> None:
    one = scrambled()
    w = {name: value.detach() for name, value in one.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (16,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def mlp(x: Tensor, name: str) -> Tensor:
        return linear(F.gelu(linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    for clip in range(len(TOKENS)):
        x = TOKENS[clip]
        for block in (f"pooler.blocks.{number}" for number in range(3)):
            q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(16, dim=1)
            x = x + linear(attended(q, k, v), f"{block}.attn.proj")
            x = x + mlp(norm(x, f"{block}.norm2"), block)
        cross, query = "pooler.cross_attention_block", w["pooler.query_tokens"][0]
        k, v = linear(norm(x, f"{cross}.norm1"), f"{cross}.xattn.kv").split(16, dim=1)
        query = query + attended(linear(query, f"{cross}.xattn.q"), k, v)
        query = query + mlp(norm(query, f"{cross}.norm2"), cross)
        torch.testing.assert_close(one(TOKENS)[clip], linear(query, "linear")[0], rtol=1e-4, atol=1e-5)


def test_every_head_ends_where_it_would_end_alone() -> None:
    rates, decays = torch.tensor([1e-3, 1e-2]), torch.tensor([0.0, 0.5])
    y = torch.tensor([0, 1, 2, 1])
    both = PoolerHeads(FORM, 2, seed=7)
    alone = [PoolerHeads(FORM, 1, seed=7) for _ in range(2)]
    together = both.optimiser(rates, decays)
    solo = [
        torch.optim.AdamW(
            [
                {"params": [part for part in one.parameters() if part.ndim > 1], "weight_decay": float(decays[number])},
                {"params": [part for part in one.parameters() if part.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=float(rates[number]),
        )
        for number, one in enumerate(alone)
    ]
    for _ in range(3):
        sum(F.cross_entropy(both(TOKENS)[:, number], y) for number in range(2)).backward()
        together.step()
        both.zero_grad()
        for number, one in enumerate(alone):
            solo[number].zero_grad()
            F.cross_entropy(one(TOKENS)[:, 0], y).backward()
            solo[number].step()
    for number, one in enumerate(alone):
        torch.testing.assert_close(both(TOKENS)[:, number], one(TOKENS)[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both(TOKENS)[:, 0], both(TOKENS)[:, 1])


def test_before_training_it_answers_the_class_frequencies() -> None:
    heads = PoolerHeads(FORM, 2)
    frequencies = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    heads.start_at(frequencies)
    torch.testing.assert_close(heads(TOKENS).softmax(dim=-1), frequencies.expand(4, -1, -1))


def test_the_method_learns_is_explained_and_comes_back_from_disk(tmp_path: Path) -> None:
    study = Study(signal=2.0)
    settings = AttentiveBlocks.Settings(learning_rates=[3e-3], epochs=14, batch=8, attention_head_width=8, blocks=1)
    recordings = study.recordings()
    fitted = AttentiveBlocks.fit(settings, task(), recordings, study.training, 0, tmp_path)
    p = fitted.predict(recordings, study.test)
    assert (p.argmax(axis=1) == study.y).mean() > 0.8
    maps = fitted.explain(recordings, study.test[0])
    assert maps.weights.min() >= 0 and abs(maps.weights.mean() - 1) < 1e-6
    fitted.save(tmp_path)
    assert (AttentiveBlocks.load(tmp_path).predict(recordings, study.test) == p).all()
