"""The layering, held by reading imports; and dvc.yaml's `deps`, held against what each stage really imports."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from echolung.composition import _compose
from echolung.settings import Settings

ROOT = Path(__file__).parents[1]

BOTTOM = {"core", "data", "phantom", "models", "hearts"}
MIDDLE = {"embedding", "pretraining", "kinds", "methods", "evaluation"}
LAYERS = {  # package -> the echolung packages it may import (itself always allowed)
    "core": set(),
    "data": {"core"},
    "phantom": {"core", "data"},
    "models": {"core"},
    "hearts": {"core"},
    "embedding": {"core", "data", "models"},
    "pretraining": {"core", "models", "data.clips"},
    "kinds": {"core", "data", "evaluation", "hearts"},
    "methods": BOTTOM - {"phantom"}
    | {"embedding", "kinds", "evaluation.statistics", "pretraining.checkpoint", "pretraining.mae"},
    "evaluation": {"core", "data", "kinds", "methods.arms"},
    "gates": {"core"},
    "compute": BOTTOM | MIDDLE,
    "tracking": BOTTOM | MIDDLE,
    "serving": BOTTOM | MIDDLE,
    "registry": BOTTOM | MIDDLE | {"tracking", "serving"},
    "reports": BOTTOM | MIDDLE | {"gates.gate"},
}
TOP = {"settings", "composition", "stage", "doctor", "cli", "__main__"}  # import anything; nothing below imports them

DOORS = {  # heavy dependency -> the only modules that may import it
    "ray": {"echolung.compute"},
    "mlflow": {"echolung.tracking", "echolung.registry", "echolung.serving"},
    "great_expectations": {"echolung.gates"},
    "torchcodec": {*(f"echolung.data.{name}" for name in ("ffmpeg", "packets", "video")), "echolung.serving.explain"},
    "captum": {"echolung.methods.gradcam"},
    "pydicom": {"echolung.data.dicom"},
    "timm": {"echolung.models"},
    "segmentation_models_pytorch": {"echolung.models", "echolung.methods"},
    "click": {"echolung.cli", "pipelines"},
    "hydra": {"echolung.composition", "echolung.doctor"},
    "dvc": set(),
}
CORE_ALLOWED = {
    *("torch", "numpy", "scipy", "sklearn", "pandas", "timm", "segmentation_models_pytorch", "cv2", "safetensors"),
    *("captum", "pydantic", "echolung"),
}
CORE_PREFIXES = tuple(
    f"echolung.{name}" for name in ("models", "pretraining", "methods", "kinds", "evaluation", "hearts")
)
CORE_EXCEPT = {"echolung.kinds.figures"}
CORE_ALSO = {
    *("echolung.data.clips", "echolung.data.masks", "echolung.embedding.embed", "echolung.embedding.features"),
    *("echolung.phantom.simulator", "echolung.phantom.heart", "echolung.phantom.lung"),
}
TORCH_FREE = {"echolung.kinds.metrics", "echolung.evaluation.statistics", "echolung.hearts.volumes"}
# Modules that cannot change what a stage writes: they load parameters, hold locks and record.
RECORDING = {"core", "settings", "stage", "tracking", "registry"}
GATE = "echolung.gates.gate"  # every stage ends at its gate, through echolung.stage
# What a stage imports for names or types alone: nothing there decides what it writes.
NAMES_ONLY = dict.fromkeys(("compare", "report"), "echolung.methods.methods")
NAMES_ONLY |= dict.fromkeys(("split", "fit"), "echolung.evaluation")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for folder in ("echolung", "pipelines") for p in sorted((ROOT / folder).rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module the file imports, wherever in it: `from a.b import c` counts as a.b.c if that is a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the whole name"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in FILES else str(node.module))
    return frozenset(found)


def under(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("echolung.")])
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    layer = module.split(".")[1]
    if layer in TOP:
        return
    assert layer in LAYERS, f"{module} belongs to no layer: add it to LAYERS"
    for target in imports(module):
        if target.startswith("echolung."):
            name = target.removeprefix("echolung.")
            allowed = under(name, layer) or any(under(name, place) for place in LAYERS[layer])
            assert allowed, f"{module} may not import {target}"


@pytest.mark.parametrize("module", sorted(FILES))
def test_heavy_dependencies_enter_by_one_door_the_core_needs_little_and_no_pipeline_is_imported(module: str) -> None:
    core = (module.startswith(CORE_PREFIXES) and module not in CORE_EXCEPT) or module in CORE_ALSO
    for target in imports(module):
        assert not target.startswith("pipelines"), f"{module} imports {target}"
        top = target.split(".")[0]
        doors = DOORS.get(top)
        if doors is not None:
            assert any(under(module, door) for door in doors), f"{module} imports {target}; its door is {sorted(doors)}"
        if core:
            assert top in CORE_ALLOWED or top in sys.stdlib_module_names, f"core module {module} imports {target}"
        if module in TORCH_FREE:
            assert top != "torch", f"{module} is plain numpy"


def reachable(stage: str) -> frozenset[str]:
    """The echolung modules that a stage's script can execute, the recording ones not followed."""
    seen, waiting = {GATE}, [f"pipelines.{stage}", GATE]
    ignored = NAMES_ONLY.get(stage, "-")
    while waiting:
        for target in (imports(waiting.pop()) & FILES.keys()) - seen:
            if target.partition(".")[2].split(".")[0] not in {*RECORDING, ""} and not under(target, ignored):
                seen.add(target)
                waiting.append(target)
    return frozenset(seen)


GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = {name: stage.get("do", stage) for name, stage in GRAPH.items()}


def undeclared(deps: list[str], name: str) -> set[str]:
    """Files the stage's script reaches by import that the deps do not cover."""
    needed = {FILES[module].relative_to(ROOT) for module in reachable(name) | {f"pipelines.{name}"}}
    return {str(p) for p in needed if p.name != "__init__.py" and not any(p.is_relative_to(dep) for dep in deps)}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_declares_the_code_it_runs_and_no_other_and_caches_its_outputs(name: str) -> None:
    deps = [dep for dep in STAGES[name]["deps"] if "${" not in dep]
    assert undeclared(deps, name) == set()
    for dep in [dep for dep in deps if dep.startswith(("echolung", "pipelines"))]:
        assert (ROOT / dep).exists(), f"{name} declares {dep}, which does not exist"
        assert undeclared([one for one in deps if one != dep], name), f"{name} declares {dep} but does not run it"
    # What DVC does not cache, or keeps between runs, a second clone would have to compute again.
    for out in [*STAGES[name].get("outs", []), *STAGES[name].get("metrics", [])]:
        options = next(iter(out.values())) if isinstance(out, dict) else {}
        assert not {"persist", "cache"} & options.keys(), f"{name}: {out}"


def test_params_are_the_composition_of_conf() -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == _compose(ROOT, [])


@pytest.mark.parametrize("study", [p.stem for p in sorted((ROOT / "conf/study").glob("*.yaml"))])
@pytest.mark.parametrize("scale", [p.stem for p in sorted((ROOT / "conf/scale").glob("*.yaml"))])
def test_every_study_and_scale_compose_to_valid_settings(study: str, scale: str) -> None:
    composed = _compose(ROOT, [f"study={study}", f"scale={scale}"])
    settings = Settings.parse(composed, "conf")
    assert (settings.study, settings.scale) == (study, scale)
    # DVC refuses to run a stage whose parameter is missing, hours after the first one began.
    for stage in STAGES.values():
        for name in stage.get("params", []):
            value = composed
            for part in name.split(".") if "${" not in name else [name.split(".")[0]]:
                assert part in value, f"study {study}, scale {scale} lack the parameter {name}"
                value = value[part]
