"""The gate that closes every stage: its suite is run by Great Expectations on what the stage is about to hand on.

Whether it passes or fails, `check` leaves <stage>-<key>.json (for programs: `read_findings`) and .html (for people). A
critical expectation that fails is printed with the rows that break it and raised as GateError, so that the stage
writes nothing and nothing downstream can run; a failed warning is printed, and the stage goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from echolung.core.errors import GateError
from echolung.core.runtime import atomic_path, read_json, write_json
from echolung.gates.expectations import Expectation, Judged, Suite, has_columns, has_rows
from echolung.gates.suites import SUITES

MOST_ROWS = 50
"""Offending rows kept per expectation; `unexpected_count` counts them all."""
PRINTED_ROWS = 8


def check(stage: str, key: str, tables: Mapping[str, pd.DataFrame], directory: Path, **facts: Any) -> None:
    """Judge a stage's `tables` by its suite in SUITES; `facts` are what the suite must know beside them.

    Writes <directory>/<stage>-<key>.json and .html; raises GateError naming the first failed expectation and its rows.
    """
    suite = SUITES[stage]
    sound = all(len(tables[name]) and set(columns) <= set(tables[name]) for name, columns in suite.columns.items())
    judged = suite.judge(tables, **facts) if sound else []  # without rows or columns there is nothing more to judge
    found, sections = _run(_structure_first(suite, tables, judged))
    failed = [one for one in found if not one["success"] and one["severity"] == "critical"]
    warned = [one for one in found if not one["success"] and one["severity"] != "critical"]
    findings = {
        "stage": stage,
        "key": key,
        "success": not failed,
        "summary": {
            "expectations": len(found),
            "passed": len(found) - len(failed) - len(warned),
            "failed": len(failed),
            "warnings": len(warned),
        },
        "rows": {name: len(tables[name]) for name in suite.columns},
        "expectations": found,
    }
    write_json(directory / f"{stage}-{key}.json", findings)
    page = directory / f"{stage}-{key}.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(findings, sections), encoding="utf-8")
    if failed or warned:
        print(table(failed + warned), file=sys.stderr)
    if failed:
        first = failed[0]
        others = f" ({len(failed) - 1} more expectations failed)" if len(failed) > 1 else ""
        raise GateError(
            f"gate {stage}-{key}: {first['table']}: not true that {first['meaning']}: {_offenders(first, 3)}{others}",
            f"{suite.remedy} All findings: {page}",
        )


def _structure_first(suite: Suite, tables: Mapping[str, pd.DataFrame], judged: list[Judged]) -> list[Judged]:
    """The tables to judge, each of the stage's own with its rows and columns as the first expectations."""
    others = {one.name: one for one in judged}
    first = []
    for name, columns in suite.columns.items():
        one = others.pop(name, Judged(name, tables[name], (), []))
        first.append(dataclasses.replace(one, expectations=[has_rows(), has_columns(columns), *one.expectations]))
    return first + list(others.values())


def read_findings(directory: Path) -> list[dict[str, Any]]:
    """Everything the gates left in a directory, sorted by file name.

    Each: stage, key, success, summary {expectations, passed, failed, warnings}, rows {table: count} and expectations
    [{table, expectation, column, meaning, severity, success, observed, unexpected_count, unexpected_rows [{...}]}].
    Raises DataError for a damaged file.
    """
    return [read_json(path) for path in sorted(directory.glob("*.json"))]


def table(found: list[dict[str, Any]]) -> str:
    """Failed expectations as a table for a terminal, the offending rows last."""
    heads = ("severity", "table", "not true that", "rows")
    cells = [(one["severity"], one["table"], one["meaning"], _offenders(one, PRINTED_ROWS)) for one in found]
    widths = [max(len(row[column]) for row in [heads, *cells]) for column in range(3)]
    rows = [heads, tuple("-" * width for width in [*widths, len(heads[3])]), *cells]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows)


def _offenders(one: Mapping[str, Any], most: int) -> str:
    """The rows that break an expectation, or what was observed where it speaks of no single row."""
    if not one["unexpected_rows"]:
        return str(one["observed"])
    texts = [_row(row) for row in one["unexpected_rows"][:most]]
    rest = one["unexpected_count"] - len(texts)
    return "; ".join(texts) + (f"; and {rest} more" if rest else "")


def _row(row: Mapping[str, Any]) -> str:
    """`a/b (frames 1)`: what names the row, then the offending value."""
    names, value = row["row"], row["value"]
    name = " ".join(
        str(part) if len(names) == 1 or not isinstance(part, int) else f"{column} {part}"
        for column, part in names.items()
    )
    return name if value is None or value is False or not names else f"{name} ({_short(value)})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _run(judged: list[Judged]) -> tuple[list[dict[str, Any]], list[str]]:
    """Validate each table; returns the findings in the suite's order, and a section of HTML per table."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("stage")
    found, sections = [], []
    for number, one in enumerate(judged):
        name = f"{number} {one.name}"
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        wanted = [_as_gx(expectation, position) for position, expectation in enumerate(one.expectations)]
        suite = context.suites.add(gx.ExpectationSuite(name, expectations=wanted))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        result = definition.run(
            batch_parameters={"dataframe": one.rows.reset_index(drop=True)},
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": list(one.identity),
                "partial_unexpected_count": MOST_ROWS,
            },
        )
        result.results.sort(key=lambda entry: entry.expectation_config.meta["position"])
        found += [_finding(one, *pair) for pair in zip(one.expectations, result.results, strict=True)]
        sections.append(_section(one, result))
    return found, sections


def _great_expectations() -> Any:
    """Imported on use (3 s), with its usage reports off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    import great_expectations

    return great_expectations


def _as_gx(expectation: Expectation, position: int) -> Any:
    """The engine's own object; `position` finds the expectation among the results, which come in any order."""
    from great_expectations.expectations.registry import get_expectation_impl

    return get_expectation_impl(expectation.kind)(
        **expectation.arguments,
        description=expectation.meaning + (" (a warning only)" if expectation.severity == "warning" else ""),
        severity=expectation.severity,
        meta={"position": position},
    )


def _finding(judged: Judged, expectation: Expectation, entry: Any) -> dict[str, Any]:
    """One result without what changes from run to run (ids, times)."""
    result = entry.result or {}
    column = expectation.arguments.get("column") or ", ".join(expectation.arguments.get("column_list", ()))
    unexpected = result.get("unexpected_index_list") or []
    rows = [
        {
            "row": {name: _plain(row[name]) for name in judged.identity if name in row},
            "value": None if column in judged.identity else _plain(row.get(column)),
        }
        for row in unexpected[:MOST_ROWS]
        if isinstance(row, Mapping)
    ]
    raised = [one for one in _exceptions(entry.exception_info) if one]
    observed = result.get("observed_value")
    if observed is None and "unexpected_count" in result:
        observed = f"{result['unexpected_count']} of {result['element_count']} rows"
    if expectation.kind == "expect_table_columns_to_match_set":
        missing = [name for name in expectation.arguments["column_set"] if name not in judged.rows.columns]
        observed = f"missing: {', '.join(missing)}" if missing else "all"
    return {
        "table": judged.name,
        "expectation": expectation.kind,
        "column": column or None,
        "meaning": expectation.meaning,
        "severity": expectation.severity,
        "success": bool(entry.success),
        "observed": raised[0] if raised else _plain(observed),
        "unexpected_count": int(result.get("unexpected_count", 0)),
        "unexpected_rows": rows,
    }


def _exceptions(info: Mapping[str, Any] | None) -> Iterator[str]:
    """Messages of what went wrong inside the engine (a column of text compared with a number, say)."""
    for one in [info, *(info or {}).values()]:
        if isinstance(one, Mapping) and one.get("raised_exception"):
            yield str(one.get("exception_message"))


def _plain(value: Any) -> Any:
    """A value as JSON knows it: missing and not-a-number are null, infinities text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, float) and np.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return value if isinstance(value, str | int | float | bool) else str(value)


@functools.cache
def _view() -> Any:
    """It compiles its templates on first use."""
    from great_expectations.render.view import DefaultJinjaSectionView

    return DefaultJinjaSectionView()


def _section(judged: Judged, result: Any) -> str:
    """The engine's own rendering of one table's results, less the parts that change from run to run."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    for entry in result.results:
        entry.result.pop("unexpected_index_query", None)
    _, *sections = ValidationResultsPageRenderer().render(result).sections  # the first tells run ids and times
    parts = [
        _view().render({"section": section.to_json_dict(), "section_loop": {"index": f"{judged.name}-{number}"}})
        for number, section in enumerate(sections)
    ]
    return f"<h2>{html.escape(judged.name)} <small>{len(judged.rows)} rows</small></h2>{''.join(parts)}"


def _page(findings: Mapping[str, Any], sections: list[str]) -> str:
    """One page that needs nothing from the network."""
    title = html.escape(f"{findings['stage']} {findings['key']}")
    verdict = "passed" if findings["success"] else "failed"
    counts = ", ".join(f"{count} {name}" for name, count in findings["summary"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Gate {title}: {verdict}</title>'
        f'<style>{STYLE}</style></head><body><h1>{title} <span class="{verdict}">{verdict}</span></h1>'
        f"<p>{counts}</p>{_summary(findings)}{''.join(sections)}</body></html>\n"
    )


def _summary(findings: Mapping[str, Any]) -> str:
    """What failed, at the top of the page."""
    cells = [
        (one["severity"], one["table"], one["meaning"], _offenders(one, MOST_ROWS))
        for one in findings["expectations"]
        if not one["success"]
    ]
    heads = ("Severity", "Table", "Not true that", "Rows")
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells]
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin:2.5rem 0 0;border-bottom:2px solid #888}h5{font-size:1rem;margin:1.2rem 0 .2rem}small{color:#666}
.passed,.text-success{color:#187a2f}.failed,.text-danger{color:#b3261e}.text-warning{color:#9a6700}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.25rem .6rem}
tr{border-bottom:1px solid #ddd}th{color:#666;font-weight:600}td table{width:auto;margin:.4rem 0;font-size:.9em}
.badge{background:#eee;border-radius:.25rem;padding:0 .3rem}i{font-style:normal;font-weight:700}
.fa-check-circle::before{content:"\\2713"}.fa-times::before{content:"\\2717"}
.fa-exclamation-triangle::before{content:"!"}
"""
