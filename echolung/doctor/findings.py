"""What `echolung doctor` found, and how it is printed"""

from dataclasses import dataclass
from typing import Literal

from echolung.core.errors import EcholungError

Level = Literal["ok", "warning", "error"]
COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check; with an error the study cannot run."""

    group: str
    """machine, project, or study <name>."""
    subject: str
    level: Level
    said: str
    """One line."""
    remedy: str = ""
    """What to do, with the line to type; "" where nothing needs to be done."""


def failed(group: str, subject: str, error: EcholungError, level: Level = "error") -> Finding:
    """A typed error as a finding."""
    return Finding(group, subject, level, error.problem, error.remedy)


@dataclass(frozen=True)
class Examination:
    """All findings about one study on this machine."""

    study: str
    """"" if the parameters cannot be read."""
    findings: list[Finding]

    @property
    def can_run(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    def verdict(self) -> str:
        """The last line: whether the study can run, and what to fix first if not."""
        name = f"Study {self.study}" if self.study else "The study"
        errors = [finding.subject for finding in self.findings if finding.level == "error"]
        if errors:
            return f"{name} cannot run yet. To fix: {', '.join(dict.fromkeys(errors))}."
        warnings = sum(finding.level == "warning" for finding in self.findings)
        return f"{name} can run." + (f" Warnings: {warnings}." if warnings else "")


def show(examination: Examination) -> None:
    """Print the findings as a table, coloured on a terminal, and the verdict below it."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
    group = ""
    for finding in examination.findings:
        if finding.group != group:
            group = finding.group
            table.add_row("", Text(group, style="bold"), "")
        said = Text(finding.said)
        if finding.remedy:
            said.append(f"\n{finding.remedy}", style="dim" if finding.level == "ok" else "bold")
        table.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(f"  {finding.subject}"), said)
    console = Console(highlight=False)
    console.print(table, "")
    console.print(Text(examination.verdict(), style="bold green" if examination.can_run else "bold red"))
