"""Choosing a probe on inner folds: all heads of the search in one batched pass.

What every arm shares:
- Tokens are standardised (`Probe`): an encoder's scale is neither an advantage nor a handicap.
- A head starts at the class frequencies of its training videos, and epoch 0 can be chosen: a search that lowers no
  log-loss on the inner folds ends at the class frequencies.
- Each epoch shows one evaluation view of every video, drawn at random; scores use the mean probability of all views.
- Where the unit of decision is the patient, a video weighs 1 / (videos of its patient) in training, and what is scored
  is the mean probability over a patient's videos. Classes are not rebalanced: probabilities keep the prevalence.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from echolung.core.errors import SettingsError
from echolung.core.parameters import Parameters
from echolung.embedding.recordings import Recordings, refuse_not_finite
from echolung.methods.cohort import Cohort
from echolung.methods.method import device_of
from echolung.methods.probes.heads import Probe, ProbeForm, ProbeHeads
from echolung.methods.probes.pooler import PoolerHeads

# Dimension letters: V videos, B videos of a batch, U units of decision, J inner folds, G configurations, H = J x G
# heads, E epochs, N tokens, D width, C classes.

KEPT_BYTES = 2**30  # of prepared inputs that one trial may hold in memory


class AttentiveSettings(Parameters):
    """The search: every learning rate x weight decay, in steps of `batch` videos, until the inner folds have seen no
    better head for `patience` epochs, or for `epochs`; and the shape of the probe."""

    learning_rates: list[pydantic.PositiveFloat] = pydantic.Field([3e-4, 1e-3, 3e-3], min_length=1)
    weight_decays: list[pydantic.NonNegativeFloat] = pydantic.Field([0.1, 10.0], min_length=1)
    epochs: int = pydantic.Field(16, ge=1)
    patience: int = pydantic.Field(10, ge=1)
    batch: int = pydantic.Field(16, ge=1)
    attention_head_width: int = pydantic.Field(64, ge=1)  # channels of one attention head; divides the encoder's width
    blocks: int = pydantic.Field(0, ge=0)  # blocks of self-attention before the query


def new_probe(form: ProbeForm, heads: int, seed: int = 0) -> Probe:
    """Heads of the class that suits the form."""
    return (PoolerHeads if form.blocks else ProbeHeads)(form, heads, seed)


class Inputs:
    """What heads read of a cohort's videos, in batches of so many. Up to KEPT_BYTES are prepared once and kept; beyond
    that, tokens are read from disk batch by batch. Raises DataError naming videos whose features are not finite."""

    def __init__(self, recordings: Recordings, cohort: Cohort, form: ProbeForm, batch: int) -> None:
        self.recordings, self.cohort, self.form, self.batch = recordings, cohort, form, batch
        self.names = np.array(cohort.sample_ids, dtype=object)
        self.views, tokens, width = recordings.shape
        self.device = device_of()
        self.y = torch.tensor(cohort.y, device=self.device)
        self._prepare = new_probe(form, heads=1).to(self.device).inputs
        self._kept: Tensor | None = None
        keep = 4 * self.views * tokens * width * len(self.names) <= KEPT_BYTES
        kept = torch.empty(0, device=self.device)
        means, squares = [], []
        for places in self.chunks(np.arange(len(self.names))):
            x = self.load(places).unflatten(0, (len(places), self.views))
            if keep:
                kept = kept if len(kept) else x.new_empty(len(self.names), *x.shape[1:])
                kept[places[0] : places[-1] + 1] = x
            every = x.flatten(1, -2)
            mean_BD = every.mean(dim=1)
            means.append(mean_BD.double())
            squares.append((every - mean_BD[:, None]).square_().mean(dim=1).double() + mean_BD.double().square())
        self.mean_VD, self.square_VD = torch.cat(means), torch.cat(squares)
        self._kept = kept if keep else None
        refuse_not_finite(cohort.sample_ids, self.square_VD.isfinite().all(dim=1).cpu().numpy())

    def chunks(self, places: np.ndarray) -> Iterator[np.ndarray]:
        for at in range(0, len(places), self.batch):
            yield places[at : at + self.batch]

    def load(self, places: np.ndarray, views: np.ndarray | None = None) -> Tensor:
        """Inputs of one view of each video (B, ...), or of all views (B * views, ...) where none is named."""
        if self._kept is not None:
            return self._kept[places].flatten(0, 1) if views is None else self._kept[places, views]
        tokens = torch.from_numpy(self.recordings.tokens(list(self.names[places]), views)).to(self.device)
        return self._prepare(tokens.flatten(0, 1) if views is None else tokens)

    def heads(self, weights_HV: Tensor, seed: int) -> Probe:
        """New heads, each with the statistics and class frequencies of its own weighted training videos."""
        heads = new_probe(self.form, len(weights_HV), seed).to(self.device)
        share_HV = weights_HV / weights_HV.sum(dim=1, keepdim=True)
        mean_HD = share_HV @ self.mean_VD
        heads.standardise(mean_HD, (share_HV @ self.square_VD - mean_HD.square()).clamp_min(0))
        of_class_VC = F.one_hot(self.y, self.form.classes).double()
        # No class starts at probability 0: one that a head's training videos lack counts as one video.
        counts_HC = (weights_HV @ of_class_VC).clamp_min(1)
        heads.start_at(counts_HC / counts_HC.sum(dim=1, keepdim=True))
        return heads

    def log_loss(self, heads: Probe, fold: int, group: slice) -> np.ndarray:
        """Mean log-loss (G,) on an inner fold by the heads of `group`, which did not train on it."""
        chunks = self.chunks(np.flatnonzero(self.cohort.inner == fold))
        p_VGC = torch.cat([heads.probabilities(self.load(chunk), self.views, group) for chunk in chunks])
        return self.cohort.log_loss(fold, p_VGC.cpu().numpy())


def select(inputs: Inputs, settings: AttentiveSettings, seed: int) -> pd.DataFrame:
    """Train every configuration on every inner fold at once; the lowest mean log-loss on the held-out folds wins.

    Heads are scored before the first step and after every epoch; ties go to the earliest. Returns a row per
    configuration and epoch, from 0, of which one is `chosen`. Raises SettingsError if every head diverges.
    """
    configurations = [(rate, decay) for rate in settings.learning_rates for decay in settings.weight_decays]
    folds, size = inputs.cohort.folds, len(configurations)
    losses: list[list[np.ndarray]] = []

    def score(heads: Probe) -> bool:
        losses.append([inputs.log_loss(heads, fold, slice(j * size, (j + 1) * size)) for j, fold in enumerate(folds)])
        best = np.nanargmin(np.mean(losses, axis=1).min(axis=1, initial=np.inf))
        return bool(len(losses) - 1 - best >= settings.patience)

    weights_HV = np.repeat([inputs.cohort.weights(fold) for fold in folds], size, axis=0)
    train(inputs, weights_HV, configurations * len(folds), settings.epochs, seed, score)
    losses_EJG = np.array(losses)
    mean_EG = losses_EJG.mean(axis=1)
    mean_EG = np.where(np.isfinite(mean_EG), mean_EG, np.inf)
    if np.isinf(mean_EG[1:]).all():
        raise SettingsError("every probe diverged on the inner folds", "Lower its learning_rates in fit.methods.")
    chosen = np.unravel_index(np.argmin(mean_EG), mean_EG.shape)
    return pd.DataFrame(
        [
            {"learning_rate": rate, "weight_decay": decay, "epoch": e, "log_loss": mean_EG[e, g]}
            | {f"log_loss_{fold}": losses_EJG[e, j, g] for j, fold in enumerate(folds)}
            | {"chosen": (e, g) == chosen}
            for g, (rate, decay) in enumerate(configurations)
            for e in range(len(losses))
        ]
    )


def train(
    inputs: Inputs,
    weights_HV: np.ndarray,
    configurations: list[tuple[float, float]],
    epochs: int,
    seed: int,
    score: Callable[[Probe], bool] = lambda heads: False,
) -> Probe:
    """Train one head per row of weights and configuration (learning rate, weight decay) on the same minibatches.
    `score` is called before the first step and after every epoch, and says when to stop."""
    weights, y = torch.tensor(weights_HV, device=inputs.device), inputs.y
    heads = inputs.heads(weights, seed)
    rates, decays = torch.tensor(configurations, dtype=torch.float64).unbind(dim=1)
    optimiser = heads.optimiser(rates, decays)
    weights_VH = weights.T.to(heads.mean)
    score(heads)
    for epoch in range(epochs):
        for chosen, views in _batches(len(y), inputs.views, inputs.batch, seed, epoch):
            log_p_BHC = heads(inputs.load(chosen, views)).log_softmax(dim=-1)
            log_p_BH = log_p_BHC[torch.arange(len(chosen)), :, y[chosen]]
            # The heads' losses are summed: none depends on another's parameters.
            (-log_p_BH * weights_VH[chosen]).sum().div(len(chosen)).backward()
            optimiser.step()
            heads.zero_grad()
        if score(heads):
            break
    return heads


def _batches(videos: int, views: int, batch: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every video once, in random order and batches of equal size within one, with the view it shows this time."""
    random = np.random.default_rng([seed, epoch])
    order, shown = random.permutation(videos), random.integers(views, size=videos)
    for chosen in np.array_split(order, -(-videos // batch)):
        yield chosen, shown[chosen]
