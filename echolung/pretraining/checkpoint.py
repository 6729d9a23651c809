"""The state of a run in one file, replaced atomically: tensors as safetensors, all else as JSON in its header."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from echolung.core.errors import CheckpointError
from echolung.core.runtime import atomic_path

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a run is, and what it depends on."""

    fingerprint: dict[str, Any]  # parameters, code and data; see `differences`
    step: int = 0  # steps done
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per logged step
    losses: list[float] = field(default_factory=list)  # losses since the last logged step


def save(directory: Path, progress: Progress, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint in `directory`: weights and buffers of `module`, and the optimizer's state of each."""
    tensors = {f"weights/{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = tensor
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(directory / NAME) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(vars(progress))})


def read_progress(directory: Path) -> Progress | None:
    """The progress that the checkpoint in `directory` records, or None without one. Reads no tensor."""
    if not (directory / NAME).exists():
        return None
    with _reading(directory / NAME) as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def restore(directory: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and optimizer state, bit for bit; raises CheckpointError if they are damaged or of other parts."""
    with _reading(directory / NAME) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        module.load_state_dict({name: tensors.pop(f"weights/{name}") for name in module.state_dict()})
        parameters = dict(module.named_parameters())
        for label, tensor in tensors.items():
            _, key, name = label.split("/")
            optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({error})", f"Delete {path} to start over."
        ) from None


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, as lines `key: theirs -> ours`; empty if a run may continue."""
    # As they are on disk, where tuples are lists; nested keys become a.b.
    mine, other = (pd.json_normalize(json.loads(json.dumps(one))).to_dict("records")[0] for one in (ours, theirs))
    keys = sorted(str(key) for key in mine.keys() | other.keys())
    return [f"{key}: {other.get(key)} -> {mine.get(key)}" for key in keys if mine.get(key) != other.get(key)]
