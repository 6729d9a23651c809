"""Registered models: one name per study and task, one version per promotion, and the alias `champion`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import NoChampionError, RegistryError
from echolung.core.runtime import digest, sha256_file
from echolung.tracking.run import Run
from echolung.tracking.store import Store, reported

CHAMPION = "champion"
FOLDER = "classifier"
"""Where the classifier lies within the model's artifacts."""
REQUIREMENTS = ["mlflow", "numpy", "pandas", "pydantic", "safetensors", "scipy", "torch", "torchcodec"]
INPUTS = ("video", "content")
"""Columns of a request: a path, or the bytes of a video file as base64; one of them in each row."""
EXAMPLE = pd.DataFrame({"video": ["clip.mp4"]})
DIGEST = "classifier_digest"
"""Tag of a version: digest of its classifier's files, which are looked at whenever the version is asked for."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model, its files on this machine."""

    name: str
    number: int
    tags: Mapping[str, str]
    model: Path
    """MLflow's model folder."""

    @property
    def classifier(self) -> Path:
        """The classifier's folder: `serving.classifier.Classifier.open`."""
        return self.model / "artifacts" / FOLDER


def model_name(study: str, task: str) -> str:
    """`echolung-<study>-<task>`: a phantom champion can never stand in for a real one."""
    return f"echolung-{study}-{task}"


def find_champion(store: Store, study: str, task: str) -> Version | None:
    """The champion, or None if the task has none; raises RegistryError if its files are gone or damaged."""
    name = model_name(study, task)
    number = champion_number(store, name)
    return None if number is None else find_version(store, name, number)


def champion_number(store: Store, name: str) -> int | None:
    """The champion's version number, its files untouched; None if there is none."""
    from mlflow.exceptions import MlflowException

    with reported(store):
        try:
            return int(store.client().get_model_version_by_alias(name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model; no such alias
                return None
            raise


def find_version(store: Store, name: str, number: int) -> Version:
    """One version; raises RegistryError if it does not exist, or if its files are gone or not those registered."""
    from mlflow.exceptions import MlflowException

    with reported(store):
        try:
            found = store.client().get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RegistryError(f"{name} has no version {number}", "See the registry: `echolung ui`.") from None
    version = Version(name, number, dict(found.tags), _files(store, found))
    if folder_digest(version.classifier) != version.tags.get(DIGEST):
        raise _gone(found, f"{version.classifier} does not hold what was registered")
    return version


def versions(store: Store, name: str) -> list[tuple[int, dict[str, str]]]:
    """Number and tags of every version, oldest first."""
    with reported(store):
        found = store.client().search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted((int(one.version), dict(one.tags)) for one in found)


def model_tags(store: Store, name: str) -> dict[str, str]:
    """The tags of a registered model; none if there is no such model."""
    from mlflow.exceptions import MlflowException

    with reported(store):
        try:
            return dict(store.client().get_registered_model(name).tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def champion(store: Store, study: str, task: str) -> Version:
    """The champion; raises NoChampionError with the remedy if there is none."""
    found = find_champion(store, study, task)
    if found is None:
        raise NoChampionError(f"{model_name(study, task)} has no champion yet", f"Run `echolung promote {task}`.")
    return found


def register(
    store: Store,
    run: Run,
    study: str,
    task: str,
    classifier: Path,
    columns: Mapping[str, str],
    tags: Mapping[str, str],
    description: str,
) -> Version:
    """Log the folder `classifier` as the run's model and register it as a new version, not yet the champion.

    `columns` are those it answers with, and their types (string, double).
    """
    import mlflow
    from mlflow.models.model import Model

    assert classifier.name == FOLDER, f"the folder is named {FOLDER}"
    name = model_name(study, task)
    with reported(store), _fluent(store):
        with mlflow.start_run(run_id=run.id):
            info: Model = mlflow.pyfunc.log_model(
                name=FOLDER,
                python_model=str(Path(__file__).parents[1] / "serving" / "pyfunc.py"),
                artifacts={FOLDER: str(classifier)},
                code_paths=[str(Path(__file__).parents[1])],  # it can be served where EchoLung is not installed
                signature=_signature(columns),
                input_example=EXAMPLE,
                pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
            )
        client = store.client()
        _ensure_model(client, name, task)
        tags = {**tags, "task": task, DIGEST: folder_digest(classifier)}
        found = client.create_model_version(
            name, info.model_uri, run.id, tags=tags, description=description, model_id=info.model_id
        )
    return find_version(store, name, int(found.version))


def make_champion(store: Store, version: Version) -> None:
    """Point the alias at this version."""
    with reported(store):
        store.client().set_registered_model_alias(version.name, CHAMPION, str(version.number))


def load_pyfunc(version: Version) -> Any:
    """The model as MLflow serves it: `.predict(DataFrame with the column video)`."""
    import mlflow.pyfunc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(str(version.model))


def _ensure_model(client: Any, name: str, task: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description=f"Video files in, probabilities of {task} out. Research use only; not a medical device."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _files(store: Store, found: Any) -> Path:
    """The version's files on this machine: in place if they are here, else downloaded."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        uri = store.client().get_model_version_download_uri(found.name, found.version)
        folder = Path(download_artifacts(uri, tracking_uri=store.uri, registry_uri=store.uri))
    except (MlflowException, OSError) as error:
        raise _gone(found, str(error)) from error
    if not (folder / "artifacts" / FOLDER).is_dir():
        raise _gone(found, f"no {FOLDER} in {folder}")
    return folder


def _gone(found: Any, reason: str) -> RegistryError:
    task = found.tags.get("task", "TASK")
    return RegistryError(
        f"the files of {found.name} version {found.version} cannot be read ({reason.splitlines()[0]})",
        "If the project was moved, move it back; else go back to the champion before it, `echolung rollback"
        f" {task}`, or register it anew, `echolung promote {task} --reset`.",
    )


def folder_digest(folder: Path) -> str:
    """Of the names and bytes of all files in a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return digest([[str(path.relative_to(folder)), sha256_file(path)] for path in files])


def _signature(columns: Mapping[str, str]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    outputs = [ColSpec(kind, name) for name, kind in columns.items()]
    inputs = [ColSpec("string", name, required=False) for name in INPUTS]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


@contextlib.contextmanager
def _fluent(store: Store) -> Iterator[None]:
    """MLflow's logging of models knows its store only as a global: set for the block, and put back.

    MLflow mirrors the global in the environment, where it would outlive the block and redirect whatever runs next.
    """
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    logger = logging.getLogger("mlflow")
    level = logger.level
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
