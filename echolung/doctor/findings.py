"""What `echolung doctor` found"""

from dataclasses import dataclass
from typing import Literal

from echolung.core.errors import EcholungError

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check; with an error the study cannot run."""

    subject: str
    level: Level
    said: str
    """One line."""
    remedy: str = ""
    """What to do, with the line to type; "" where nothing needs to be done."""


def failed(subject: str, error: EcholungError) -> Finding:
    """A typed error as a finding."""
    return Finding(subject, "error", error.problem, error.remedy)


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
