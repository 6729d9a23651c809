"""What a study leaves to be committed: its numbers and pictures, and nothing that belongs to someone else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
from test_reports import ARMS, TASKS, predictions

from echolung.core.errors import DataError
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison, read_comparison
from echolung.reports.page import FIGURES
from echolung.reports.publish import Published, publish, summary_markdown

MORE = ARMS | {("hand-made", "none"): (1, 0.0), ("jepa-blues", "attentive"): (3, 0.6)}
NAME = "lung-small"
RANKS = [("pocus", "jepa", 1, 3.52, 3.52, 3.52, 80), ("pocus", "random", 3, 15.24, 14.1, 16.38, 80)]
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
        "runs": [1, 1],
        "revision": ["0123456789"] * 2,
    }
    return Published(
        study="lung",
        name=NAME,
        command="dvc exp run -S study=lung",
        facts={"Machine": "a machine of two cores"},
        sources=pd.DataFrame({"source": ["pocus"], "videos": [80]}),
        arms=pd.DataFrame({"arm": ["jepa"], "seed": [0]}),
        ranks=pd.DataFrame(RANKS, columns=["source", "arm", "seeds", "mean", "low", "high", "most"]),
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
    assert f"**ROC curves.** {FIGURES['roc'].caption}" in page
    assert "| pocus | random | 3 | 15.2 (14.1 to 16.4) | 80 |" in page
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
    assert all("| 40 (40), 80 |" in line for line in lines)
    assert [line.endswith("(uncorrected) |") for line in lines] == [True, True, False]
    assert lines[2].endswith("(Holm) |")
    tested = comparison.pairs.query("task == 'blues' and arm == 'jepa' and reference == 'random' and primary")
    difference = tested.set_index("metric").loc["log_loss", "difference"]
    assert f"{difference:+.2f}".replace("-", "−") in lines[2]
    assert "5 minutes together" in summary_markdown(published, comparison)


def test_the_summarys_columns_stand_alone_and_controls_and_collapse_are_told(published, comparison) -> None:
    text = summary_markdown(published, comparison)
    heads = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    assert len(set(heads)) == len(heads) == text.splitlines()[1].count("---")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    told = comparison.verdicts.query("task == 'lung' and arm == 'jepa' and reference == 'hand-made'")["outcome"].item()
    (mine,) = [line for line in lines if line.startswith("- jepa against the hand-made control")]
    assert f": {told} on lung" in mine
    assert any("jepa 3.5 against 15.2 on the videos of pocus" in line for line in lines)


def test_patients_who_share_a_group_are_not_counted_as_independent(published, tables, report, tmp_path) -> None:
    """Patients 15 (lung) or 10 (blues) apart share fold and class, and here a group."""
    shared = {
        task: table.assign(
            split_group="g" + (table["patient_id"].str.extract(r"p(\d+)")[0].astype(int) % apart).map(str)
        )
        for (task, table), apart in zip(tables.items(), (15, 10), strict=True)
    }
    settings = CompareSettings(bootstrap=100, permutations=200)
    found = compare(pd.concat(shared.values(), ignore_index=True), TASKS, settings)
    publish(published, found, shared, report, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| `lung` | 40 (15), 80 | jepa |" in text
    assert "| `blues` | 40 (10), 80 | jepa |" in text
    assert "decided per video: 40 patients (15 independent groups), 80 videos" in text
    assert "40 patients (10 independent groups), 80 videos)" in text  # of a verdict
    assert "bootstrap over patients" not in text
    assert "permutation over patients" not in text


def with_revisions(published: Published, *revisions: str) -> Published:
    return dataclasses.replace(published, stages=published.stages.assign(revision=revisions))


def test_the_page_names_the_revision_that_makes_it_again(published, comparison, tables, report, tmp_path) -> None:
    publish(published, comparison, tables, report, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Every stage ran at revision `0123456789`: with params.yaml" in text
    assert "at revision `0123456789`, a machine of two cores" in text
    assert "does not describe" not in text
    both = with_revisions(published, "0123456789", "aaaaaaaaaa")
    publish(both, comparison, tables, report, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "did not all run at one revision" in text
    assert "at revisions `0123456789`, `aaaaaaaaaa`" in text


@pytest.mark.parametrize("odd", ["0123456789+changed", "unknown", "aaaaaaaaaa+changed, 0123456789"])
def test_a_revision_that_does_not_describe_the_code_is_not_offered_to_make_it_again(
    published, comparison, tables, report, tmp_path, odd
) -> None:
    publish(with_revisions(published, "0123456789", odd), comparison, tables, report, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "**The revision does not describe the code.**" in text
    assert "or its revision was not known: report." in text
    assert "makes all this again" not in text
    assert "which does not describe all of the code that ran" in (tmp_path / "out" / "summary.md").read_text()


def test_the_minutes_say_what_they_add_up(published, comparison) -> None:
    text = summary_markdown(published, comparison)
    assert "5 minutes together, each in its last finished run." in text
    stopped = dataclasses.replace(published, stages=published.stages.assign(runs=[3, 1]), untimed=["probe@lung"])
    text = summary_markdown(stopped, comparison)
    assert "last finished run (1 also in the unfinished ones before it); of probe@lung no time is known." in text


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
