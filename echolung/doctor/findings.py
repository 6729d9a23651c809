"""What `echolung doctor` found"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check; with an error the study cannot run."""

    subject: str
    level: Literal["ok", "warning", "error"]
    said: str  # one line
    remedy: str = ""  # what to do, with the line to type; "" where nothing needs to be done


def verdict(study: str, findings: list[Finding]) -> tuple[bool, str]:
    """Whether the study ("" if its parameters cannot be read) can run, and the last line, which says what to fix."""
    name = f"Study {study}" if study else "The study"
    if errors := [finding.subject for finding in findings if finding.level == "error"]:
        return False, f"{name} cannot run yet. To fix: {', '.join(dict.fromkeys(errors))}."
    warnings = sum(finding.level == "warning" for finding in findings)
    return True, f"{name} can run." + (f" Warnings: {warnings}." if warnings else "")
