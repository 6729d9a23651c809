"""The report page needs no other file, shows every number, says nothing twice."""

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
from echolung.reports.answer import answers
from echolung.reports.page import ReportInputs, write_report
from echolung.reports.tables import table_text, task_tables

ALL, ALL_TABLES = {**TASKS, "ef": NUMBER}, {**TABLES, "ef": NUMBERS}
UNMET = {"success": False, "severity": "critical", "table": "rows", "meaning": "p is one", "observed": "7"}
FINDING = {"stage": "fit", "key": "lung", "rows": {"rows": 3}, "expectations": [UNMET]}
FINDING["summary"] = {"expectations": 1, "passed": 0}


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
def comparison() -> Iterator[Comparison]:
    """Of tasks of two kinds; the package does not know the second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "number", Number())
        yield compared(ALL_TABLES, ALL)


@pytest.fixture(scope="module")
def report(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("study")
    write_json(folder / "validation" / "fit-lung.json", FINDING)
    beside = [folder / "metrics.json", folder / "params.yaml"]
    for path in beside:
        path.write_text("{}")
    ranks = [("pocus", "jepa", 1, 3.5, 3.5, 3.5, 80), ("pocus", "random", 3, 15.2, 14.7, 15.7, 80)]
    few = {"patients": [10, 10, 20, np.nan], "dice": [0.7, 0.8, 0.85, 0.9]}
    inputs = ReportInputs(
        study="phantom",
        comparison=comparison,
        tasks=ALL,
        arms=["jepa", "random", "hand-made"],
        facts={"Code": "git abc1234", "scale": HOSTILE},
        sources=pd.DataFrame({"source": ["pocus"], "videos": [80], "drawn": True, "minutes": [math.nan]}),
        ranks=pd.DataFrame(ranks, columns=["source", "arm", "seeds", "mean", "low", "high", "most"]),
        history=pd.DataFrame({"encoder": "jepa-0", "seed": 0, "step": range(30), "loss": 1 / (1 + np.arange(30))}),
        encoder_of={"jepa": "jepa-0"},
        validation=folder / "validation",
        searches={"lung": pd.DataFrame(few | {"arm": "jepa"}), "ef": pd.DataFrame({"arm": ["jepa"], "penalty": [1.0]})},
        samples=[(f"covid · {HOSTILE}", np.full((3, 16, 16), 90, np.uint8))],
        revision="0123456789ab+changes",
        beside=beside,
    )
    return write_report(inputs, folder / "report"), folder / "report"


@pytest.fixture(scope="module")
def page(report: tuple[pd.DataFrame, Path]) -> Page:
    return Page(report[1] / "index.html")


def test_the_page_needs_no_other_file_and_names_are_text(page: Page) -> None:
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= page.ids
    assert not any(outside in page.source for outside in ("http://", "https://", "@import", "url("))
    assert HOSTILE in page.text and not {"script", "link"} & page.tags


def test_every_number_is_on_the_page_and_nothing_is_said_twice(page: Page, comparison: Comparison) -> None:
    for view in ("main", "pairs", "methods", "metrics"):
        for table in task_tables(comparison, ALL, view):  # type: ignore[arg-type]
            assert all(cell in page.text for row in table.rows for cell in (row[0], *row[2:]))
    sentences = re.findall(r"[A-Z][a-z][^.;:\d\n]{40,}\.", page.text)
    assert len(set(sentences)) == len(sentences) > 5
    expected = (
        "15.20 [14.70, 15.70]",  # an effective rank
        "fit of lung: critical: expected of rows: p is one; found: 7",
        "All videos are drawn phantoms",
        "Research use only",
        "blues, per patient: 40 patients, 80 videos",
        "git checkout 0123456789  # there were uncommitted changes",
        "git abc1234",
        "0, 1",  # the classes of a task
        "ef: jepa (absolute error −",
        "0.12 [−1.50, 1.25]",  # a table of the toy kind that no figure draws
    )
    assert [text for text in expected if text not in page.text] == []


def test_every_file_is_listed_and_each_kind_has_its_own_figures_and_metrics(report, page, comparison) -> None:
    table, directory = report
    assert set(table["path"]) == {str(path) for path in directory.rglob("*") if path.is_file()}
    assert all(Path(path).stat().st_size == size > 0 for path, size in zip(table["path"], table["bytes"], strict=True))
    names = {f"{name}-{kind}" for name in ("differences", "estimates") for kind in KINDS if kind in str(ALL)}
    names |= {"confusion-classification", "scatter-number", "efficiency", "training", "frames"}
    assert {f"figure {name}" for name in names} <= set(table["name"]) and "Table: scatter" not in page.text  # drawn
    lines = table_text(comparison, ALL).splitlines()
    heads = [line for line in lines if line.endswith("  p")]
    assert ["absolute error − random" in line for line in heads] == [False, True]
    assert max(map(len, lines)) <= 100


def test_what_a_run_does_not_have_is_left_out_and_nothing_stale_stays(tmp_path: Path) -> None:
    table, tasks = TABLES["blues"][~TABLES["blues"]["arm"].isin(["jepa", "hand-made"])], {"blues": TASKS["blues"]}
    write_json(tmp_path / "figures" / "frames.png", "of a run that showed frames")
    write_report(ReportInputs(study="lung", comparison=compared({"blues": table}, tasks), tasks=tasks), tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"estimates", "confusion", "roc"}
    text = Page(tmp_path / "index.html").text
    assert "No candidate was compared with a reference" in text
    assert not any(word in text for word in ("Pretraining", "Videos", "Data checks", "phantom"))


def test_the_tables_as_text_link_to_figures_that_are_there(report, comparison) -> None:
    text = (report[1] / "table.md").read_text()
    linked = re.findall(r"\(([\w/.-]+\.\w+)\)", text)
    assert linked and all((report[1] / name).is_file() for name in linked)
    assert all(answer in text for answer in answers(comparison, ALL).values())
    assert "- Code: git abc1234\n" in text
