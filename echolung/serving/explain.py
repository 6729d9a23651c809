"""Pictures of what answers rest on: `Method.explain`, drawn over the frames that the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_path
from echolung.serving.answers import OUTSIDE, RESEARCH_ONLY, cell
from echolung.serving.model import Model


def explain_files(model: Model, paths: Sequence[Path], folder: Path, title: str) -> pd.DataFrame:
    """Answer as `Model.predict` does, and draw each file into `folder`: <stem>.gif and <stem>.png.

    Files with the same stem get -2, -3 and so on. Raises DataError if the method cannot explain itself, DiskError if
    the folder cannot be written to, VideoError as `predict`.
    """
    from echolung.serving.pictures import Caption, Picture, write_gif, write_png

    tables, stems = [], [path.stem for path in paths]
    for place, path in enumerate(paths):
        one = model.read(path)
        tables.append(model.answer(one))
        maps = model.method.explain(one.recordings, one.name)
        if maps is None:
            problem = f"the method '{model.record.method}' cannot show what its answers rest on"
            raise DataError(problem, "Leave out --explain.")
        picture = Picture(*model.clips(one), maps)
        caption = Caption(*_answer(model, tables[-1].iloc[0]), maps.words, f"{title}. {RESEARCH_ONLY}", path.name)
        count = stems[: place + 1].count(path.stem)
        name = path.stem if count == 1 else f"{path.stem}-{count}"
        with atomic_path(folder / f"{name}.gif") as temporary:
            write_gif(temporary, picture, caption)
        with atomic_path(folder / f"{name}.png") as temporary:
            write_png(temporary, picture, caption)
    return pd.concat(tables, ignore_index=True)


def _answer(model: Model, row: pd.Series) -> tuple[str, str]:
    """The answer and its numbers, for the head of a picture."""
    if row["outside"]:
        return OUTSIDE, f"distance {row['distance']:.2f} to the training videos, threshold {row['threshold']:.2f}"
    first, *others = model.kind.answer_columns(model.task)
    return f"{first}: {cell(row[first])}", "   ".join(f"{name} {cell(row[name])}" for name in others)
