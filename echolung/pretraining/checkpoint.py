"""The state of a run in one file: every tensor as safetensors, everything else as JSON in its header.

One file takes its place atomically, so a killed run leaves the last whole checkpoint; its digest tells whether it was
changed since. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from echolung.core.errors import CheckpointError
from echolung.core.runtime import atomic_path

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it must have in common with one that goes on from it."""

    step: int
    """Steps done."""
    fingerprint: dict[str, Any]
    """Parameters and data; see `differences`."""
    history: list[dict[str, Any]]
    """One row per logged step."""
    losses: list[float]
    """Losses since the last logged step."""


def save(directory: Path, progress: Progress, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint in `directory`."""
    tensors = {f"weights/{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = tensor
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(vars(progress))
    with atomic_path(directory / NAME) as temporary:
        save_file(tensors, temporary, metadata={"progress": text, "sha256": _sha256(text, tensors)})


def read_progress(directory: Path) -> Progress | None:
    """What the checkpoint in `directory` says of its run; None if there is none. Reads no tensor."""
    path = directory / NAME
    if not path.exists():
        return None
    with _opened(path) as file:
        try:
            return Progress(**json.loads(file.metadata()["progress"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _not_ours(path, error) from None


def restore(directory: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and optimizer state from the checkpoint in `directory`, bit for bit.

    Raises CheckpointError if there is none of ours, or if anything in it was changed since it was saved.
    """
    path = directory / NAME
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        header = file.metadata() or {}
    if header.get("sha256") != _sha256(header.get("progress", ""), tensors):
        raise _not_ours(path, "it is not as it was saved")
    try:
        weights = {name: tensors[f"weights/{name}"] for name in module.state_dict()}
        module.load_state_dict(weights)
        parameters = dict(module.named_parameters())
        for label in tensors.keys() - {f"weights/{name}" for name in weights}:
            _, key, name = label.split("/")
            optimizer.state[parameters[name]][key] = tensors[label].to(parameters[name].device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise _not_ours(path, error) from None


def _sha256(progress: str, tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, as lines `key: theirs -> ours`; empty if a run may go on."""
    mine, other = _flat(ours), _flat(theirs)
    keys = sorted(mine.keys() | other.keys())
    return [f"{key}: {other.get(key)} -> {mine.get(key)}" for key in keys if mine.get(key) != other.get(key)]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = [_flat(inner, f"{place}.{key}" if place else str(key)) for key, inner in value.items()]
        return {key: inner for item in items for key, inner in item.items()}
    return {place: json.loads(json.dumps(value))}  # tuples become lists, as they do on disk


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise _not_ours(path, error) from None


def _not_ours(path: Path, error: Exception | str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or not a checkpoint of ours ({error})", f"Delete {path} to start afresh."
    )
