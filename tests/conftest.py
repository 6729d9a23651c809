"""Fixtures that several test files share: one small study, run once through the whole DVC graph."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # sums have one order
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no tracking store but the test's own
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Started in the background, a shell's children ignore Ctrl-C, and so would the programs whose Ctrl-C is tested.
with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)


STUDY = ("test_pipeline.py", "test_seams.py")
"""Files that use the small study: one process makes it, and begins with it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in STUDY)


@pytest.hookimpl(optionalhook=True)  # without xdist, too
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file run in one process; the files of STUDY in the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "study" if file.endswith(STUDY) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@dataclass(frozen=True)
class Project:
    """A clone of this project with its own data, and ways to call it as a user would."""

    root: Path
    plugins: str = ""
    """ECHOLUNG_PLUGINS: modules below tests/ that register what the study needs."""
    first: subprocess.CompletedProcess[str] | None = None
    """What the first `dvc repro` printed."""

    def environment(self, **more: str) -> dict[str, str]:
        """The variables under which a command is this project's, and nobody else's."""
        bin_folder = Path(sys.executable).parent
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_TRACKING", "DVC_"))}
        variables |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": f"{self.root}:{self.root / 'tests'}"}
        variables["ECHOLUNG_PLUGINS"] = self.plugins
        return variables | more

    def run(self, *command: str, timeout: int = 900, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the project's folder."""
        environment = self.environment(**variables)
        return subprocess.run(command, cwd=self.root, env=environment, text=True, capture_output=True, timeout=timeout)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command in the background, both its outputs in one pipe."""
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=self.environment(**variables), **out)

    def echolung(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`echolung ARGUMENTS`, with this project's own code."""
        return self.run(sys.executable, "-m", "echolung", *arguments)

    def change(self, **changes: Any) -> None:
        """Edit params.yaml; `a__b=1` sets a.b."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            section = params
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def clone(target: Path) -> Project:
    """The files git knows of, or would, in a repository of their own; without dvc.lock, whose outputs stay behind."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name not in ("", "dvc.lock") and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return Project(repository(target))


def made_project(root: Path, source: Path = ROOT) -> Path:
    """The folder with dvc.yaml and params.yaml, which make it a project."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(source / name, root)
    return root


def called(*words: str, code: int = 0) -> str:
    """What `echolung WORDS` prints in this process; it ends with this exit code and without a traceback."""
    from click.testing import CliRunner

    from echolung.cli.main import main

    done = CliRunner().invoke(main, words)
    assert done.exit_code == code and "Traceback" not in done.output, done.output
    return done.output


def refused(*words: str) -> str:
    """What it prints when it refuses."""
    output = called(*words, code=1)
    assert output.startswith("echolung: "), output
    return output


def repository(root: Path) -> Path:
    """A git repository with everything in `root` committed."""
    for command in ("init -q", "config user.name t", "config user.email t@t", "add -A", "commit -qm t"):
        subprocess.run(["git", "-C", root, *command.split()], check=True)
    return root


def committed(root: Path) -> Path:
    """A repository of the committed parameters, conf/ and DVC imports, and of what is in `root` already."""
    for name in ("conf", ".dvc"):
        left = shutil.ignore_patterns("cache", "tmp", "__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=left, dirs_exist_ok=True)
    for path in (*(ROOT / name for name in ("params.yaml", "dvc.yaml", ".gitignore")), *ROOT.glob("data/raw/*.dvc")):
        (root / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(ROOT))
    return repository(root)


TINY = {"kind": "toy-tiles", "image_size": 32, "frames": 8, "clip_fps": 12.0}
ENCODER = {"width": 64, "depth": 2, "heads": 2, "image_size": 48, "frames": 16, "patch": 16}
SMALL: dict[str, Any] = {
    "phantom": {
        "hearts": {"layout": "echonet", "patients": 12, "frames": 20, "size": 48, "seed": 1},
        # Frame sizes give the label away: even untrained probes learn something.
        "pocus": {"layout": "pocus", "patients": 30, "frames": 20, "size": 80, "seed": 2, "nuisance_tied_to_label": 1},
    },
    "ingest__size": 48,
    "ingest__sources": {
        "hearts": {"layout": "echonet", "root": "data/raw/phantom/hearts"},
        "pocus": {"layout": "pocus", "root": "data/raw/phantom/pocus"},
    },
    "split__outer": 3,
    "split__inner": 2,
    **{f"encoder__{name}": value for name, value in ENCODER.items()},
    "draws": [0, 1],
    "pretrain__seeds": [0],
    "pretrain__training": {"steps": 6, "batch": 4, "learning_rate": 1e-3, "log_every": 2, "rank_every": 2},
    "pretrain__objectives__jepa": {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "ema": 0.99},
    # A toy in every seam (toys.py): nothing in the package knows of them.
    "pretrain__encoders": {
        "jepa": {"objective": "jepa", "pool": "hearts"},
        "toy": {"objective": "toy-brightness", "pool": "pocus", "shape": TINY},
    },
    "arms": {
        "random": {"encoder": "random", "method": ["linear", "attentive"], "role": "reference"},
        "jepa": {"encoder": "jepa", "method": ["linear", "attentive"], "role": "candidate"},
        "hand-made": {"method": "hand-made", "role": "control"},
        "source-only": {"method": "source-only", "role": "control"},
        "toy-random": {"encoder": "random", "shape": TINY, "method": ["toy-ridge"], "role": "reference"},
        "toy": {"encoder": "toy", "method": ["toy-ridge"], "role": "candidate"},
    },
    "tasks": {
        "pocus-pathology": {"kind": "classification", "source": "pocus", "label": "diagnosis", "unit": "video"}
        | {"classes": ["covid", "pneumonia", "regular"]},
        "hearts-ef": {"kind": "number", "source": "hearts", "label": "ef", "unit": "patient"},
    },
    "embed__sources": ["pocus", "hearts"],
    "fit__methods__attentive__epochs": 12,
    "report__arms": ["random", "jepa", "hand-made", "source-only", "toy-random", "toy"],
    "compare__bootstrap": 200,
    "compare__permutations": 500,
}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """Ray with two CPUs."""
    from echolung.compute.session import ray_session

    with ray_session(2):
        yield


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The phantom study at a size for tests, with a toy in every seam, made by one `dvc repro`."""
    project = clone(tmp_path_factory.mktemp("study"))
    project.change(**SMALL)
    project = Project(project.root, plugins="toys")
    first = project.run("dvc", "repro")
    assert first.returncode == 0, f"{first.stdout[-6000:]}\n{first.stderr[-6000:]}"
    return Project(project.root, "toys", first)
