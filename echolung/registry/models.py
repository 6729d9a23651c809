"""Registered models: one name per study and task, one version per promotion, and the alias `champion`.

Tags of the versions are the history: `follows`, the champion before, and `history`, a line (UTC) for each time that the
version became champion or was rolled back.
"""

import datetime
import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import CheckpointError, NoChampionError, RegistryError
from echolung.serving.model import Model, read_model
from echolung.serving.request import CONTENT
from echolung.tracking.run import Run
from echolung.tracking.store import Store

CHAMPION = "champion"
ROLLED_BACK = "rolled back"  # so begins the last event of a version that must not be promoted again
FOLDER = "model"  # the model folder within MLflow's artifacts
REQUIREMENTS = [
    "mlflow", "nibabel", "numpy", "opencv-python-headless", "pandas", "psutil", "pydantic", "pydicom", "python-gdcm",
    "pyyaml", "safetensors", "scikit-learn", "scipy", "segmentation-models-pytorch", "timm", "torch", "torchcodec",
]  # fmt: skip


@dataclass(frozen=True)
class Version:
    """One version of a registered model, its files on this machine."""

    name: str
    number: int
    tags: Mapping[str, str]
    artifacts: Path  # MLflow's folder of it

    @property
    def folder(self) -> Path:
        """The model folder: `serving.model.Model.open`."""
        return self.artifacts / "artifacts" / FOLDER


def model_name(study: str, task: str) -> str:
    """`echolung-<study>-<task>`: a champion of a phantom study never answers for a real one."""
    return f"echolung-{study}-{task}"


def champion(store: Store, study: str, task: str) -> Version:
    """The champion; raises NoChampionError if there is none, RegistryError if its files are gone or damaged."""
    name = model_name(study, task)
    if (number := champion_number(store, name)) is None:
        raise NoChampionError(f"{name} has no champion yet", f"Run `echolung promote {task}`.")
    return find_version(store, name, number)


def champion_number(store: Store, name: str) -> int | None:
    """The champion's version number, without a look at its files; None if there is none."""
    with store.connected() as client:
        aliases = [model.aliases for model in client.search_registered_models(f"name = '{name}'")]
    return int(aliases[0][CHAMPION]) if aliases and CHAMPION in aliases[0] else None


def version_files(store: Store, client: Any, name: str, number: int) -> Version:
    """One version and where its files are: in place if that is on this machine, else a copy."""
    from mlflow.artifacts import download_artifacts

    uri = client.get_model_version_download_uri(name, str(number))
    folder = Path(download_artifacts(uri, tracking_uri=store.uri, registry_uri=store.uri))
    return Version(name, number, dict(client.get_model_version(name, str(number)).tags), folder)


def find_version(store: Store, name: str, number: int) -> Version:
    """One version; raises RegistryError if its files are gone or damaged."""
    from mlflow.exceptions import MlflowException

    with store.connected() as client:
        tags = dict(client.get_model_version(name, str(number)).tags)
        try:
            version = version_files(store, client, name, number)
            read_model(version.folder)
        except (MlflowException, OSError, CheckpointError) as error:
            task = tags.get("task", "TASK")
            problem = f"the files of {name} version {number} cannot be read ({str(error).splitlines()[0]})"
            remedy = f"Return to the champion before it, `echolung rollback {task}`, or register it again"
            raise RegistryError(problem, f"{remedy}, `echolung promote {task} --reset`.") from error
    return version


def versions(store: Store, name: str) -> list[tuple[int, dict[str, str]]]:
    """Number and tags of every version, oldest first."""
    with store.connected() as client:
        found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted((int(one.version), dict(one.tags)) for one in found)


def register(
    store: Store, run: Run, study: str, task: str, model: Path, columns: Mapping[str, str], tags: Mapping[str, str],
    description: str,
) -> Version:  # fmt: skip
    """Log the folder `model` with the run and register it as a new version, which is not the champion yet.
    `columns` are those of its answers, with their types (string, double, boolean)."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    name = model_name(study, task)
    inputs = Schema([ColSpec("string", CONTENT, required=False)])
    outputs = Schema([ColSpec(kind, column) for column, kind in columns.items()])
    number = log_version(
        store, run, name, f"Video files in, answers to {task} out.", "pyfunc.py", model, {**tags, "task": task},
        description, signature=ModelSignature(inputs, outputs), input_example=pd.DataFrame({CONTENT: ["AAAA"]}),
    )  # fmt: skip
    return find_version(store, name, number)


def log_version(
    store: Store, run: Run, name: str, about: str, script: str, folder: Path, tags: Mapping[str, str], description: str,
    **options: Any,
) -> int:  # fmt: skip
    """Log `folder`, as a model that `serving/<script>` reads, with the run; its number as a new version of `name`."""
    import mlflow.pyfunc

    package = Path(__file__).parents[1]
    with store.connected() as client, tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            f"{temporary}/mlflow",
            python_model=str(package / "serving" / script),
            artifacts={FOLDER: str(folder)},
            code_paths=[str(package)],  # it can be served where EchoLung is not installed
            pip_requirements=[f"{one}=={importlib.metadata.version(one)}" for one in REQUIREMENTS],
            **options,
        )
        experiment = client.get_run(run.id).info.experiment_id
        logged = client.create_logged_model(experiment, FOLDER, source_run_id=run.id)
        client.log_model_artifacts(logged.model_id, f"{temporary}/mlflow")
        client.finalize_logged_model(logged.model_id, "READY")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=about)
        # A local store would look up the model's URI in MLflow's global store.
        source = logged.artifact_location if store.artifacts else logged.model_uri
        given = {"description": description, "model_id": logged.model_id}
        return int(client.create_model_version(name, source, run.id, dict(tags), **given).version)


def make_champion(store: Store, name: str, number: int) -> None:
    """Point the alias at a version."""
    with store.connected() as client:
        client.set_registered_model_alias(name, CHAMPION, str(number))


def note(store: Store, name: str, number: int, event: str) -> None:
    """Add a line to a version's tag `history`."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with store.connected() as client:
        lines = client.get_model_version(name, str(number)).tags.get("history", "").splitlines()
        client.set_model_version_tag(name, str(number), "history", "\n".join([*lines, f"{now} {event}"]))


def rolled_back_at(tags: Mapping[str, str]) -> str:
    """When a version was rolled back (UTC); "" if it never was, or is champion again."""
    when, _, event = tags.get("history", "").rpartition("\n")[2].partition(" ")
    return when if event.startswith(ROLLED_BACK) else ""


def roll_back(store: Store, study: str, task: str, to: int | None = None) -> tuple[int, Version]:
    """Make the version that the champion followed the champion again, or version `to`, if it ever was champion.
    Returns the number of the champion before, and the champion now. The present one may be damaged or gone. Raises
    RegistryError or CheckpointError, and changes nothing, if there is nothing to return to or it cannot be loaded."""
    name = model_name(study, task)
    if (present := champion_number(store, name)) is None:
        raise NoChampionError(f"{name} has no champion to roll back", f"Run `echolung promote {task}`.")
    tags = dict(versions(store, name))
    were = {number for number, own in tags.items() if "history" in own}
    were |= {int(own["follows"]) for own in tags.values() if own.get("follows")}
    others = sorted(were & set(tags) - {present})
    target = to or int(tags[present].get("follows") or 0)
    if target not in others:
        said = f"{name} version {present} is the champion and followed no other"
        said = f"{name} version {target} is not an earlier champion" if target else said
        listing = f"Earlier champions: {', '.join(map(str, others))} (`--to {others[-1]}`)." if others else ""
        raise RegistryError(said, listing or "There was no other.")
    version = find_version(store, name, target)
    Model.open(version.folder)
    # The note first: if this is interrupted here, `promote` must not bring the version back.
    note(store, name, present, f"{ROLLED_BACK} to version {target}")
    make_champion(store, name, target)
    note(store, name, target, f"champion again, rolled back from version {present}")
    return present, version
