"""Runs inside `dvc exp run`, before Hydra composes conf/ into params.yaml (.dvc/config, plugins_path).

Hydra alone would go back to the default study with every `dvc exp run -S fit.seed=1`. Here the study and the scale of
params.yaml stay unless -S names others.
"""

import os
import re
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


def main(arguments: list[str]) -> None:
    kept = read(CONF.parent / "params.yaml")
    chosen = {group: choose(group, arguments, kept) for group in ("study", "scale")}
    os.environ.update({f"ECHOLUNG_{group.upper()}": name for group, name in chosen.items() if name})
    composed = " ".join(f"{group}={name}" for group, name in chosen.items() if name)
    print(f"Composing {composed or 'the default study'}. To change it: -S study=NAME -S scale=NAME", file=sys.stderr)
    study = chosen["study"]
    written = read(CONF / "study" / f"{study}.yaml").get("study", study)
    if study and written != study:
        raise ValueError(f"conf/study/{study}.yaml says `study: {written}`. Change that line to `study: {study}`.")


main(sys.argv[1:])
