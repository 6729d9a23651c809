"""Runs inside `dvc exp run`, before Hydra composes conf/ into params.yaml (.dvc/config, plugins_path).

Hydra alone would go back to the default study with every `dvc exp run -S fit.seed=1`: here the study and the scale of
params.yaml stay unless -S names others. It also stops what could only fail later: a study file that names another
study, and a copy (--queue, --temp) that lacks a source's videos.
"""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[1]


def read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # Hydra and the stages report what is wrong with it
    return values if isinstance(values, dict) else {}


def choose(group: str, arguments: list[str], kept: dict[str, Any]) -> str:
    """The study or scale that will be composed: named by -S, else that of params.yaml, else "" for the default."""
    named = [match[1] for argument in arguments if (match := re.search(rf"\b{group}=[\"']?([\w-]+)", argument))]
    if named:
        return named[-1]
    name = str(kept.get(group, ""))
    return name if name and (CONF / group / f"{name}.yaml").is_file() else ""


def require_sources(study: dict[str, Any], arguments: list[str]) -> None:
    """Raise ValueError if a copy of the project would lack a source's videos: in neither Git nor DVC."""
    project = CONF.parent
    for key, source in study["ingest"]["sources"].items():
        root = re.sub(r"\$\{(\w+)\}", lambda match: str(study.get(match[1], "/")), source["root"])
        elsewhere = any(f"sources.{key}.root=" in one or "public_sets=" in one or root in one for one in arguments)
        known = key in (study.get("phantom") or {}) or any((project / f"{up}.dvc").is_file() for up in parents(root))
        if elsewhere or known or Path(root).is_absolute() or not (project / root).exists():
            continue
        if not subprocess.run(["git", "-C", project, "ls-files", root], capture_output=True, check=False).stdout:
            absolute = f"'ingest.sources.{key}.root=\"{project / root}\"'"
            raise ValueError(f"{root} is in neither Git nor DVC, so the copy would lack it. Add: -S {absolute}")


def parents(path: str) -> list[Path]:
    return [Path(path), *Path(path).parents]


def main(arguments: list[str]) -> None:
    kept = read(CONF.parent / "params.yaml")
    chosen = {group: choose(group, arguments, kept) for group in ("study", "scale")}
    os.environ.update({f"ECHOLUNG_{group.upper()}": name for group, name in chosen.items() if name})
    composed = " ".join(f"{group}={name}" for group, name in chosen.items() if name)
    print(f"Composing {composed or 'the default study'}. To change it: -S study=NAME -S scale=NAME", file=sys.stderr)
    study = read(CONF / "study" / f"{chosen['study']}.yaml")
    if study.get("study", chosen["study"]) != chosen["study"]:
        path = f"conf/study/{chosen['study']}.yaml"
        raise ValueError(f"{path} says `study: {study['study']}`. Change that line to `study: {chosen['study']}`.")
    if {"--queue", "--temp"} & set(arguments):
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # not a valid study: the stages say why
            require_sources(study, arguments)


main(sys.argv[1:])
