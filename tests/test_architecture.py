"""The layering, held by reading imports; and dvc.yaml's `deps`, held against what each stage really imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

FOUNDATION = {"errors", "parameters", "runtime"}
LAYERS = {  # module or package -> the echolung modules it may import (itself always allowed)
    "errors": set(),
    "parameters": {"errors"},
    "runtime": {"errors"},
    "data": FOUNDATION,
    "models": FOUNDATION,
    "pretraining": {*FOUNDATION, "models", "data.clips"},
    "evaluation": {*FOUNDATION, "models", "data"},
    "tracking": {*FOUNDATION, "data", "models", "pretraining", "evaluation"},
    "registry": {*FOUNDATION, "data", "models", "pretraining", "evaluation", "tracking"},
    "trials": {*FOUNDATION, "data", "models", "pretraining", "evaluation"},
    "reports": {*FOUNDATION, "data", "models", "pretraining", "evaluation"},
    "serving": {*FOUNDATION, "data", "models", "pretraining", "evaluation"},
    "promotion": {*FOUNDATION, "data", "models", "pretraining", "evaluation", "tracking", "registry", "serving"},
}
TOP = {"settings", "stage", "doctor", "commands", "cli"}  # may import anything; nobody below imports them

DOORS = {  # heavy dependency -> the only modules that may import it
    "ray": {"echolung.compute.trials", "echolung.compute.session", "echolung.compute.pretraining"},
    "mlflow": {"echolung.tracking", "echolung.registry.models", "echolung.serving"},
    "great_expectations": {"echolung.gates"},
    "torchcodec": {"echolung.data.ffmpeg", "echolung.data.packets", "echolung.data.video"},
    "timm": {"echolung.models"},
    "segmentation_models_pytorch": {"echolung.models"},
    "click": {"echolung.cli.main", "echolung.cli.champions", "echolung.stage", "pipelines"},
    "dvc": set(),
}
CORE_ALLOWED = {"torch", "numpy", "scipy", "sklearn", "pandas", "timm", "safetensors", "pydantic", "echolung"}
CORE_PREFIXES = ("echolung.models", "echolung.pretraining", "echolung.evaluation")
CORE_EXCEPT = {"echolung.compute.session", "echolung.compute.pretraining"}
CORE_ALSO = {
    "echolung.data.clips",
    "echolung.phantom.simulator",
    "echolung.phantom.heart",
    "echolung.phantom.lung",
}
TORCH_FREE = {"echolung.kinds.metrics", "echolung.evaluation.statistics"}
# Modules that cannot change what a stage writes: they load parameters, hold locks and record.
RECORDING = {"errors", "parameters", "runtime", "settings", "stage", "tracking"}
GATE = "echolung.gates.gate"  # every stage ends at its gate, through echolung.stage


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
            assert node.level == 0, f"{module} imports relatively; say the whole name"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in FILES else str(node.module))
    return frozenset(found)


def under(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("echolung.")])
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    inside = module.removeprefix("echolung.")
    layer = inside.split(".")[0]
    if layer in TOP:
        return
    assert layer in LAYERS, f"{module} belongs to no layer: give it a place in the design first"
    for target in imports(module):
        if not target.startswith("echolung."):
            assert not target.startswith("pipelines"), f"{module} imports {target}"
            continue
        name = target.removeprefix("echolung.")
        allowed = under(name, layer) or any(under(name, place) for place in LAYERS[layer])
        assert allowed, f"{module} may not import {target}"


@pytest.mark.parametrize("module", sorted(FILES))
def test_heavy_dependencies_enter_by_one_door(module: str) -> None:
    for target in imports(module):
        doors = DOORS.get(target.split(".")[0])
        if doors is not None:
            assert any(under(module, door) for door in doors), f"{module} imports {target}; its door is {sorted(doors)}"


@pytest.mark.parametrize("module", sorted(FILES))
def test_the_core_runs_on_a_machine_with_little_installed(module: str) -> None:
    import sys

    core = (module.startswith(CORE_PREFIXES) and module not in CORE_EXCEPT) or module in CORE_ALSO
    for target in imports(module):
        top = target.split(".")[0]
        if core:
            assert top in CORE_ALLOWED or top in sys.stdlib_module_names, f"core module {module} imports {target}"
        if module in TORCH_FREE:
            assert top != "torch", f"{module} is plain numpy"


def test_pipelines_do_not_import_each_other_and_nobody_imports_them() -> None:
    for module in FILES:
        for target in imports(module):
            assert not target.startswith("pipelines."), f"{module} imports {target}"


@cache
def reachable(module: str) -> frozenset[str]:
    """The echolung modules that running `module` can execute, the recording ones not followed."""
    seen = {GATE}
    waiting = [module, GATE]
    while waiting:
        current = waiting.pop()
        for target in imports(current) & FILES.keys():
            if target not in seen and target.split(".")[1:2] and target.split(".")[1] not in RECORDING:
                seen.add(target)
                waiting.append(target)
    return frozenset(seen)


STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def undeclared(stage: dict, stage_name: str) -> set[str]:
    """Files the stage's script reaches by import that its deps do not cover."""
    deps = [ROOT / dep for dep in stage["deps"] if "${" not in dep]
    script = FILES[f"pipelines.{stage_name}"]
    needed = {FILES[m] for m in reachable(f"pipelines.{stage_name}")} | {script}
    needed = {p for p in needed if p.name != "__init__.py" or p.read_text().count("\n") > 3}
    return {str(p.relative_to(ROOT)) for p in needed if not any(p == dep or dep in p.parents for dep in deps)}


@pytest.mark.parametrize("stage_name", sorted(STAGES))
def test_a_stage_declares_the_code_it_runs(stage_name: str) -> None:
    stage = STAGES[stage_name].get("do", STAGES[stage_name])
    assert undeclared(stage, stage_name) == set()


@pytest.mark.parametrize("stage_name", sorted(STAGES))
def test_removing_any_code_dependency_is_noticed(stage_name: str) -> None:
    stage = STAGES[stage_name].get("do", STAGES[stage_name])
    code = [dep for dep in stage["deps"] if dep.startswith(("echolung", "pipelines"))]
    for dep in code:
        assert (ROOT / dep).exists(), f"{stage_name} declares {dep}, which does not exist"
        without = {**stage, "deps": [d for d in stage["deps"] if d != dep]}
        assert undeclared(without, stage_name), f"{stage_name} declares {dep} but does not run it"


def test_params_are_the_composition_of_conf() -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        composed = OmegaConf.to_container(compose("config"), resolve=True)
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == composed


@pytest.mark.parametrize("study", [p.stem for p in sorted((ROOT / "conf/study").glob("*.yaml"))])
@pytest.mark.parametrize("scale", [p.stem for p in sorted((ROOT / "conf/scale").glob("*.yaml"))])
def test_every_study_and_scale_compose_to_valid_settings(study: str, scale: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from echolung.settings import Settings

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        composed = OmegaConf.to_container(compose("config", [f"study={study}", f"scale={scale}"]), resolve=True)
    settings = Settings.parse(composed, "conf")
    assert settings.study == study
    # DVC refuses to run a stage whose section is missing, hours after the first one began.
    for stage in STAGES.values():
        for name in stage.get("do", stage).get("params", []):
            section = name.split(".")[0]
            assert section in composed, f"study {study}, scale {scale} lack the section {section}"
