"""A classifier's answers as a person reads them, and as a program does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from echolung.methods.novelty import NoveltyRecord
from echolung.serving.model import ClassifierRecord

RESEARCH_ONLY = "For research use only; not a medical device."
OUTSIDE = "outside what the model has seen"


def as_json(model: Mapping[str, Any], record: ClassifierRecord, answers: pd.DataFrame) -> dict[str, Any]:
    """For programs. `predicted` is null where `outside` is true: the probabilities are there, and mean nothing."""
    heading = {**model, "task": record.task, "unit": record.unit, "use": RESEARCH_ONLY}
    known = record.novelty.model_dump(exclude={"sha256"})
    return {**heading, "outside": known, "predictions": answers.to_dict("records")}


def print_table(model: Mapping[str, Any], record: ClassifierRecord, answers: pd.DataFrame) -> None:
    """For people: a table on the terminal, and under it what one must know to read it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{model['model']} version {model['version']}", title_justify="left")
    table.add_column("video", overflow="fold")  # two videos of one ward begin alike
    table.add_column("predicted", style="bold")
    for name in record.classes:
        table.add_column(name, justify="right")
    table.add_column("distance", justify="right")
    damaged = answers["damage"].astype(bool).any()
    if damaged:
        table.add_column("damage")
    for row in answers.to_dict("records"):
        # Probabilities of what the model knows nothing about would be read all the same.
        shown = ["-" if row["outside"] else f"{row[f'p_{name}']:.1%}" for name in record.classes]
        cells = [row["video"], OUTSIDE if row["outside"] else row["predicted"], *shown, f"{row['distance']:.2f}"]
        table.add_row(*cells, *([row["damage"]] if damaged else []))
    console = Console()
    console.print(table)
    lines = [words(record.novelty)]
    if record.unit == "patient" and len(answers) > 1:
        without = ", those outside left out" if answers["outside"].any() else ""
        lines.append(f"A decision is about a patient: average the probabilities of a patient's videos{without}.")
    for line in [*lines, RESEARCH_ONLY]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def words(known: NoveltyRecord) -> str:
    """What `outside` means, and how often it is said by mistake."""
    return (
        f"Outside: farther than {known.threshold:.2f} from the {known.videos} training videos."
        f" Said by mistake of {known.measured:.1%} [{known.measured_low:.1%}, {known.measured_high:.1%}] of the videos"
        f" of held-out training patients ({known.groups} groups; set for {known.wanted:.1%})."
    )
