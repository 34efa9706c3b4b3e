"""Findings of a check, including the failure of the check itself."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from unstale.errors import ConfigurationError, UnstaleError
from unstale_worker.runtime.logs import without_passwords


class Severity(StrEnum):
    """Severity of a finding, in rising order."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes:
        severity: ``ok``, ``info``, ``warning`` (it works, with a drawback) or ``error`` (it does not work).
        subject: The checked part.
        finding: The result.
        remedy: The remedy; empty if there is no problem.
    """

    severity: Severity
    subject: str
    finding: str
    remedy: str = ""


def ok(subject: str, finding: str) -> Finding:
    """Create a finding: it works."""
    return Finding(Severity.OK, subject, finding)


def warning(subject: str, finding: str, remedy: str) -> Finding:
    """Create a finding: it works, with a drawback."""
    return Finding(Severity.WARNING, subject, finding, remedy)


def error(subject: str, finding: str, remedy: str) -> Finding:
    """Create a finding: it does not work."""
    return Finding(Severity.ERROR, subject, finding, remedy)


def error_of(subject: str, failure: UnstaleError, otherwise: str) -> Finding:
    """Create a finding of an error whose text ends with its remedy; with ``otherwise`` if it has none.

    The remedy stands behind the last semicolon, or in the sentences after the first one. That a worker tries
    again is no remedy.
    """
    text = without_passwords(str(failure))
    problem, found, remedy = text.rpartition("; ")
    if not found:
        problem, found, remedy = text.partition(". ")
    if not found or remedy.startswith("the worker "):
        return error(subject, problem, otherwise)
    return error(subject, problem, f"{remedy[0].upper()}{remedy[1:].rstrip('.')}.")


Check = Callable[[], AsyncIterator[Finding]]


async def collected(subject: str, check: Check, *, remedy: str) -> list[Finding]:
    """Return the findings of ``check``; its failure becomes another finding at the end."""
    findings: list[Finding] = []
    try:
        async for finding in check():
            findings.append(finding)
    except ConfigurationError as failure:
        found = error_of(subject, failure, remedy)
        findings.append(replace(found, finding=f"the check failed: {found.finding}"))
    except Exception as failure:
        text = without_passwords(str(failure)) or type(failure).__name__
        findings.append(error(subject, f"the check failed: {text}", remedy))
    return findings
