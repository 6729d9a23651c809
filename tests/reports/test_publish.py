"""What a study leaves to be committed: its numbers and figures, and no frame of a video."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic import TABLES, TASKS, compared

from echolung.core.errors import DataError
from echolung.evaluation.comparison import Comparison, read_comparison
from echolung.reports.answer import answers
from echolung.reports.publish import made, publish

STAGES = pd.DataFrame(
    {"stage": ["fit@lung", "report"], "started": ["2026-01-02 10:00", "2026-01-03 09:00"], "minutes": [4.25, 1.0]}
).assign(revision="0123456789")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared(TABLES, TASKS)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    for name in ("metrics.json", "params.yaml", "table.md", *(f"figures/{n}.png" for n in ("differences", "frames"))):
        (folder / name).write_text(name)
    return folder


def test_what_is_published_can_be_read_back_and_holds_no_frame(comparison, report, tmp_path) -> None:
    target = tmp_path / "lung-laptop"
    files = publish(report, comparison, TASKS, TABLES, target, made("dvc exp run -S study=lung", STAGES))
    names = {str(path.relative_to(target)) for path in files}
    assert {"README.md", "table.md", "metrics.json", "params.yaml", "figures/differences.png"} <= names
    assert not any("frames" in name or name.endswith((".mp4", ".npy", ".html")) for name in names)
    pd.testing.assert_frame_equal(read_comparison(target / "comparison").pairs, comparison.pairs, check_dtype=False)
    page = (target / "README.md").read_text()
    for linked in re.findall(r"\(([\w/.]+)\)", page):
        assert (target / linked).is_file()
    assert all(answer.text in page for answer in answers(comparison, TASKS).values())
    for text in ("`dvc exp run -S study=lung`", "2026-01-02 to 2026-01-03", "Revision: 0123456789\n", "Minutes: 5\n"):
        assert text in page


def test_predictions_are_the_same_bytes_each_time(comparison, report, tmp_path) -> None:
    shuffled = {name: table.sample(frac=1, random_state=1) for name, table in TABLES.items()}
    for name, found in (("a", TABLES), ("b", shuffled)):
        publish(report, comparison, TASKS, found, tmp_path / name, {})
    path = "predictions/lung.csv.gz"
    assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    rows = pd.read_csv(tmp_path / "a" / path).query("arm == 'jepa' and method == 'attentive'").sort_values("sample_id")
    asked = TABLES["lung"].query("arm == 'jepa' and method == 'attentive'").sort_values("sample_id")
    assert rows["p_1"].to_numpy() == pytest.approx(asked["p_1"].to_numpy(), abs=5e-5)
    assert (rows["y_true"].to_numpy() == asked["y_true"].to_numpy()).all()


@pytest.mark.parametrize("missing", ["metrics.json", "figures"])
def test_an_unfinished_report_is_an_error_and_nothing_is_written(comparison, report, tmp_path, missing) -> None:
    (report / missing).rename(report / "elsewhere")
    with pytest.raises(DataError, match=f"{missing} does not exist"):
        publish(report, comparison, TASKS, TABLES, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    assert made("dvc repro", STAGES[:0])["Revision"] == "unknown"  # of a study that was not tracked
