"""What `echolung doctor` finds, and how it says it"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from echolung.core.errors import EcholungError

Level = Literal["ok", "warning", "missing"]
COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "missing": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `missing` and `blocks` together mean that the study cannot run; without `blocks`, that something else cannot.
    """

    group: str
    """Where it stands in the table: machine, project, study <name>, ..."""
    subject: str
    level: Level
    said: str
    """What is so, in one line."""
    remedy: str = ""
    """What to do about it; "" where nothing need be done."""
    blocks: bool = False

    @property
    def stops(self) -> bool:
        """Whether the study cannot run because of it."""
        return self.blocks and self.level == "missing"


def wrong(group: str, subject: str, error: EcholungError, blocks: bool = False) -> Finding:
    """A typed error as a finding."""
    return Finding(group, subject, "missing", error.problem, error.remedy, blocks)


@dataclass(frozen=True)
class Examination:
    """Everything that was found about one study on this machine."""

    study: str
    """"" where the parameters do not say."""
    findings: list[Finding]
    duration: dict[str, Any] | None = None
    """Expected seconds in all (`seconds`) and by kind of work (`parts`), and what they were made from (`of`)."""
    running: str = ""
    """What is at work on this very study; "" if nothing is."""

    @property
    def can_run(self) -> bool:
        return not any(finding.stops for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """For programs: what JSON can hold."""
        findings = [asdict(finding) for finding in self.findings]
        return {
            "study": self.study,
            "can_run": self.can_run,
            "running": self.running,
            "findings": findings,
            "duration": self.duration,
        }

    def verdict(self) -> str:
        """The last line: whether it runs or can run, and what to begin with if not."""
        stops = [finding for finding in self.findings if finding.stops]
        name = f"The study {self.study}" if self.study else "The study"
        things = "one thing is" if len(stops) == 1 else f"{len(stops)} things are"
        missing = f"{things} missing, the first of them {stops[0].subject}." if stops else "nothing is missing."
        if self.running:
            return f"{name} is running ({self.running}): {missing}"
        if stops:
            return f"{name} cannot run yet: {missing}"
        warnings = sum(finding.level == "warning" for finding in self.findings)
        return f"{name} can run." + (f" Warnings: {warnings}." if warnings else "")


def show(examination: Examination) -> None:
    """Print the findings as a table, coloured on a terminal, and the verdict below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    group = ""
    for finding in examination.findings:
        if finding.group != group:
            group = finding.group
            table.add_row(Text(""), Text(group, style="bold"), Text(""))
        said = Text(finding.said)
        if finding.remedy:
            said.append(f"\n{finding.remedy}", style="dim" if finding.level == "ok" else "bold")
        table.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(f"  {finding.subject}"), said)
    console = Console()
    console.print(table)
    console.print()
    console.print(Text(examination.verdict(), style="bold green" if examination.can_run else "bold red"))
