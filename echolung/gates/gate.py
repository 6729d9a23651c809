"""The gate at the end of every stage: runs the stage's suite and stops the stage if a critical expectation fails.

`check` always writes <stage>-<key>.json (read it with `read_findings`). A failed warning is printed and the stage goes
on. A failed critical expectation raises GateError, so the stage writes no output and nothing downstream runs.
Great Expectations takes 3 seconds to import, so it is imported inside `check`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from echolung.core.errors import GateError
from echolung.core.runtime import read_json, write_json

if TYPE_CHECKING:
    from echolung.gates.suites import Table

KEPT_ROWS = 50  # offending rows kept per expectation in the findings; `unexpected_count` counts all of them
PRINTED_ROWS = 8


def check(stage: str, key: str, tables: Mapping[str, pd.DataFrame], directory: Path, **facts: Any) -> None:
    """Run the suite SUITES[stage] on `tables`; `facts` are the suite's own keyword arguments.

    Writes <directory>/<stage>-<key>.json. Raises GateError naming the first failed critical expectation and its rows.
    """
    from echolung.gates.suites import SUITES

    suite = SUITES[stage]
    found = _validate(suite.tables(tables, **facts))
    failed = [one for one in found if not one["success"] and one["severity"] == "critical"]
    warned = [one for one in found if not one["success"] and one["severity"] != "critical"]
    passed = sum(one["success"] for one in found)
    findings = {
        "stage": stage,
        "key": key,
        "success": not failed,
        "summary": {"expectations": len(found), "passed": passed, "failed": len(failed), "warnings": len(warned)},
        "rows": {name: len(tables[name]) for name in suite.columns},
        "expectations": found,
    }
    path = directory / f"{stage}-{key}.json"
    write_json(path, findings)
    for one in [*warned, *failed[1:]]:
        print(f"{one['severity']}: {_sentence(one)}", file=sys.stderr)
    if failed:
        more = f" ({len(failed) - 1} more expectations failed)" if len(failed) > 1 else ""
        problem = f"gate {stage}-{key} failed: {_sentence(failed[0])}{more}"
        raise GateError(problem, f"{suite.remedy} All findings: {path}")


def read_findings(directory: Path) -> list[dict[str, Any]]:
    """The findings of all gates in a directory, sorted by file name; raises DataError for a damaged file.

    Each: stage, key, success, summary {expectations, passed, failed, warnings}, rows {table: count} and expectations
    [{table, expectation, meaning, severity, success, observed, unexpected_count, unexpected_rows [text]}].
    """
    return [read_json(path) for path in sorted(directory.glob("*.json"))]


def _validate(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Validate each table; returns one finding per expectation, in the order of the suite."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source, found = context.data_sources.pandas_default, []
    for table in tables:
        batch = source.read_dataframe(table.rows.reset_index(drop=True))
        report = {"result_format": "COMPLETE", "unexpected_index_column_names": list(table.identity)}
        for expectation in table.expectations:
            found.append(_finding(table, expectation, batch.validate(expectation, result_format=report)))
    return found


def _finding(table: Table, expectation: Any, outcome: Any) -> dict[str, Any]:
    """One result, without the ids and times that change from run to run."""
    result, column = outcome.result or {}, getattr(expectation, "column", None)
    rows = (result.get("unexpected_index_list") or [])[:KEPT_ROWS]
    return {
        "table": table.name,
        "expectation": expectation.expectation_type,
        "meaning": expectation.description,
        "severity": str(expectation.severity.value),
        "success": bool(outcome.success),
        "observed": _observed(result, outcome.exception_info or {}),
        "unexpected_count": int(result.get("unexpected_count", 0)),
        "unexpected_rows": [_row(row, table.identity, column) for row in rows],
    }


def _observed(result: Mapping[str, Any], exceptions: Mapping[str, Any]) -> str:
    """What the engine saw: missing columns, a count, or its own exception (text compared with a number, say)."""
    for one in exceptions.values():
        if isinstance(one, Mapping) and one.get("raised_exception"):
            return str(one.get("exception_message"))
    if "mismatched" in result.get("details", {}):
        return f"missing: {', '.join(result['details']['mismatched'].get('missing', []))}"
    if "unexpected_count" in result:
        return f"{result['unexpected_count']} of {result['element_count']} rows"
    return str(result.get("observed_value"))


def _row(row: Mapping[str, Any], identity: Sequence[str], column: str | None) -> str:
    """The name of a row, then the offending value: `jepa fold 1 pocus/p03 (0.4)`."""
    name = " ".join(f"{key} {row[key]}" if pd.api.types.is_integer(row[key]) else str(row[key]) for key in identity)
    value = None if column in identity else row.get(column or "")
    if pd.isna(value) or pd.api.types.is_bool(value):
        return name
    text = f"{value:.4g}" if pd.api.types.is_float(value) else " ".join(str(value).split())
    return f"{name} ({text if len(text) <= 120 else text[:117] + '...'})"


def _sentence(finding: Mapping[str, Any]) -> str:
    """What was expected, and the rows that violate it, or what was observed where it is not about single rows."""
    rows = finding["unexpected_rows"][:PRINTED_ROWS]
    rest = finding["unexpected_count"] - len(rows)
    found = "; ".join(rows) + (f"; and {rest} more" if rest else "") if rows else str(finding["observed"])
    return f"{finding['table']}: expected: {finding['meaning']}; found: {found}"
