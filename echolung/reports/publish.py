"""A study's small results as a folder to commit: numbers, tables, predictions and figures, but no frame of a video."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_directory


def publish(report: Path, data: Path, tasks: Iterable[str], target: Path) -> list[Path]:
    """Write README.md (answers and tables), metrics.json, params.yaml, figures/, comparison/ and predictions/.

    From `report`, the folder of the page, and `data`, data/<study>. Returns the files; raises DataError if one is
    missing.
    """
    copied = {"README.md": report / "table.md"} | {name: report / name for name in ("metrics.json", "params.yaml")}
    copied |= {f"predictions/{task}.parquet": data / "fit" / task / "predictions.parquet" for task in tasks}
    with atomic_directory(target) as folder:
        (folder / "predictions").mkdir()
        try:
            for name, source in copied.items():
                shutil.copyfile(source, folder / name)
            shutil.copytree(data / "compare", folder / "comparison", ignore=shutil.ignore_patterns("metrics.json"))
            # Not every owner permits to pass on frames of the videos.
            shutil.copytree(report / "figures", folder / "figures", ignore=shutil.ignore_patterns("frames.png"))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} does not exist", "Run `dvc repro` first.") from None
    return sorted(path for path in target.rglob("*") if path.is_file())
