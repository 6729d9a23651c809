"""What a study leaves to be committed: its numbers and pictures, and nothing that belongs to someone else."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from test_reports import ARMS, TASKS, predictions

from echolung.errors import DataError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, read_comparison
from echolung.reports.publish import Published, publish, summary_markdown

MORE = ARMS | {("hand-made", "none"): (1, 0.0), ("jepa-blues", "attentive"): (3, 0.6)}
NAME = "lung-small"
MARKS = f"# Title\n\nbefore\n<!-- {NAME}: begin -->\nold\n<!-- {NAME}: end -->\nafter\n"


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return {"lung": predictions("lung", 3, MORE), "blues": predictions("blues", 2)}


@pytest.fixture(scope="module")
def comparison(tables: dict[str, pd.DataFrame]) -> Comparison:
    settings = CompareSettings(bootstrap=100, permutations=200, pretrained=["jepa", "jepa-blues"], main_tasks=["blues"])
    return compare(pd.concat(tables.values(), ignore_index=True), TASKS, settings)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    for name in ("metrics.json", "params.yaml", "table.md", "figures/roc.png", "figures/frames.png"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def published() -> Published:
    stages = {
        "stage": ["ingest@pocus", "report"],
        "started": ["2026-01-02 10:00"] * 2,
        "minutes": [4.25, 1.0],
        "revision": ["0123456789"] * 2,
    }
    return Published(
        study="lung",
        name=NAME,
        command="dvc exp run -S study=lung",
        facts={"Machine": "a machine of two cores"},
        sources=pd.DataFrame({"source": ["pocus"], "videos": [80]}),
        arms=pd.DataFrame({"arm": ["jepa"], "seed": [0]}),
        stages=pd.DataFrame(stages),
    )


def test_what_is_published_can_be_read_back_and_holds_no_frame(published, comparison, tables, report, tmp_path) -> None:
    target = tmp_path / "out"
    files = publish(published, comparison, tables, report, target)
    names = {str(path.relative_to(target)) for path in files}
    assert {"README.md", "summary.md", "table.md", "metrics.json", "params.yaml", "figures/roc.png"} <= names
    assert not any("frames" in name or name.endswith((".mp4", ".npy", ".html")) for name in names)
    read = read_comparison(target / "comparison")
    pd.testing.assert_frame_equal(read.pairs, comparison.pairs, check_dtype=False)
    page = (target / "README.md").read_text()
    for linked in re.findall(r"\((figures/[^)]*)\)", page):
        assert (target / linked).is_file()
    assert "a machine of two cores" in page
    for text in comparison.verdicts["text"]:
        assert text in page


def test_predictions_are_those_that_were_judged_and_the_same_bytes_each_time(
    published, comparison, tables, report, tmp_path
) -> None:
    publish(published, comparison, tables, report, tmp_path / "a")
    publish(
        published, comparison, {k: v.sample(frac=1, random_state=1) for k, v in tables.items()}, report, tmp_path / "b"
    )
    path = "predictions/lung.csv.gz"
    assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    rows = pd.read_csv(tmp_path / "a" / path)
    assert set(zip(rows["arm"], rows["probe"], strict=True)) == {
        *(("random", "attentive"), ("jepa", "attentive"), ("jepa-blues", "attentive")),
        *(("majority", "none"), ("hand-made", "none")),
    }
    asked = tables["lung"].query("arm == 'jepa' and probe == 'attentive'").sort_values("sample_id")
    found = rows.query("arm == 'jepa'").sort_values("sample_id")
    assert found["p_1"].to_numpy() == pytest.approx(asked["p_1"].to_numpy(), abs=5e-5)
    assert (found["y_true"].to_numpy() == asked["y_true"].to_numpy()).all()


def test_the_summary_names_patients_differences_and_what_explores(published, comparison) -> None:
    lines = [line for line in summary_markdown(published, comparison).splitlines() if line.startswith("| `")]
    assert [(line.split("|")[1].strip(), line.split("|")[3].strip()) for line in lines] == [
        ("`lung`", "jepa"),
        ("`lung`", "jepa-blues"),
        ("`blues`", "jepa"),
    ]
    assert all("| 40, 80 |" in line for line in lines)
    assert [("explores" in line) for line in lines] == [True, True, False]
    tested = comparison.pairs.query("task == 'blues' and arm == 'jepa' and reference == 'random' and primary")
    difference = tested.set_index("metric").loc["log_loss", "difference"]
    assert f"{difference:+.2f}".replace("-", "−") in lines[2]
    assert "5 minutes together" in summary_markdown(published, comparison)


def test_the_readme_changes_between_its_marks_alone(published, comparison, tables, report, tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(MARKS)
    publish(published, comparison, tables, report, tmp_path / "out", readme)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\nbefore\n<!-- {NAME}: begin -->\n| task |")
    assert text.endswith(f"<!-- {NAME}: end -->\nafter\n")
    assert "old" not in text
    publish(published, comparison, tables, report, tmp_path / "out", readme)
    assert readme.read_text() == text


@pytest.mark.parametrize("text", ["no marks", MARKS.replace("end -->", "ende -->"), MARKS + MARKS])
def test_a_readme_without_its_place_is_an_error_and_nothing_is_written(
    published, comparison, tables, report, tmp_path, text
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(DataError, match=f"no place for the results of {NAME}"):
        publish(published, comparison, tables, report, tmp_path / "out", readme)
    assert not (tmp_path / "out").exists()
    assert readme.read_text() == text


@pytest.mark.parametrize("missing", ["metrics.json", "figures/roc.png"])
def test_an_unfinished_report_is_an_error(published, comparison, tables, report, tmp_path, missing) -> None:
    (report / missing).unlink()
    with pytest.raises(DataError, match="does not exist"):
        publish(published, comparison, tables, report, tmp_path / "out")
    assert not (tmp_path / "out").exists()
