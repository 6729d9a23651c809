"""Weights, checkpoints and features that would run code, or are not what they say"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_corpus.cases import Case, Place
from hostile_corpus.disguises import Payload

from echolung.core.runtime import sha256_file, write_json
from echolung.embedding.features import Features
from echolung.methods.probes.heads import load_probe
from echolung.models.encoder import EncoderSettings
from echolung.models.weights import EncoderRecord, initial_encoder, load_encoder, save_encoder
from echolung.pretraining.checkpoint import NAME, read_progress, restore
from echolung.serving.model import Classifier

SMALL = EncoderSettings(width=12, depth=1, heads=1, image_size=16, frames=2, clip_fps=10.0)


def weights() -> list[Case]:
    """Everything that is loaded from a file that someone else may have written."""
    none, no_tensors = "is a file, not a folder", "not a safetensors file"
    renamed = "weights: a pickle under the name of"
    return [
        Case(
            "weights.pt", "weights: a pickle that runs code, instead of a folder", _pickled("weights.pt"), _alone, none
        ),
        Case("encoder.safetensors", f"{renamed} an encoder, with its digest", _encoder(_pickle), _encoded, no_tensors),
        Case("torch.safetensors", "weights: torch.save instead of an encoder", _encoder(_saved), _encoded, no_tensors),
        Case("claims.safetensors", "weights: a header of 2^62 bytes", _encoder(_overlong), _encoded, no_tensors),
        Case("probe.safetensors", f"{renamed} a probe, with its digest", _probe, _probed, "does not hold a probe"),
        Case("classifier.json", f"{renamed} a classifier", _pickled("classifier.json"), _classified, "no classifier"),
        Case("nested.json", "weights: JSON nested 100,000 deep", _nested, _encoded, "not JSON of ours"),
        Case(
            "checkpoint.safetensors", f"{renamed} a checkpoint", _pickled(NAME), _restored, "not a checkpoint of ours"
        ),
        Case("tokens.npy", "features: an array of objects, a pickle", _objects, _opened, "not a feature store"),
        Case("archive.npy", "features: an archive of arrays", _archived, _opened, "do not belong together"),
    ]


def _alone(place: Place) -> str:
    return str(load_encoder(place.path))


def _encoded(place: Place) -> str:
    return str(load_encoder(place.folder))


def _probed(place: Place) -> str:
    return str(load_probe(place.folder))


def _classified(place: Place) -> str:
    return str(Classifier.open(place.folder))


def _opened(place: Place) -> str:
    return str(Features.open(place.folder))


def _nested(place: Place) -> None:
    (place.folder / "encoder.json").write_text("[" * 100_000)


def _pickled(name: str) -> Callable[[Place], None]:
    return lambda place: _pickle(place.folder / name, place)


def _pickle(path: Path, place: Place) -> None:
    path.write_bytes(pickle.dumps(Payload(str(place.canary))))


def _saved(path: Path, place: Place) -> None:
    import torch

    torch.save({"weights": Payload(str(place.canary))}, path)


def _overlong(path: Path, place: Place) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def _encoder(write: Callable[[Path, Place], None]) -> Callable[[Place], None]:
    """An encoder of ours whose weights are replaced, and whose record was made to fit them."""

    def make(place: Place) -> None:
        record = EncoderRecord(settings=SMALL, arm="random", objective="none", seed=0)
        save_encoder(place.folder / "encoder", initial_encoder(SMALL, 0), record)
        for part in (place.folder / "encoder").iterdir():
            part.rename(place.folder / part.name)
        path = place.folder / "encoder.safetensors"
        write(path, place)
        _agree(place.folder / "encoder.json", path)

    return make


def _agree(record: Path, weights: Path) -> None:
    write_json(record, {**json.loads(record.read_text()), "weights_sha256": sha256_file(weights)})


def _probe(place: Place) -> None:
    _pickle(place.folder / "probe.safetensors", place)
    form = {"kind": "linear", "width": 12, "classes": 2}
    numbers = {"arm_seed": 0, "videos": 2, "patients": 2, "learning_rate": 0.1, "weight_decay": 0.0, "epochs": 1}
    texts = dict.fromkeys(("task", "arm", "encoder_sha256", "features_key", "split_digest"), "x")
    record = {**numbers, **texts, "form": form, "classes": ["a", "b"], "unit": "video", "views": 1}
    write_json(place.folder / "probe.json", {**record, "inner_log_loss": 0.5, "seed": 0, "weights_sha256": ""})
    _agree(place.folder / "probe.json", place.folder / "probe.safetensors")


def _restored(place: Place) -> str:
    import torch

    module = torch.nn.Linear(2, 2)
    read_progress(place.folder)
    restore(place.folder, module, torch.optim.AdamW(module.parameters()))
    return "restored"


def _objects(place: Place) -> None:
    with open(place.folder / "tokens.npy", "wb") as stream:
        np.lib.format.write_array(stream, np.array([Payload(str(place.canary))], dtype=object), allow_pickle=True)
    _described(place)


def _archived(place: Place) -> None:
    with open(place.folder / "tokens.npy", "wb") as stream:
        np.savez(stream, np.zeros((1, 1, 1, 1), np.float16))
    _described(place)


def _described(place: Place) -> None:
    (place.folder / "index.csv").write_text("sample_id,sha256,finite,std,seen_in_pretraining\na,b,True,1.0,False\n")
    record = {"key": "k", "arm": "random", "seed": 0, "encoder_sha256": "x", "shape": [1, 1, 1, 1]}
    write_json(place.folder / "features.json", {**record, "effective_rank": 1.0, "seen_in_pretraining": []})
