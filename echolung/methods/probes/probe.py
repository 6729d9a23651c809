"""The methods `attentive`, one learned query that attends to all frozen tokens, and `attentive-blocks`, V-JEPA 2's own
probe: the same after three blocks of self-attention."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pydantic
import torch
from safetensors.torch import load_model, save_model

from echolung.core.runtime import read_json, write_json
from echolung.embedding.recordings import Recordings
from echolung.kinds.classification import classes_of
from echolung.kinds.task import Task
from echolung.methods.cohort import Cohort
from echolung.methods.method import Maps, Method, Rows, device_of
from echolung.methods.probes.heads import Probe, ProbeForm
from echolung.methods.probes.selection import AttentiveSettings, Inputs, new_probe, select, train

RECORD, WEIGHTS = "probe.json", "probe.safetensors"
CHUNK = 16  # videos that are answered at a time


class Attentive(Method):
    """Chosen on the inner folds, then fitted on all training videos."""

    kinds = ("classification",)
    reads_tokens = True
    Settings: ClassVar[type[AttentiveSettings]] = AttentiveSettings
    code: ClassVar[tuple[str, ...]] = ("echolung.methods.probes", "echolung.methods.cohort")

    def __init__(self, heads: Probe, search: pd.DataFrame) -> None:
        """`heads`: one."""
        self.heads, self._search = heads, search

    @classmethod
    def fit(cls, settings: Any, task: Task, recordings: Recordings, training: Rows, seed: int, directory: Path) -> Self:
        width, classes = recordings.shape[-1], len(classes_of(task))
        per_head = settings.attention_head_width
        form = ProbeForm(width=width, classes=classes, attention_head_width=per_head, blocks=settings.blocks)
        cohort = Cohort.of(training, task.unit)
        inputs = Inputs(recordings, cohort, form, settings.batch)
        search = select(inputs, settings, seed)
        best = search[search["chosen"]].iloc[0]
        chosen = [(best["learning_rate"], best["weight_decay"])]
        return cls(train(inputs, cohort.weights()[None], chosen, best["epoch"], seed).eval(), search)

    def predict(self, recordings: Recordings, sample_ids: Sequence[str]) -> np.ndarray:
        found = []
        for names in (sample_ids[at : at + CHUNK] for at in range(0, len(sample_ids), CHUNK)):
            tokens = torch.from_numpy(recordings.tokens(names))
            found.append(self.heads.probabilities(self.heads.inputs(tokens.flatten(0, 1)), tokens.shape[1])[:, 0].cpu())
        return torch.cat(found).numpy()

    def save(self, directory: Path) -> None:
        write_json(directory / RECORD, self.heads.form.model_dump())
        save_model(self.heads, str(directory / WEIGHTS))

    @classmethod
    def load(cls, directory: Path) -> Self:
        heads = new_probe(ProbeForm.parse(read_json(directory / RECORD), str(directory / RECORD)), heads=1)
        load_model(heads, directory / WEIGHTS)
        return cls(heads.eval().to(device_of()), pd.DataFrame())

    def explain(self, recordings: Recordings, sample_id: str) -> Maps:
        weights = self.heads.attention(torch.from_numpy(recordings.tokens([sample_id])[0])).cpu()
        of = f"mean over {weights.shape[1]} heads" if weights.shape[1] > 1 else "one head"
        grid = recordings.features[0].record.grid
        return Maps(
            weights=weights.mean(dim=1).unflatten(1, grid).numpy() * weights.shape[2],
            signed=False,
            words=f"attention of the probe's query ({of}), in even shares: 1, a token like any other, has no colour",
        )


class BlocksSettings(AttentiveSettings):
    """The same search; each of its heads is trained for itself."""

    learning_rates: list[pydantic.PositiveFloat] = pydantic.Field([1e-4, 1e-3], min_length=1)
    weight_decays: list[pydantic.NonNegativeFloat] = pydantic.Field([0.1], min_length=1)
    blocks: int = pydantic.Field(3, ge=1)


class AttentiveBlocks(Attentive):
    """Slow without a GPU."""

    gpus = 1.0
    Settings = BlocksSettings
    code = (*Attentive.code, "echolung.models.vit")
