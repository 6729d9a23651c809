"""The gate itself: what it writes, what it prints, what stops a stage."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import GateError
from echolung.gates.gate import check, read_findings
from echolung.gates.suites import SUITES, Between, Suite, Table, UniqueTogether, filled, true


@pytest.fixture(autouse=True)
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite with one table of weights: a weight is there, is not negative, and is better below 100."""

    def expect(tables: dict[str, pd.DataFrame], most: float = 100) -> list[Table]:
        rows = tables["weights"].assign(short=tables["weights"]["name"].str.len() < 10)
        expectations = [
            *filled("kg"),
            Between(column="kg", min_value=0, description="a weight is not negative"),
            Between(column="kg", max_value=most, description="a weight is ordinary", severity="warning"),
            UniqueTogether(column_list=["name", "visit"], description="a visit appears once"),
            true("short", "a name is short"),
        ]
        return [Table("weights", rows, ["name", "visit"], expectations)]

    monkeypatch.setitem(SUITES, "weigh", Suite({"weights": ["name", "visit", "kg"]}, expect, "Weigh again."))


def weights(*kg: float | str | None) -> dict[str, pd.DataFrame]:
    return {"weights": pd.DataFrame({"name": [f"n{i}" for i in range(len(kg))], "visit": 1, "kg": kg})}


def test_a_failure_names_rows_in_error_terminal_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GateError) as caught:
        check("weigh", "all", weights(70, -3, None), tmp_path)
    first = "weights: expected: kg is not empty; found: n2 visit 1 (1 more expectations failed)"
    assert caught.value.problem == f"gate weigh-all failed: {first}"
    assert caught.value.remedy == f"Weigh again. All findings: {tmp_path / 'weigh-all.json'}"
    second = "critical: weights: expected: a weight is not negative; found: n1 visit 1 (-3)\n"
    assert capsys.readouterr().err == second  # the first one is in the error
    (findings,) = read_findings(tmp_path)
    assert not findings["success"]
    assert findings["summary"] == {"expectations": 7, "passed": 5, "failed": 2, "warnings": 0}
    negative = next(one for one in findings["expectations"] if one["meaning"] == "a weight is not negative")
    found = {name: negative[name] for name in ("table", "severity", "success", "observed", "unexpected_rows")}
    assert list(found.values()) == ["weights", "critical", False, "1 of 3 rows", ["n1 visit 1 (-3)"]]


def test_a_warning_is_printed_and_the_stage_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("weigh", "all", weights(70, 300), tmp_path / "new" / "folder")
    assert capsys.readouterr().err == "warning: weights: expected: a weight is ordinary; found: n1 visit 1 (300)\n"
    check("weigh", "heavy", weights(70, 300), tmp_path / "new" / "folder", most=400)
    assert capsys.readouterr() == ("", "")
    warned, clean = read_findings(tmp_path / "new" / "folder")
    assert (warned["stage"], warned["key"], warned["success"], warned["rows"]) == ("weigh", "all", True, {"weights": 2})
    assert warned["summary"] == {"expectations": 7, "passed": 6, "failed": 0, "warnings": 1}
    meanings = [one["meaning"] for one in clean["expectations"] if one["success"]]
    assert len(meanings) == 7 and meanings[:3] == ["has rows", "has the columns name, visit, kg", "kg is not empty"]


def test_the_gate_is_imported_without_the_engine() -> None:
    code = "import sys, echolung.gates.gate; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
