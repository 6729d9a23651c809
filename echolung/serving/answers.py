"""Answers for people, as a table of at most 100 columns, and for programs, as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import listed
from echolung.methods.novelty import NoveltyRecord
from echolung.serving.model import Model

RESEARCH_ONLY = "For research use only; not a medical device."
OUTSIDE = "outside"
WIDTH, LONGEST_NAME = 100, 40


def as_json(heading: Mapping[str, Any], model: Model, answers: pd.DataFrame) -> dict[str, Any]:
    """For programs. The answer is null where `outside` is true; the numbers beside it then mean nothing."""
    facts = {"task": model.record.task_name, "unit": model.task.unit, "use": RESEARCH_ONLY}
    novelty = model.record.novelty.model_dump()
    return {**heading, **facts, "outside": novelty, "predictions": answers.to_dict("records")}


def as_text(title: str, model: Model, answers: pd.DataFrame) -> str:
    """For people: a row per file, and below it what a reader needs to know."""
    first, *others = model.kind.answer_columns(model.task)
    rows = [["file", first, *others, "distance"]]
    names = short_names([Path(path) for path in answers["video"]])
    for name, row in zip(names, answers.to_dict("records"), strict=True):
        # Numbers about a file that the model knows nothing about would be read all the same.
        shown = ["-" if row["outside"] else cell(row[column]) for column in others]
        rows.append([name, OUTSIDE if row["outside"] else cell(row[first]), *shown, f"{row['distance']:.2f}"])
    lines = [title, "", *_aligned(rows), ""]
    lines += [f"{name}: {what}" for name, what in zip(names, answers["damage"], strict=True) if what]
    known = [name for name, seen in zip(names, answers["in_training"], strict=True) if seen]
    if known:
        lines.append(f"The model was fitted on {listed(known, 5)}: these answers say nothing about new videos.")
    if answers["outside"].any():
        lines.append(words(model.record.novelty))
    if model.task.unit == "patient" and len(answers) > 1:
        without = ", without those outside" if answers["outside"].any() else ""
        lines.append(f"This task decides per patient: average the numbers of a patient's videos{without}.")
    return "\n".join([*lines, RESEARCH_ONLY])


def words(known: NoveltyRecord) -> str:
    """What `outside` means, and how often it is a false alarm."""
    rate = f"{known.measured:.1%} [{known.measured_low:.1%}, {known.measured_high:.1%}]"
    far = f"outside: farther than {known.threshold:.2f} from the {known.videos} training videos, so not answered."
    patients = f"held-out patients ({known.groups} groups; set for {known.wanted:.1%})"
    return f"{far}\nFalse alarms: {rate} of the videos of {patients}."


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders as tell them apart; long ones are cut in the middle."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    names = ["/".join(path.parts[-depth:]) for path in paths]
    half = LONGEST_NAME // 2
    return [name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}" for name in names]


def cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns side by side; if they are too many, those before the last are left out."""
    while len(rows[0]) > 3 and sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) > WIDTH:
        rows = [[*row[:-2], row[-1]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = [str.ljust, str.ljust, *[str.rjust] * len(widths)]
    return ["  ".join(end(cell, w) for end, cell, w in zip(ends, row, widths, strict=False)).rstrip() for row in rows]
