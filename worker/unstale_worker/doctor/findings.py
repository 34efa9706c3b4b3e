"""What a check says, and how a check that cannot run says that."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

from unstale_worker.runtime.logs import without_passwords


class Severity(StrEnum):
    """How bad it is; in rising order."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: ``ok``, ``info``, ``warning`` (it works, with a drawback) or ``error`` (it does not work).
        subject: What was looked at.
        finding: What was seen.
        remedy: What to do about it; empty when all is well.
    """

    severity: Severity
    subject: str
    finding: str
    remedy: str = ""


def ok(subject: str, finding: str) -> Finding:
    """All is well."""
    return Finding(Severity.OK, subject, finding)


def warning(subject: str, finding: str, remedy: str) -> Finding:
    """It works, with a drawback."""
    return Finding(Severity.WARNING, subject, finding, remedy)


def error(subject: str, finding: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Severity.ERROR, subject, finding, remedy)


Check = Callable[[], AsyncIterator[Finding]]


async def collected(subject: str, check: Check, *, remedy: str) -> list[Finding]:
    """All findings of ``check``; one that fails becomes a finding itself, after those it had made."""
    findings: list[Finding] = []
    try:
        async for finding in check():
            findings.append(finding)
    except Exception as failure:
        text = without_passwords(str(failure)) or type(failure).__name__
        findings.append(error(subject, f"could not be checked: {text}", remedy))
    return findings
