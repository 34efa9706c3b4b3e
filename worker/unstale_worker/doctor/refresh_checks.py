"""Examines the loaders that ``[refresh]`` names, as the worker does when it begins to lead."""

from collections.abc import AsyncIterator

from unstale_worker.doctor.findings import Finding, error, ok, warning
from unstale_worker.refresh.python.find_loaders import mistakes
from unstale_worker.refresh.sql.sql_loading import check
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.sources.postgres_connections import PostgresConnections

SUBJECT = "refreshes"


async def functions(rules: Rules) -> AsyncIterator[Finding]:
    """Python loaders: whether they are found here, where a leader calls them if no refresh worker does."""
    missing = mistakes(rules)
    for mistake in missing:
        yield warning(SUBJECT, str(mistake), "Or run `unstale worker --role refresh` where it is found.")
    specs = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
    if specs and not missing:
        yield ok(SUBJECT, f"{len(specs)} loaded by functions that are found here")


async def without_connection(rules: Rules) -> AsyncIterator[Finding]:
    """Row and SQL loaders where there is HTTPS only: nobody runs them."""
    lines = [
        f"{spec.template.text} (line {spec.line})"
        for spec in rules.refreshes
        if not isinstance(spec.loader, PythonLoader)
    ]
    if lines:
        yield warning(
            SUBJECT,
            f"row and sql loaders need a connection; without, these are only invalidated: {', '.join(lines)}",
            "Give the worker DATABASE_URL as well, or load them by a function of your own.",
        )


async def queries(connections: PostgresConnections, rules: Rules) -> AsyncIterator[Finding]:
    """Row and SQL loaders, each run once for no key."""
    specs = [spec for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader)]
    if not specs:
        return
    failed = 0
    sessions = Sessions(connections, name="doctor", most=1)
    try:
        async with sessions.session() as (connection, statements):
            for spec in specs:
                if problem := await check(connection, statements, spec):
                    failed += 1
                    yield error(
                        SUBJECT, f"{rules.file}, {problem}", "Until then its keys are only invalidated."
                    )
    finally:
        await sessions.close()
    if not failed:
        yield ok(SUBJECT, f"{len(specs)} run by the worker, and no policy hides rows from them")
