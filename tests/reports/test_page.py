"""The report page needs no other file, shows every number, says nothing twice, and treats names as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import HOSTILE, NUMBER, NUMBERS, TABLES, TASKS, Number, compared

from echolung.core.runtime import write_json
from echolung.evaluation.comparison import Comparison
from echolung.kinds.kinds import KINDS
from echolung.reports.page import ReportInputs, write_report
from echolung.reports.samples import Sample
from echolung.reports.tables import table_text, task_tables

ALL = {**TASKS, "ef": NUMBER}


@pytest.fixture(scope="module", autouse=True)
def number() -> Iterator[None]:
    """A second kind of task, which the package does not know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "number", Number())
        yield


@pytest.fixture(scope="module")
def comparison(number: None) -> Comparison:
    return compared({**TABLES, "ef": NUMBERS}, ALL)


@pytest.fixture(scope="module")
def report(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("study")
    unmet = {"success": False, "severity": "critical", "table": "rows", "meaning": "p is one", "observed": "7"}
    finding = {"stage": "fit", "key": "lung", "success": False, "rows": {"rows": 3}, "expectations": [unmet]}
    write_json(folder / "validation" / "fit-lung.json", finding | {"summary": {"expectations": 1, "passed": 0}})
    (folder / "metrics.json").write_text("{}")
    ranks = [("pocus", "jepa", 1, 3.5, 3.5, 3.5, 80), ("pocus", "random", 3, 15.2, 14.7, 15.7, 80)]
    inputs = ReportInputs(
        study="phantom",
        comparison=comparison,
        tasks=ALL,
        arms=["jepa", "random", "hand-made"],
        facts={"Code": "git abc1234", "scale": HOSTILE},
        sources=pd.DataFrame({"source": ["pocus"], "videos": [80], "minutes": [math.nan]}),
        ranks=pd.DataFrame(ranks, columns=["source", "arm", "seeds", "mean", "low", "high", "most"]),
        history=pd.DataFrame({"encoder": "jepa-0", "seed": 0, "step": range(30), "loss": 1 / (1 + np.arange(30))}),
        encoder_of={"jepa": "jepa-0"},
        validation=folder / "validation",
        samples=[Sample(f"covid · {HOSTILE}", np.full((3, 16, 16), 90, np.uint8))],
        commands=[("make demo", "everything")],
        phantom=True,
        beside=[folder / "metrics.json"],
    )
    return write_report(inputs, folder / "report"), folder / "report"


class Page(HTMLParser):
    """The tags, addresses, ids and text of a page, whose tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.addresses, self.ids, self.text, self.open = set[str](), list[str](), set[str](), "", [""]
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == [""]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open += [tag] if tag not in ("meta", "img") else []
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.ids |= {value or "" for name, value in attributes if name == "id"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(report: tuple[pd.DataFrame, Path]) -> Page:
    return Page(report[1] / "index.html")


def test_the_page_needs_no_other_file_and_names_are_text(page: Page) -> None:
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= page.ids
    assert not {"script", "link"} & page.tags
    assert not any(outside in page.source for outside in ("http://", "https://", "@import", "url("))
    assert HOSTILE in page.text


def test_every_estimate_and_difference_is_on_the_page(page: Page, comparison: Comparison) -> None:
    for view in ("main", "pairs", "methods", "metrics"):
        for table in task_tables(comparison, ALL, view):  # type: ignore[arg-type]
            for cell in [cell for row in table.rows for cell in (row.label, *row.cells)]:
                assert cell in page.text


def test_the_page_says_nothing_twice(page: Page) -> None:
    sentences = re.findall(r"[A-Z][a-z][^.;:\d\n]{40,}\.", page.text)
    assert len(set(sentences)) == len(sentences) > 5


@pytest.mark.parametrize(
    "text",
    [
        "Partly collapsed, by the effective rank of the features: jepa on pocus (3.5, reference 15.2)",
        "fit of lung: critical: expected of rows: p is one; found: 7",
        "All videos are drawn phantoms",
        "Research use only",
        "per patient: 40 patients, 80 videos",
        "make demo",
        "git abc1234",
        "classes: 0, 1",
        "ef: jepa (absolute error −",
        "0.12 [−1.50, 1.25]",  # a table of the toy kind that no figure draws
    ],
)
def test_the_page_says(page: Page, text: str) -> None:
    assert text in page.text


def test_every_file_is_listed_and_each_kind_has_its_own_figures(report: tuple[pd.DataFrame, Path], page: Page) -> None:
    table, directory = report
    assert set(table["path"]) == {str(path) for path in directory.rglob("*") if path.is_file()}
    assert all(Path(path).stat().st_size == size > 0 for path, size in zip(table["path"], table["bytes"], strict=True))
    assert {"metrics.json", "table.md"} <= {path.name for path in directory.iterdir()}
    names = {
        f"{name}-{kind}" for name in ("differences", "estimates", "folds") for kind in ("classification", "number")
    }
    names |= {"confusion-classification", "scatter-number", "training", "frames"}
    assert {f"figure {name}" for name in names} <= set(table["name"])
    assert "Table: scatter" not in page.text  # drawn


def test_plots_hold_the_comparison(report: tuple[pd.DataFrame, Path], comparison: Comparison) -> None:
    plots = report[1] / "plots"
    assert all(re.fullmatch(r"\w+/[\w.-]+", str(path.relative_to(plots))) for path in plots.rglob("*.csv"))
    called = pd.read_csv(plots / "confusion" / "blues-random.csv", dtype=str).groupby(["actual", "predicted"]).size()
    counts = comparison.more["confusion"].query("task == 'blues' and arm == 'random' and method == 'attentive'")
    assert called.to_dict() == counts[counts["count"] > 0].set_index(["actual", "predicted"])["count"].to_dict()
    folds = pd.read_csv(plots / "folds" / "lung-log_loss.csv")
    assert list(folds.columns) == ["step", "jepa", "random", "hand-made", "majority"]
    table = comparison.folds.query(
        "task == 'lung' and arm == 'jepa' and method == 'attentive' and metric == 'log_loss'"
    )
    assert folds["jepa"].tolist() == pytest.approx(table["value"].tolist(), rel=1e-5)
    assert pd.read_csv(plots / "folds" / "ef-mae.csv")["hand-made"].isna().all()  # a column, though it takes no part
    assert len(pd.read_csv(plots / "training" / "jepa-0-seed0.csv")) == 30
    assert list(pd.read_csv(plots / "scatter" / "all.csv").columns) == ["true", "predicted"]


def test_what_a_run_does_not_have_is_left_out_and_nothing_stale_stays(tmp_path: Path) -> None:
    table = TABLES["blues"][~TABLES["blues"]["arm"].isin(["jepa", "hand-made"])]
    tasks = {"blues": TASKS["blues"]}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "frames.png").write_bytes(b"of a run that showed frames")
    write_report(ReportInputs(study="lung", comparison=compared({"blues": table}, tasks), tasks=tasks), tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"estimates", "confusion", "roc"}
    text = Page(tmp_path / "index.html").text
    assert "No candidate was compared with a reference" in text
    assert not any(word in text for word in ("Pretraining", "Videos", "Data checks", "phantom"))


def test_tasks_of_two_kinds_fit_one_terminal_table(comparison: Comparison) -> None:
    lines = table_text(comparison, ALL).splitlines()
    heads = [line for line in lines if line.endswith("  p")]
    assert ["absolute error − random" in line for line in heads] == [False, True]
    assert max(map(len, lines)) <= 100
