"""Encoders on disk: `encoder.safetensors` with the weights, `encoder.json` with settings and provenance. No pickle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import echolung
from echolung.core.errors import CheckpointError, EcholungError
from echolung.core.parameters import Parameters, chosen
from echolung.core.runtime import atomic_directory, read_json, sha256_file, write_json
from echolung.models.encoder import ClipSettings, Encoder
from echolung.models.encoders import ENCODERS, drawn_encoder, initial_encoder

WEIGHTS = "encoder.safetensors"
RECORD = "encoder.json"
REMEDY = "Name a folder that `dvc repro` wrote (data/<study>/encoders/<name>/seed<k>), or run `dvc repro` again."


class EncoderRecord(Parameters):
    """What a saved encoder is and where it comes from."""

    settings: Annotated[ClipSettings, chosen(lambda: ENCODERS, "kind")]
    arm: str  # its name in the parameters: an entry of pretrain.encoders, or the arm of an untrained one
    objective: str  # how it was trained; `Encoder.origin` for initial weights
    seed: int
    steps: int = 0
    handed_on: str = ""  # which of several encoders of a run it is: `teacher` or `student`
    trained_on: tuple[str, ...] = ()  # SHA-256 of every recording of its pool, those included that only chose it
    trained_on_source: str = ""
    fingerprint: str = ""  # digest of everything that decides the result of its training; empty for initial weights
    weights_sha256: str = ""
    echolung_version: str = echolung.__version__


def initialise(settings: ClipSettings, seeds: Sequence[int], target: Path, arm: str = "random") -> pd.DataFrame:
    """Save one encoder per seed, as it is before training, as `target`/seed<k>; returns one row per seed."""
    rows = []
    for seed in seeds:
        encoder = initial_encoder(settings, seed)
        record = EncoderRecord(settings=settings, arm=arm, objective=encoder.origin, seed=seed)
        saved = save_encoder(target / f"seed{seed}", encoder, record)
        row = {"arm": arm, "seed": seed, "steps": 0, "finite": finite(encoder)}
        rows.append({**row, "weights_sha256": saved.weights_sha256})
    return pd.DataFrame(rows)


def finite(encoder: Encoder) -> bool:
    """Whether every weight is finite."""
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
    """Read an encoder, in evaluation mode on the CPU, with its record. Raises CheckpointError if the folder holds no
    encoder, or one whose weights are damaged or do not fit its settings."""
    record = read_record(directory)
    encoder = drawn_encoder(record.settings, record.seed)
    try:
        encoder.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{directory / WEIGHTS} is missing, damaged or does not fit the settings in {RECORD} ({reason})", REMEDY
        ) from None
    return encoder.eval().requires_grad_(False), record


def read_record(directory: Path) -> EncoderRecord:
    """What the encoder in `directory` is, without its weights; raises CheckpointError if there is none."""
    path = directory / RECORD
    try:
        return EncoderRecord.parse(read_json(path), str(path))
    except (EcholungError, OSError, TypeError, ValueError) as error:
        reason = error.problem if isinstance(error, EcholungError) else str(error)
        remedy = f"{REMEDY} Pickled weights (.pt, .pth) are never loaded."
        raise CheckpointError(f"{path} is not the record of an encoder ({reason})", remedy) from None
