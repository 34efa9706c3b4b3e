"""Check that rules watch what loaders were seen to read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from unstale_worker.doctor.findings import Finding, Severity, ok, warning
from unstale_worker.learn.report import learn, read_recording
from unstale_worker.rules import Rules

SUBJECT: Final = "loaders"
RECORD: Final = "Record with `unstale learn -- COMMAND`, where COMMAND runs your tests or your application."


async def missing(rules: Rules, recording: Path) -> AsyncIterator[Finding]:
    """Compare a recording of `unstale learn` with the rules."""
    found = learn(rules, read_recording(recording))
    for each in found.missing:
        yield warning(
            SUBJECT,
            str(each),
            f"Add this to {rules.file}, or leave it out with [learn] (docs/rules.md):\n{each.toml}",
        )
    for left in found.columns:
        remedy = f"{left.remedy[0].upper()}{left.remedy[1:]} (docs/learn.md)."
        yield Finding(Severity.INFO, SUBJECT, f"column left out: {left}", remedy)
    for doubt in found.doubts:
        yield Finding(Severity.INFO, SUBJECT, f"not followed: {doubt}", "Check by hand that rules watch it.")
    if not found.statements:
        yield warning(SUBJECT, f"{recording} has no statement of a loader", RECORD)
    elif not found.missing:
        yield ok(SUBJECT, f"rules watch every table that {found.statements} recorded statements read")
