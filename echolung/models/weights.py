"""Encoders on disk: `encoder.safetensors`, and `encoder.json` that says what they are. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import echolung
from echolung.core.errors import CheckpointError, SettingsError
from echolung.core.parameters import Parameters
from echolung.core.runtime import atomic_directory, derived_seed, sha256_file, write_json
from echolung.models.encoder import Encoder, EncoderSettings

WEIGHTS = "encoder.safetensors"
RECORD = "encoder.json"
REMEDY = "Name a folder that `dvc repro` wrote (data/<study>/pretrain/<arm>/seed<k>), or make it again."


class EncoderRecord(Parameters):
    """What a saved encoder is and where it comes from."""

    settings: EncoderSettings
    arm: str
    objective: str
    """How it was trained; `none` for initial weights."""
    seed: int
    steps: int = 0
    trained_on: tuple[str, ...] = ()
    """SHA-256 of every video it has seen."""
    trained_on_source: str = ""
    weights_sha256: str = ""
    echolung_version: str = echolung.__version__


def initial_encoder(settings: EncoderSettings, seed: int) -> Encoder:
    """An untrained encoder; the same seed gives the same weights to every arm, trained further or not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("encoder", seed))
        return Encoder(settings)


def initialise(settings: EncoderSettings, seeds: Sequence[int], target: Path, arm: str = "random") -> pd.DataFrame:
    """Save one untrained encoder per seed as `target`/seed<k>; returns one row per seed."""
    rows = []
    for seed in seeds:
        encoder = initial_encoder(settings, seed)
        record = EncoderRecord(settings=settings, arm=arm, objective="none", seed=seed)
        saved = save_encoder(target / f"seed{seed}", encoder, record)
        rows.append({"seed": seed, "steps": 0, "finite": finite(encoder), "weights_sha256": saved.weights_sha256})
    return pd.DataFrame(rows)


def finite(encoder: Encoder) -> bool:
    """Whether every weight is a number."""
    return all(bool(weight.isfinite().all()) for weight in encoder.parameters())


def save_encoder(directory: Path, encoder: Encoder, record: EncoderRecord) -> EncoderRecord:
    """Write an encoder atomically; returns the record with the digest of its weights."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_directory(directory) as temporary:
        save_file(weights, temporary / WEIGHTS)
        record = record.model_copy(update={"weights_sha256": sha256_file(temporary / WEIGHTS)})
        write_json(temporary / RECORD, record.model_dump(mode="json"))
    return record


def load_encoder(directory: Path) -> tuple[Encoder, EncoderRecord]:
    """Read an encoder, in evaluation mode on the CPU, with its record.

    Raises CheckpointError if the folder holds no encoder of ours, or one that is damaged or of other settings.
    """
    directory = Path(directory)
    record = read_record(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{directory} has {RECORD} but no {WEIGHTS}", REMEDY)
    if sha256_file(path) != record.weights_sha256:
        raise CheckpointError(f"{path} is not the file that {RECORD} describes: it was damaged or replaced", REMEDY)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error})", REMEDY) from None
    with torch.device("meta"):
        encoder = Encoder(record.settings)
    _check_shapes(path, weights, encoder)
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False), record


def read_record(directory: Path) -> EncoderRecord:
    """What the encoder in `directory` is, without its weights; raises CheckpointError if there is none of ours."""
    path = directory / RECORD
    if not path.is_file():
        what = "is a file, not a folder of ours" if directory.is_file() else f"holds no {RECORD}"
        missing = "" if directory.exists() else " (it does not exist)"
        raise CheckpointError(f"{directory} {what}{missing}", f"{REMEDY} Files of other programs are never unpickled.")
    try:
        values = json.loads(path.read_text())
        return EncoderRecord.parse(values, str(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON of ours ({error})", REMEDY) from None
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error.problem}", REMEDY) from None


def _check_shapes(path: Path, weights: dict[str, torch.Tensor], encoder: Encoder) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path} does not fit the settings in {RECORD}: {name} is {found.get(name, 'missing')}, "
                f"not {expected.get(name, 'expected')}",
                REMEDY,
            )
