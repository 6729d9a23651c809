"""What was run on what: the facts of a study for its report and its runs."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echolung.data.clips import ClipStore
from echolung.data.manifest import read_manifest
from echolung.embedding.features import Features
from echolung.kinds.task import Task
from echolung.models.weights import read_record

PHANTOM_LICENSE = "synthetic"  # how the licence of a drawn video begins


def facts(parameters: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, str]:
    """Parameters, code and machine in a few lines; all parameters are in params.yaml."""
    import torch

    split, pretrain = parameters["split"], parameters["pretrain"]
    changed = {name: _short(one["training"]) for name, one in pretrain["encoders"].items()}
    alike = {text: [name for name, its in changed.items() if its == text] for text in changed.values() if text}
    own = [f"of {', '.join(names)}: {text}" for text, names in alike.items()]
    methods = dict.fromkeys(method for arm in parameters["arms"].values() for method in arm["method"])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "scikit-learn", "mlflow"))
    return {
        "Date": datetime.date.today().isoformat(),
        "Code": f"echolung {origin['echolung_version']}, git {origin.get('git_revision', 'unknown')}",
        "Pretraining": "; ".join([_short(pretrain["training"]), *own]) if pretrain["encoders"] else "none",
        "Methods": ", ".join(methods),
        "Cross-validation": f"{split['outer']} outer × {split['inner']} inner folds grouped by patient,"
        f" {split['repeats']} repeat(s)",
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {gpu}",
        "Software": f"Python {platform.python_version()}, {packages}",
    }


def _short(values: Mapping[str, Any]) -> str:
    """The plain values among parameters."""
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plain.items())


def samples(
    tasks: Mapping[str, Task], folds: Mapping[str, pd.DataFrame], shown: Collection[str], ingest: Path, frames: int = 6
) -> list[tuple[str, np.ndarray]]:
    """What the first scored video of each stratum (class) of the tasks whose source is `shown` shows, and a few of its
    frames, evenly spaced: uint8 (n, H, W)."""
    found = []
    for name in [name for name, task in tasks.items() if task.source in shown]:
        store = ClipStore.open(ingest / tasks[name].source / "clips")
        rows = folds[name][folds[name]["fold"] >= 0].sort_values(["stratum", "sample_id"]).drop_duplicates("stratum")
        for sample_id, label in rows[["sample_id", "label"]].itertuples(index=False, name=None):
            video = store.frames(sample_id)
            places = np.linspace(0, len(video) - 1, frames).round().astype(int)
            found.append((f"{label} · {sample_id}", np.asarray(video[places])))
    return found


def sources(ingest: Path, names: Iterable[str]) -> pd.DataFrame:
    """One row per source of the study; `ingest` is the folder of their manifests."""
    rows = []
    for name in names:
        manifest = read_manifest(ingest / name / "manifest.parquet")
        drawn = bool(manifest["license"].str.startswith(PHANTOM_LICENSE).fillna(False).all())
        rows.append([name, len(manifest), manifest["patient_id"].nunique(), int(manifest["frames"].sum()), drawn])
    return pd.DataFrame(rows, columns=["source", "videos", "patients", "frames", "drawn"])


def encoders(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """One row per arm, from its encoder folders; where its seeds differ, their values are listed."""
    rows = []
    for arm, folder in ((arm, folder) for arm, found in folders.items() for folder in found):
        record = read_record(folder)
        shape = record.settings.model_dump(mode="json")
        pool = f"{record.trained_on_source}, {len(record.trained_on)} videos" if record.steps else "nothing"
        encoder = f"{shape.pop('kind')}: {_short(shape)}"
        weights = record.weights_sha256[:12]
        rows.append([arm, encoder, record.objective, pool, str(record.steps), str(record.seed), weights])
    table = pd.DataFrame(rows, columns=["arm", "encoder", "objective", "pretrained on", "steps", "seed", "weights"])
    return table.groupby("arm", sort=False, as_index=False).agg(_listed)


def _listed(cells: pd.Series) -> str:
    return ", ".join(dict.fromkeys(cells))


def read_history(folders: Iterable[Path]) -> pd.DataFrame:
    """history.csv of all encoder folders (<encoder>/seed<k>) that have one, with columns encoder and seed."""
    tables = []
    for folder in dict.fromkeys(folders):
        if (folder / "history.csv").is_file():
            table = pd.read_csv(folder / "history.csv")
            tables.append(table.assign(encoder=folder.parent.name, seed=int(folder.name.removeprefix("seed"))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def effective_ranks(features: Iterable[Path]) -> pd.DataFrame:
    """How many directions the features in embed/<source>/<arm>/seed<k> span: over seeds; `most` is what is possible."""
    rows = []
    for folder in features:
        record = Features.open(folder).record
        *_, source, arm, _ = folder.parts
        rows.append([source, arm, record.effective_rank, min(record.shape[0], record.shape[3])])
    named = {"seeds": ("rank", "size"), "mean": ("rank", "mean"), "low": ("rank", "min"), "high": ("rank", "max")}
    grouped = pd.DataFrame(rows, columns=["source", "arm", "rank", "most"]).groupby(["source", "arm"], sort=False)
    return grouped.agg(**named, most=("most", "first")).reset_index()
