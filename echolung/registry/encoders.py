"""Registered encoders, pretrained and imported: `echolung-encoder-<study>-<name>`, with an alias for each seed.

encoder, record = load_encoder_by_name(store, "lung", "mae-blues")
mlflow.pyfunc.load_model("models:/echolung-encoder-lung-mae-blues@seed0").predict(clips)
"""

import sys
from pathlib import Path

import numpy as np

from echolung.core.errors import CheckpointError, RegistryError, TrackingError, listed
from echolung.core.runtime import read_json
from echolung.models.encoder import Encoder
from echolung.models.weights import EncoderRecord, load_encoder, read_record
from echolung.registry.models import log_version, version_files, versions
from echolung.tracking.provenance import provenance
from echolung.tracking.run import Run
from echolung.tracking.store import Store

PREFIX = "echolung-encoder-"


def register_encoder(store: Store, run: Run, study: str, folder: Path) -> None:
    """Register the encoder in `folder` once, with the alias of its seed; a store that fails is a warning."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    record = read_record(folder)
    name, seed, clips = f"{PREFIX}{study}-{record.arm}", f"seed{record.seed}", (-1, record.settings.frames, -1, -1)
    try:
        same = [n for n, tags in versions(store, name) if tags.get("weights_sha256") == record.weights_sha256]
        number = same[-1] if same else log_version(
            store, run, name, "Clips uint8 (B, T, H, W) in, tokens (B, N, D) out.", "encoder_pyfunc.py", folder,
            _tags(record, study, store.root), f"{record.arm} {seed}: objective {record.objective}",
            signature=ModelSignature(Schema([TensorSpec(np.dtype("uint8"), clips)])),
        )  # fmt: skip
        with store.connected() as client:
            client.set_registered_model_alias(name, seed, str(number))
    except TrackingError as error:
        print(f"warning: {name} is not registered: {error.problem}. {error.remedy}", file=sys.stderr)


def _tags(record: EncoderRecord, study: str, root: Path) -> dict[str, str]:
    """Where an encoder comes from, and what it started from (as `echolung weights import` noted it)."""
    note = root / Path(record.settings.weights).expanduser().parent / "source.json"
    start = read_json(note) if record.settings.weights and note.is_file() else {"file": record.settings.weights}
    told = record.model_dump(include={"objective", "seed", "steps", "handed_on", "fingerprint", "weights_sha256"})
    told |= {"study": study, "pool": record.trained_on_source, "recordings": len(record.trained_on)}
    told |= {f"start_{key}": start.get(key) for key in ("file", "sha256", "license")}
    return provenance(root) | {key: str(value) for key, value in told.items() if value not in ("", None)}


def load_encoder_by_name(store: Store, study: str, name: str, seed: int | None = None) -> tuple[Encoder, EncoderRecord]:
    """The encoder `name` of a study as it is now, in evaluation mode on the CPU; of the lowest seed if none is given.
    Raises RegistryError if it is not registered, or if its files are gone or damaged."""
    from mlflow.exceptions import MlflowException

    full = f"{PREFIX}{study}-{name}"
    with store.connected() as client:
        models = client.search_registered_models(f"name LIKE '{PREFIX}%'", max_results=1000)
        there = {(model.name, alias): int(number) for model in models for alias, number in model.aliases.items()}
        mine = [int(alias.removeprefix("seed")) for model, alias in there if model == full and alias[:4] == "seed"]
        key = full, f"seed{min(mine, default=0) if seed is None else seed}"
        if key not in there:
            known = listed("@".join(one) for one in sorted(there)) or "none; run `dvc repro`"
            raise RegistryError(f"there is no registered encoder {'@'.join(key)}", f"There are: {known}.")
        try:
            (folder,) = (version_files(store, client, full, there[key]).artifacts / "artifacts").iterdir()
            return load_encoder(folder)
        except (MlflowException, OSError, CheckpointError) as error:
            problem = f"the files of {full} version {there[key]} cannot be read ({str(error).splitlines()[0]})"
            remedy = "Delete this version in `echolung ui`, and run its stage again: dvc repro -s -f STAGE"
            raise RegistryError(problem, remedy) from error
