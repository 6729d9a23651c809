"""A study's small results as a folder to commit: numbers, tables, predictions and figures, but no frame of a video.

README.md                the answers
table.md, metrics.json   every arm's metrics with intervals; the code and machine that made them
params.yaml              all parameters
comparison/              the tables of the comparison
predictions/*.csv.gz     every video's out-of-fold predictions
figures/*.png            as in the report
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_directory
from echolung.evaluation.comparison import Comparison, write_comparison
from echolung.kinds.task import Task
from echolung.reports.answer import answers

COPIED = ("table.md", "metrics.json", "params.yaml")
FRAMES = "frames.png"
"""The figure that shows videos; not every owner permits to pass them on."""


def publish(
    report: Path,
    comparison: Comparison,
    tasks: Mapping[str, Task],
    predictions: Mapping[str, pd.DataFrame],
    target: Path,
) -> list[Path]:
    """Write the folder `target` from the folder `report`, the comparison and the predictions of every task.

    Returns the files; raises DataError if the report is not complete.
    """
    missing = [name for name in (*COPIED, "figures") if not (report / name).exists()]
    if missing:
        raise DataError(f"{report / missing[0]} does not exist", "Run `dvc repro` first.")
    with atomic_directory(target) as folder:
        for name in COPIED:
            shutil.copyfile(report / name, folder / name)
        shutil.copytree(report / "figures", folder / "figures", ignore=shutil.ignore_patterns(FRAMES))
        write_comparison(comparison, folder / "comparison")
        (folder / "comparison" / "metrics.json").unlink()  # the same as the copied one
        (folder / "predictions").mkdir()
        for task, table in predictions.items():  # to four digits and without a time: always the same bytes
            rows = table.drop(columns=["task"]).sort_values(["arm", "method", "arm_seed", "repeat", "sample_id"])
            text = rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")
            (folder / "predictions" / f"{task}.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        found = answers(comparison, tasks)
        pictures = sorted(path.name for path in (folder / "figures").glob("differences*.png"))
        lines = [f"# {target.name}", "", *(f"- {task}: {answer.text}" for task, answer in found.items()), ""]
        lines += [f"![Differences from the references](figures/{name})" for name in pictures]
        lines += ["", "Every arm's metrics, and how they were made: [table.md](table.md). Research use only.", ""]
        (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return sorted(path for path in target.rglob("*") if path.is_file())
