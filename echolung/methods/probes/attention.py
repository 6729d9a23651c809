"""Where a probe looks: what each token of a clip has to do with its answer."""

from __future__ import annotations

import torch
from torch import Tensor

from echolung.methods.probes.heads import AttentiveHeads, LinearHeads, ProbeHeads, normalised

# Dimension letters: B clips, N tokens, D width, A attention heads, K width of an attention head, C classes.


@torch.no_grad()
def attention(probe: AttentiveHeads, tokens_BND: Tensor) -> Tensor:
    """The query's attention to every token, (B, A, N) for each attention head: at least 0, 1 in sum over the tokens.

    These are the weights that `AttentiveHeads.forward` pools the tokens by. They show what was read, not which class it
    supports.
    """
    assert probe.heads == 1, "a saved probe is one head"
    inputs_BND = probe.inputs(tokens_BND.to(probe.mean.device))
    gain_D = probe.norm[0] / probe.std[0]
    query_AD = torch.einsum("ak,akd->ad", probe.query[0], probe.key[0]) * gain_D
    scores_BAN = torch.einsum("ad,bnd->ban", query_AD, inputs_BND) * probe.query.shape[-1] ** -0.5
    return scores_BAN.double().softmax(dim=-1)


@torch.no_grad()
def contributions(probe: LinearHeads, tokens_BND: Tensor) -> Tensor:
    """What every token adds to every class's logit, (B, N, C): their sum over the tokens, plus the bias, is the logit.

    Exact, because the probe is linear after the mean over the tokens: token n adds w_c . ((x_n - mean) / std) / N.
    """
    assert probe.heads == 1, "a saved probe is one head"
    x_BND = normalised(tokens_BND.to(probe.mean.device), probe.mean.dtype)
    standardised_BND = ((x_BND - probe.mean[0]) / probe.std[0]).double()
    return standardised_BND @ probe.classifier[0].double().T / x_BND.shape[1]


def token_weights(probe: ProbeHeads, tokens_BND: Tensor, class_index: int) -> Tensor:
    """What `--explain` draws, (B, N): the mean attention over its heads; for a linear probe, what supports the class.

    Attention is at least 0 and sums to 1 over the tokens; contributions to the logit of `class_index` have either sign.
    """
    if isinstance(probe, AttentiveHeads):
        return attention(probe, tokens_BND).mean(dim=1)
    assert isinstance(probe, LinearHeads), f"no way to look into a {type(probe).__name__}"
    return contributions(probe, tokens_BND)[:, :, class_index]
