"""The gate itself: what it writes, what it prints, what it lets pass."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import GateError
from echolung.gates.expectations import Judged, Suite, between, filled, holds, unique
from echolung.gates.gate import check, read_findings
from echolung.gates.suites import SUITES


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that knows one table of weights: a weight is given, positive, and better below 100."""

    def judge(tables: dict[str, pd.DataFrame], most: float = 100) -> list[Judged]:
        rows = tables["weights"].assign(short=tables["weights"]["name"].str.len() < 10)
        return [
            Judged(
                "weights",
                rows,
                ("name", "visit"),
                [
                    *filled("kilograms"),
                    between("kilograms", 0, None, "a weight is not negative"),
                    between("kilograms", None, most, "a weight is ordinary", "warning"),
                    unique("a visit stands once", "name", "visit"),
                    holds("short", "a name is short"),
                ],
            )
        ]

    monkeypatch.setitem(SUITES, "weigh", Suite({"weights": ["name", "visit", "kilograms"]}, judge, "Weigh again."))


def weights(*kilograms: float | None) -> pd.DataFrame:
    count = len(kilograms)
    return pd.DataFrame({"name": [f"n{i}" for i in range(count)], "visit": 1, "kilograms": kilograms})


pytestmark = pytest.mark.usefixtures("suite")


def test_a_clean_table_passes_and_leaves_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("weigh", "all", {"weights": weights(70, 80)}, tmp_path / "new" / "folder")
    (findings,) = read_findings(tmp_path / "new" / "folder")
    assert findings["stage"] == "weigh"
    assert findings["key"] == "all"
    assert findings["success"] is True
    assert findings["summary"] == {"expectations": 7, "passed": 7, "failed": 0, "warnings": 0}
    assert findings["rows"] == {"weights": 2}
    assert [one["meaning"] for one in findings["expectations"]][:2] == [
        "has rows",
        "has the columns name, visit, kilograms",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_failure_names_rows_in_error_terminal_json_and_html(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GateError) as caught:
        check("weigh", "all", {"weights": weights(70, -3, None)}, tmp_path)
    assert "kilograms is given: n2 visit 1" in caught.value.problem
    assert "1 more expectation" in caught.value.problem
    assert caught.value.remedy.startswith("Weigh again.")
    assert str(tmp_path / "weigh-all.html") in caught.value.remedy
    assert "\n" not in str(caught.value)
    printed = capsys.readouterr().err
    assert re.search(r"critical +weights +a weight is not negative +n1 visit 1 \(-3\)", printed)
    (findings,) = read_findings(tmp_path)
    assert findings["success"] is False
    assert findings["summary"] == {"expectations": 7, "passed": 5, "failed": 2, "warnings": 0}
    negative = next(one for one in findings["expectations"] if one["meaning"] == "a weight is not negative")
    assert negative == {
        "table": "weights",
        "expectation": "expect_column_values_to_be_between",
        "column": "kilograms",
        "meaning": "a weight is not negative",
        "severity": "critical",
        "success": False,
        "observed": "1 of 3 rows",
        "unexpected_count": 1,
        "unexpected_rows": [{"row": {"name": "n1", "visit": 1}, "value": -3.0}],
    }
    page = (tmp_path / "weigh-all.html").read_text()
    assert "n1 visit 1 (-3)" in page
    assert "a weight is not negative" in page


def test_a_warning_is_said_and_lets_the_stage_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("weigh", "all", {"weights": weights(70, 300)}, tmp_path)
    assert re.search(r"warning +weights +a weight is ordinary +n1 visit 1 \(300\)", capsys.readouterr().err)
    (findings,) = read_findings(tmp_path)
    assert findings["success"] is True
    assert findings["summary"] == {"expectations": 7, "passed": 6, "failed": 0, "warnings": 1}
    check("weigh", "heavy", {"weights": weights(70, 300)}, tmp_path, most=400)
    assert read_findings(tmp_path)[1]["summary"]["warnings"] == 0


def test_the_same_tables_leave_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        with pytest.raises(GateError):
            check("weigh", "all", {"weights": weights(1, None, -2)}, tmp_path / folder)
    for suffix in ("json", "html"):
        one, two = ((tmp_path / folder / f"weigh-all.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two


def test_the_page_needs_nothing_from_the_network(tmp_path: Path) -> None:
    with pytest.raises(GateError):
        check("weigh", "all", {"weights": weights(1, None, -2).assign(name=["<b>", "n", "n"])}, tmp_path)
    page = (tmp_path / "weigh-all.html").read_text()
    assert not re.search(r"https?://|<script|<link|<img|url\(", page)
    assert "<b>" not in page


def test_a_value_that_json_lacks_is_still_written(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"n0 visit 1 \(-infinity\)"):
        check("weigh", "all", {"weights": weights(float("-inf"), 1)}, tmp_path)
    text = (tmp_path / "weigh-all.json").read_text()
    assert not re.search(r"NaN|Infinity", text)
    assert json.loads(text)["success"] is False


def test_a_column_of_the_wrong_kind_fails_instead_of_raising(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="a weight is"):
        check("weigh", "all", {"weights": weights(1, 2).assign(kilograms=["light", "heavy"])}, tmp_path)


def test_many_offenders_are_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"n0 visit 1 \(-1\); n1 visit 1 \(-1\); n2 visit 1 \(-1\); and 4997 more"):
        check("weigh", "all", {"weights": weights(*[-1.0] * 5000)}, tmp_path)
    (findings,) = read_findings(tmp_path)
    negative = next(one for one in findings["expectations"] if not one["success"])
    assert negative["unexpected_count"] == 5000
    assert len(negative["unexpected_rows"]) == 50
    assert (tmp_path / "weigh-all.html").stat().st_size < 100_000


def test_suites_can_be_read_without_the_engine() -> None:
    import subprocess

    code = "import sys, echolung.gates.gate; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
